"""Losses of tensors wherever kernels cannot run, by `softmaxloss.array`.

This is so on other devices, under the transforms of `torch.func`, where tensors are traced, and where a derivative by
the targets or by weights is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as torch_namespace
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from softmaxloss import array
from softmaxloss.core import checks, target_checks
from softmaxloss.core.options import NUMBERS, checked_numbers
from softmaxloss.head.linear import is_sampled
from softmaxloss.torch.errors import TensorValueError
from softmaxloss.torch.internals import in_forward_mode
from softmaxloss.torch.storage import loss_dtype, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Layer = tuple[Tensor, Tensor, Tensor | None]

Options = dict[str, Any]
# The default of `max_memory` where kernels do not run, and how much of it each logit takes.
LAYER_MEMORY = "256MiB"
_BYTES_PER_LOGIT = 32


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options) -> Tensor:
    """Return the loss of logits, whose options may be tensors."""
    if not torch.compiler.is_compiling():
        _check(input, target, axis, options)
    names = [name for name, value in options.items() if isinstance(value, Tensor)]
    numbers = {name: value for name, value in options.items() if name not in names}
    tensors = [options[name] for name in names]
    compiled_with_others = torch.compiler.is_compiling() and any(t.requires_grad for t in (target, *tensors))
    if in_forward_mode() or compiled_with_others:  # where a Function with rules for this is refused
        return _loss_of_others(input, axis, numbers, names)(target, *tensors)
    return _CrossEntropy.apply(input, target, axis, numbers, names, *tensors)  # type: ignore[no-any-return, no-untyped-call]


def _check(input: Tensor, target: Tensor, axis: int, options: Options) -> None:
    """Refuse shapes, dtypes and numbers that make no sense; what tensors hold is not looked at."""
    numbers = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
    checks.reduction(numbers["reduction"])
    checked_numbers(**{name: numbers[name] for name in NUMBERS if name in numbers})
    divisor = options.get("normalizer")
    checks.normalizer(_like(divisor) if isinstance(divisor, Tensor) else divisor, numbers["reduction"])  # type: ignore[arg-type]
    logits = checks.logits(_like(input))
    checks.axis(axis, logits)
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    labels = target_checks.targets(_like(target), logits.shape, batch)
    if labels.ndim == logits.ndim and "ignore_index" in numbers:
        raise ValueError("ignore_index belongs to class-index targets, but targets are one-hot or soft rows")
    for check in (checks.class_weight, checks.class_mask):
        if check.__name__ in options:
            check(_like(options[check.__name__]), logits.shape[axis])
    if "sample_weight" in options:
        checks.sample_weight(_like(options["sample_weight"]), batch)


def _like(tensor: Tensor) -> NDArray[Any]:
    """Return an array of the shape and dtype of a tensor, without memory of this size."""
    return np.broadcast_to(np.ones((), numpy_dtype(tensor.dtype)), tuple(tensor.shape))


def gradient(input: Tensor, target: Tensor, d_loss: Tensor, axis: int, options: Options) -> Tensor:
    """Return the gradient by the logits, times the one that arrives, made of differentiable operations."""
    d_input: Tensor = array.gradients(input, target, xp=torch_namespace, axis=axis, upstream=d_loss, **options)
    return d_input


class _CrossEntropy(Function):
    """The derivative by the logits is its own formula, `y - t`; those by targets and weights are left to PyTorch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, target: Tensor, axis: int, numbers: Options, names: list[str], *more: Tensor) -> Any:
        return _loss_of_others(input, axis, numbers, names)(target, *more)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:  # noqa: ARG004
        ctx.constants = inputs[2:5]
        ctx.save_for_backward(*inputs[:2], *inputs[5:])

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        input, *others = ctx.saved_tensors
        axis, numbers, names = ctx.constants
        d_input = None
        if ctx.needs_input_grad[0]:
            options = numbers | dict(zip(names, others[1:], strict=True))
            d_input = gradient(input, others[0], d_loss, axis, options)
        d_others: list[Tensor | None] = [None] * len(others)
        wanted = [k for k, asked in enumerate(ctx.needs_input_grad[1:2] + ctx.needs_input_grad[5:]) if asked]
        if wanted:
            loss = _loss_of_others(input, axis, numbers, names)

            def of_wanted(*values: Tensor) -> Tensor:
                chosen = dict(zip(wanted, values, strict=True))
                return loss(*(chosen.get(k, other) for k, other in enumerate(others)))

            pull_back = torch.func.vjp(of_wanted, *(others[k] for k in wanted))[1]
            for k, derivative in zip(wanted, pull_back(d_loss), strict=True):
                d_others[k] = derivative
        return d_input, d_others[0], None, None, None, *d_others[1:]


def _loss_of_others(input: Tensor, axis: int, numbers: Options, names: list[str]) -> Callable[..., Tensor]:
    """Return the loss as a function of the targets and of the options that are tensors."""

    def loss(target: Tensor, *tensors: Tensor) -> Tensor:
        options = numbers | dict(zip(names, tensors, strict=True))
        result: Tensor = array.losses(input, target, xp=torch_namespace, axis=axis, **options)
        return result

    return loss


def check_layer(layer: Layer, max_memory: int | str | None, backward: object) -> None:
    """Refuse shapes of input, weight and bias that do not fit, and ways to compute that are none."""
    input, weight, bias = layer
    if max_memory is not None:
        checks.memory("max_memory", max_memory)
    is_sampled(backward)
    classes, features = tuple(weight.shape[:-1]), tuple(weight.shape[-1:])
    if not classes:
        raise TensorValueError(f"linear_weight must have shape (C, ..., D), got {tuple(weight.shape)}")
    if tuple(input.shape[-1:]) != features or (len(classes) > 1 and input.dim() != 2):
        expected = f"(..., {features[0]})" if len(classes) == 1 else f"(N, {features[0]})"
        raise TensorValueError(f"input must have shape {expected} to fit linear_weight, got {tuple(input.shape)}")
    if bias is not None and tuple(bias.shape) != classes:
        raise TensorValueError(f"linear_bias must have shape {classes} to fit linear_weight, got {tuple(bias.shape)}")


def losses_and_gradients_of_layer(
    layer: Layer,
    target: Tensor,
    options: Options,
    max_memory: int | str | None,
    wanted: Sequence[bool],
    d_loss: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss of a linear layer and the gradients that are wanted, some rows at a time."""
    input, weight, bias = layer[0].detach(), layer[1].detach(), None if layer[2] is None else layer[2].detach()
    n_classes, n_features = weight.shape
    _check(input.new_empty(()).expand(*input.shape[:-1], n_classes), target, input.dim() - 1, options)
    options, reduction = {**options, "axis": 1, "xp": torch_namespace}, options["reduction"]
    normalizer = options.pop("normalizer", None)
    options["reduction"] = "none" if reduction == "none" else "sum"
    of_rows = {"targets": target.reshape(-1) if target.dim() < input.dim() else target.reshape(-1, n_classes)}
    if "sample_weight" in options:
        of_rows["sample_weight"] = options.pop("sample_weight").reshape(-1)
    x = input.reshape(-1, n_features)

    # sums over the rows are as wide as they are computed
    d_x, d_weight, d_bias = (
        torch.zeros_like(t, dtype=loss_dtype(t.dtype)) if t is not None and asked else None
        for t, asked in zip((x, weight, bias), wanted or (False,) * 3, strict=True)
    )
    losses, divisor = [], x.new_zeros((), dtype=loss_dtype(x.dtype))
    size = max(1, checks.memory("max_memory", max_memory or LAYER_MEMORY) // (n_classes * _BYTES_PER_LOGIT))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        some = options | {name: values[part] for name, values in of_rows.items()}
        upstream = None if d_loss is None or reduction != "none" else d_loss.reshape(-1)[part]
        row_weight, share = array.row_weights(x.new_empty((1, 1)).expand(len(x[part]), n_classes), **some)
        x_part = torch.where(row_weight[:, None] != 0, x[part], 0)  # rows that take no part are not read
        loss, d_logits = array.losses_and_gradients(linear(x_part, weight, bias), upstream=upstream, **some)
        losses.append(loss)
        divisor = divisor + share.sum()
        if d_x is not None:
            d_x[part] = d_logits @ weight
        if d_weight is not None:
            d_weight += d_logits.T @ x_part
        if d_bias is not None:
            d_bias += d_logits.sum(0, dtype=d_bias.dtype)

    if reduction == "none":
        total = torch.cat([*losses, divisor.new_empty(0)]).reshape(input.shape[:-1])
    else:
        total = sum(losses, divisor.new_zeros(()))
    scale = divisor.new_ones(())
    if reduction == "mean":
        divisor = divisor if normalizer is None else divisor.new_tensor(normalizer)
        scale = torch.where(divisor == 0, 0.0, 1 / divisor)  # the mean over nothing is 0
        total = torch.where(divisor == 0, 0.0, total / divisor)
    if reduction != "none" and d_loss is not None:
        scale = scale * d_loss
    gradients = [
        None if t is None or of_t is None else (of_t * scale).to(t.dtype).reshape(t.shape)
        for t, of_t in zip(layer, (d_x, d_weight, d_bias), strict=True)
    ]
    return total, gradients
