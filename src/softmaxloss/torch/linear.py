"""The cross-entropy of a linear layer without its logits, as `torch.nn.functional.linear_cross_entropy` names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import handle_torch_function, has_torch_function_variadic

from softmaxloss.torch import by_arrays, head, operators
from softmaxloss.torch.errors import in_words_of_torch
from softmaxloss.torch.functional import check_tensors, cross_entropy_of, ignored, is_plain, row_options

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
    """Return ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` without holding the logits.

    The gradients of input, weight and bias are made in the forward pass, some rows at a time, and only those that are
    asked for: a frozen head costs one product less.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer.
    linear_weight : Tensor, shape (C, D), or (C, d1, ..., dK, D) with input of shape (N, D)
        One row per class. With more dimensions than two the logits are held.
    target, weight, reduction, label_smoothing, sample_weight, class_mask, z_loss, softcap, temperature, normalizer
        As in `cross_entropy`.
    ignore_index : int, optional
        As in `cross_entropy`: -100 if not given.
    linear_bias : Tensor of the shape of `linear_weight` without D, optional
    options : optional
        Taken for the sake of PyTorch's signature, and not needed: `max_memory` says how many rows to take at a time.
    max_memory : int or str, optional
        Memory for everything besides inputs and results, in bytes or as text such as "64MiB".
    backward : "exact" or softmaxloss.Sampled, default "exact"
        With ``Sampled(threshold, seed)`` the gradients are random, with the exact ones as their mean, and cost less.

    Returns
    -------
    Tensor
        float64 for float64 inputs, else float32.

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
    tensors = (input, linear_weight, target, linear_bias, weight, sample_weight, class_mask)
    check_tensors(
        {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias},
        {"target": target, "weight": weight, "sample_weight": sample_weight, "class_mask": class_mask},
    )
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
    asked = row_options(
        class_weight=weight,
        reduction=reduction,
        ignore_index=ignored(ignore_index, is_label=target.dim() < input.dim() + linear_weight.dim() - 2),
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        class_mask=class_mask,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        normalizer=normalizer,
    )
    more = {"max_memory": max_memory, "backward": backward}
    layer, others = (input, linear_weight, linear_bias), (target, *asked.values())
    compiling = torch.compiler.is_compiling()
    if not compiling:
        by_arrays.check_layer(layer, max_memory, backward)
    at_once = operators.for_kernels(layer, others) if compiling else is_plain(layer, others)
    if linear_weight.dim() > 2 or not at_once:
        logits = linear(input, linear_weight.flatten(0, -2), None if linear_bias is None else linear_bias.flatten())
        logits = logits.reshape(*input.shape[:-1], *linear_weight.shape[:-1])
        return cross_entropy_of(logits, target, input.dim() - 1, asked)
    if compiling:
        return operators.linear_cross_entropy(*layer, target, asked, more)
    return head.linear_cross_entropy(layer, target, asked, more)
