"""Losses of CPU tensors, computed by the kernels, as nodes of PyTorch's graph of derivatives.

Forward computes the loss and the gradient in one sweep over the logits, and keeps the gradient. Backward multiplies it
by the gradient from above, unless this is 1. If the gradient must be differentiable too, backward uses the operations
of `softmaxloss.array`, which PyTorch can differentiate again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from softmaxloss.core import checks, rowwise
from softmaxloss.core.hosts import hosted_by
from softmaxloss.core.options import ONE, are_constant, request, request_without_targets
from softmaxloss.torch import by_arrays
from softmaxloss.torch.arguments import joined, split
from softmaxloss.torch.host import HOST
from softmaxloss.torch.internals import (
    is_batched,
    keeps_graph,
    log_softmax_backward,
    may_be_overwritten,
    softmax_backward,
)
from softmaxloss.torch.storage import as_array, as_loss, as_tensor

if TYPE_CHECKING:
    from softmaxloss.core.options import Request
    from softmaxloss.torch.arguments import Options

_HALF = {torch.float16, torch.bfloat16}


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options, *, inplace_backward: bool) -> Tensor:
    """Return the loss of logits, whose options may be tensors."""
    asked = requested(input, target, axis, options)
    if input.requires_grad and torch.is_grad_enabled():
        inplace = inplace_backward and may_be_overwritten(input) and not checks.may_overlap_itself(asked[0])
        return _CrossEntropy.apply(input, (target, axis, options, asked, inplace))  # type: ignore[no-any-return, no-untyped-call]
    return loss_and_gradient(asked)[0]


def requested(input: Tensor, target: Tensor, axis: int, options: Options) -> Request:
    """Return the arguments as `request` of core/options.py returns them; raise ValueError or TypeError if wrong."""
    return request(as_array(input), as_array(target), axis, as_arrays(options))  # type: ignore[arg-type]


def as_arrays(options: Options) -> Options:
    """Return options with arrays in the place of tensors."""
    if are_constant(options.values()):
        return options
    return {name: as_array(value) if isinstance(value, Tensor) else value for name, value in options.items()}


def loss_and_gradient(asked: Request, place: Any = None, d_loss: Tensor | None = None) -> tuple[Tensor, Any]:
    """Return the loss and `place`. If `place` is an array, it gets the gradient times `d_loss`, the one from above."""
    z, layout, rows, reduction = asked
    with hosted_by(HOST):
        if place is None:
            losses = rowwise.losses(z, rows, layout)
        else:
            upstream = ONE if d_loss is None else reduction.upstream(as_array(d_loss))
            losses = rowwise.losses_and_gradients(z, rows, upstream, place, layout)
    return as_loss(reduction.result(losses, z.dtype), z), place


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, call: tuple[Tensor, int, Options, Request, bool]) -> Tensor:
        target, axis, options, asked, inplace = call
        z = asked[0]
        if inplace:
            torch.autograd.graph.increment_version(input)
        # not a tensor: large arrays of NumPy lie in huge pages, which are faster
        loss, d_z = loss_and_gradient(asked, z if inplace else np.empty(z.shape, z.dtype))
        numbers, names, tensors = split(options)
        if inplace:
            ctx.save_for_backward(input.detach(), None, target, *tensors)
        else:
            ctx.save_for_backward(as_tensor(d_z), input, target, *tensors)
        ctx.more = axis, numbers, names
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        d_input, input, target, *tensors = ctx.saved_tensors
        axis, numbers, names = ctx.more
        if torch.is_grad_enabled():
            if input is None:
                raise RuntimeError(
                    "inplace_backward=True overwrote the logits, so the gradient cannot be differentiated; for second "
                    "derivatives pass inplace_backward=False"
                )
            d_input = by_arrays.gradient(input, target, d_loss, axis, joined(numbers, names, tensors))
        elif d_input.dtype in _HALF and input is not None and needs_product(d_loss):
            # compute it from the logits again: to scale the stored gradient would round twice and lose small entries
            asked = requested(input, target, axis, joined(numbers, names, tensors))
            place = np.empty(d_input.shape, asked[0].dtype) if keeps_graph() else as_array(d_input)
            d_input = as_tensor(loss_and_gradient(asked, place, d_loss)[1])
        else:
            d_input = times(d_input, d_loss.unsqueeze(axis) if d_loss.dim() > 0 else d_loss)
        return d_input, None


def needs_product(d_loss: Tensor) -> bool:
    """Return whether the gradient from above may differ from 1. For a batch of such gradients return False.

    A value on another device than the CPU is not read: the CPU would have to wait for the device.
    """
    return not is_batched(d_loss) and (d_loss.dim() > 0 or not d_loss.is_cpu or d_loss.item() != 1.0)


def times(gradient: Tensor, d_loss: Tensor) -> Tensor:
    """Return a gradient times the gradient from above. The product overwrites it unless it is needed again."""
    if keeps_graph() or is_batched(d_loss):
        return gradient * d_loss
    return gradient.mul_(d_loss) if needs_product(d_loss) else gradient


def softmax(input: Tensor, dim: int, temperature: float) -> Tensor:
    """Return the softmax over a dimension."""
    return _Softmax.apply(input, dim, temperature, rowwise.softmax, softmax_backward)  # type: ignore[no-any-return, no-untyped-call]


def log_softmax(input: Tensor, dim: int, temperature: float) -> Tensor:
    """Return the logarithms of the softmax over a dimension."""
    return _Softmax.apply(input, dim, temperature, rowwise.log_softmax, log_softmax_backward)  # type: ignore[no-any-return, no-untyped-call]


class _Softmax(Function):
    """The softmax or its logarithms. For each, PyTorch has a function that computes the gradient from the result."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, temperature: float, forward: Any, backward: Any) -> Tensor:
        z, layout, rows = request_without_targets(as_array(input), dim, temperature, ())
        out = np.empty(z.shape, z.dtype)
        with hosted_by(HOST):
            forward(z, rows, out, layout)
        output = as_tensor(out)
        ctx.save_for_backward(output)
        ctx.more = dim, temperature, backward
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> Any:
        (output,) = ctx.saved_tensors
        dim, temperature, backward = ctx.more
        return backward(d_output, output, dim, output.dtype) / temperature, None, None, None, None
