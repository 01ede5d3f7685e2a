"""The cross-entropy of a linear layer without its logits, as `torch.nn.functional.linear_cross_entropy` names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from softmaxloss.core import checks
from softmaxloss.head.linear import is_sampled
from softmaxloss.torch import head, operators
from softmaxloss.torch.arguments import check_tensors, is_plain, row_options
from softmaxloss.torch.by_arrays import logits_of
from softmaxloss.torch.errors import TensorValueError, in_words_of_torch
from softmaxloss.torch.functional import cross_entropy_of
from softmaxloss.torch.storage import loss_dtype

if TYPE_CHECKING:
    from softmaxloss.head import Sampled


@in_words_of_torch
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    sample_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    normalizer: float | Tensor | None = None,
    max_memory: int | str | None = None,
    backward: str | Sampled = "exact",
) -> Tensor:
    """Return ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` without storing the logits.

    The forward pass already computes the gradients, some rows at a time. With reduction "none" the backward pass
    computes them. Only required gradients are computed, so a frozen head saves one matrix product. All logits are
    stored only in these cases: for second derivatives, under the transforms of `torch.func`, in traces, in compiled
    graphs of other devices than the CPU, if targets or options require gradients, and if `linear_weight` has more than
    two dimensions.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer.
    linear_weight : Tensor, shape (C, D), or (C, d1, ..., dK, D) with input of shape (N, D)
        One row per class. With more than two dimensions all logits are stored.
    target, weight, reduction, ignore_index, label_smoothing, sample_weight, class_mask, z_loss, softcap, temperature, \
normalizer
        As in `cross_entropy`. If targets are class indices, an `ignore_index` of None means -100.
    linear_bias : Tensor of the shape of `linear_weight` without D, optional
    options : optional
        Accepted for compatibility with PyTorch, and ignored; use `max_memory`.
    max_memory : int or str, optional
        Memory for everything besides inputs and results, in bytes or as text such as "64MiB". By default the function
        chooses it on a CPU, and takes 256 MiB elsewhere.
    backward : "exact" or softmaxloss.Sampled, default "exact"
        With ``Sampled(threshold, seed)`` the gradients are random and take less time. Their mean is the exact gradient.
        This has an effect only on a CPU.

    Returns
    -------
    Tensor
        float64 if `input` is float64, else float32.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import linear_cross_entropy
    >>> features, head = torch.tensor([[1.0, 2.0]]), torch.nn.Linear(2, 50_000)
    >>> loss = linear_cross_entropy(features, head.weight, torch.tensor([7]), linear_bias=head.bias)
    >>> loss.backward()
    >>> head.weight.grad.shape
    torch.Size([50000, 2])
    """
    tensors = (input, linear_weight, target, linear_bias, weight, sample_weight, class_mask, normalizer)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_cross_entropy,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
            sample_weight=sample_weight,
            class_mask=class_mask,
            z_loss=z_loss,
            softcap=softcap,
            temperature=temperature,
            normalizer=normalizer,
            max_memory=max_memory,
            backward=backward,
        )
    floats = {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}
    others = {"target": target, "weight": weight, "sample_weight": sample_weight, "class_mask": class_mask}
    check_tensors(floats, others)
    asked = row_options(
        target,
        class_weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        class_mask=class_mask,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        normalizer=normalizer,
    )
    check_shapes(input, linear_weight, linear_bias)
    if max_memory is not None:
        checks.memory("max_memory", max_memory)
    is_sampled(backward)
    more = {"max_memory": max_memory, "backward": backward}
    layer = (input, linear_weight, linear_bias)
    compiling = torch.compiler.is_compiling()
    if linear_weight.dim() > 2 or not is_plain(layer, (target, *asked.values())) or (compiling and not input.is_cpu):
        return cross_entropy_of(logits_of(*layer), target, input.dim() - 1, asked).to(loss_dtype(input.dtype))
    if compiling:
        return operators.linear_cross_entropy(layer, target, asked, more)
    return head.linear_cross_entropy(layer, target, asked, more)


def check_shapes(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuse input, weight and bias if their shapes do not fit together as a linear layer."""
    if weight.dim() < 2:
        raise TensorValueError(
            f"linear_weight must have shape (C, D) or (C, d1, ..., dK, D), got {checks.of_shape(weight)}"
        )
    if weight.shape[0] == 0 and input.numel() > 0:
        raise TensorValueError(f"linear_weight must have at least one class, got {checks.of_shape(weight)}")
    if input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise TensorValueError(
            f"input must have shape (..., {weight.shape[-1]}) to fit linear_weight, got {checks.of_shape(input)}; if "
            "the shape of linear_weight is (D, C), pass linear_weight.T"
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise TensorValueError(
            f"linear_bias must have one entry per class, shape {tuple(weight.shape[:-1])}, got {checks.of_shape(bias)}"
        )
