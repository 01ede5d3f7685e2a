"""Losses of tensors where kernels cannot run, computed by `softmaxloss.array`.

They are used on devices other than the CPU, under the transforms of `torch.func`, in traces, and for derivatives with
respect to targets or weights.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import reduce
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
from softmaxloss.torch.arguments import joined, split
from softmaxloss.torch.internals import in_forward_mode, is_mapped
from softmaxloss.torch.storage import loss_dtype, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from softmaxloss.torch.arguments import Layer, Options


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options) -> Tensor:
    """Return the loss of logits, whose options may be tensors."""
    check(tuple(input.shape), input.dtype, target, axis, options)
    numbers, names, tensors = split(options)
    refuses = torch.compiler.is_compiling() and (is_mapped() or any(t.requires_grad for t in (target, *tensors)))
    if in_forward_mode() or refuses:  # PyTorch supports no Function here, only plain operations
        return _loss_of_others(input, axis, numbers, names)(target, *tensors)
    return _CrossEntropy.apply(input, target, axis, numbers, names, *tensors)  # type: ignore[no-any-return, no-untyped-call]


def check(shape: tuple[int, ...], dtype: torch.dtype, target: Tensor, axis: int, options: Options) -> None:
    """Refuse shapes, dtypes and numbers that are wrong for logits. The values in tensors are not checked."""
    compiling, numbers = torch.compiler.is_compiling(), split(options)[0]
    if compiling:  # it cannot trace NumPy, which checks of ints use
        numbers = {name: float(value) if type(value) is int else value for name, value in numbers.items()}
    checks.reduction(numbers["reduction"])
    checked_numbers(**{name: numbers[name] for name in NUMBERS if name in numbers})
    divisor = 1.0 if isinstance(options.get("normalizer"), Tensor) else numbers.get("normalizer")
    checks.normalizer(divisor, numbers["reduction"])
    if compiling:
        _check_shapes(shape, target, axis, options)
        return
    logits = checks.logits(_like(shape, dtype))
    checks.axis(axis, logits)
    batch = shape[:axis] + shape[axis + 1 :]
    target_checks.targets(_like(target.shape, target.dtype), logits.shape, batch)
    for check in (checks.class_weight, checks.class_mask):
        if (tensor := options.get(check.__name__)) is not None:
            check(_like(tensor.shape, tensor.dtype), shape[axis])
    if (tensor := options.get("sample_weight")) is not None:
        checks.sample_weight(_like(tensor.shape, tensor.dtype), batch)


def _check_shapes(shape: tuple[int, ...], target: Tensor, axis: int, options: Options) -> None:
    """Refuse wrong shapes, complex tensors, and masks that are not bool. The compiler cannot trace the other checks.

    Without `fullgraph=True`, PyTorch runs the call again, uncompiled, and `check` raises an error that says more.
    """
    batch, classes = shape[:axis] + shape[axis + 1 :], shape[axis : axis + 1]
    of_target = shape if target.is_floating_point() or target.dtype is torch.bool else batch
    of_options = {"class_weight": classes, "class_mask": classes, "sample_weight": batch}
    for name, expected in {"targets": of_target, **of_options}.items():
        tensor = target if name == "targets" else options.get(name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {checks.of_shape(tensor)}")
        if tensor.is_complex() or (name == "class_mask" and tensor.dtype is not torch.bool):
            expected_dtype = "bool" if name == "class_mask" else "real numbers"
            raise TypeError(f"{name} must hold {expected_dtype}, got {tensor.dtype}")


def _like(shape: Iterable[int], dtype: torch.dtype) -> NDArray[Any]:
    """Return an array of a shape and dtype, without memory of this size."""
    return np.broadcast_to(np.ones((), numpy_dtype(dtype)), tuple(shape))


def gradient(input: Tensor, target: Tensor, d_loss: Tensor, axis: int, options: Options) -> Tensor:
    """Return d_loss times the gradient with respect to the logits, in differentiable operations."""
    d_input: Tensor = array.gradients(input, target, xp=torch_namespace, axis=axis, upstream=d_loss, **options)
    return d_input


class _CrossEntropy(Function):
    """The gradient with respect to logits is the formula `y - t`; PyTorch derives those of targets and weights."""

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
            d_input = gradient(input, others[0], d_loss, axis, joined(numbers, names, others[1:]))
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
        options = joined(numbers, names, tensors)
        result: Tensor = array.losses(input, target, xp=torch_namespace, axis=axis, **options)
        return result

    return loss


def is_autocast(tensor: Tensor) -> bool:
    """Return whether `torch.autocast` is on for the device of a tensor."""
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which `torch.autocast` is off on the device of a tensor."""
    return torch.autocast(tensor.device.type, enabled=False) if is_autocast(tensor) else nullcontext()


def logits_of(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the logits (..., C, d1, ..., dK) of a linear layer, computed in the widest dtype of its tensors.

    On a CPU this is at least float32, as in the kernels. Other devices multiply half precision much faster.
    """
    tensors = [tensor for tensor in (input, weight, bias) if tensor is not None]
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    dtype = loss_dtype(dtype) if input.is_cpu else dtype
    bias = None if bias is None else bias.to(dtype).flatten()
    with without_autocast(input):
        logits = linear(input.to(dtype), weight.to(dtype).flatten(0, -2), bias)
    return logits.reshape(*input.shape[:-1], *weight.shape[:-1])


def gradients_of_layer(
    layer: Layer, target: Tensor, options: Options, wanted: Sequence[bool], d_loss: Tensor
) -> list[Tensor | None]:
    """Return the wanted gradients of a layer's loss. PyTorch can differentiate them again."""
    axis = layer[0].dim() - 1
    return pull_back(lambda logits: cross_entropy(logits, target, axis, options), layer, wanted, d_loss)


def pull_back(
    function: Callable[[Tensor], Any], layer: Layer, wanted: Sequence[bool], d_result: Any
) -> list[Tensor | None]:
    """Return the wanted gradients of a linear layer whose result is a function of its logits."""

    def of_chosen(*chosen: Any) -> Any:
        given = iter(chosen)
        now: list[Any] = [next(given) if asked else tensor for tensor, asked in zip(layer, wanted, strict=True)]
        return function(logits_of(*now))

    chosen = [tensor for tensor, asked in zip(layer, wanted, strict=True) if asked]
    found = iter(torch.func.vjp(of_chosen, *chosen)[1](d_result))
    return [next(found) if asked else None for asked in wanted]
