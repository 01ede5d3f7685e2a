"""Losses of CPU tensors by the kernels, as nodes of PyTorch's graph of derivatives.

Forward makes the gradient at once, in one sweep over the logits, and keeps it. Backward multiplies it with the gradient
that arrives, where this is not 1. Where a derivative of the gradient is asked for, backward is made of the operations
of `softmaxloss.array`, which PyTorch can differentiate again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from softmaxloss.core import checks, rowwise
from softmaxloss.core.options import ONE, request, request_without_targets
from softmaxloss.core.threads import hosted_by
from softmaxloss.torch import by_arrays
from softmaxloss.torch.host import HOST
from softmaxloss.torch.internals import is_batched, keeps_graph, log_softmax_backward, softmax_backward
from softmaxloss.torch.storage import as_array, as_loss, as_tensor

if TYPE_CHECKING:
    from softmaxloss.core.options import Request

    Options = dict[str, Any]

_HALF = {torch.float16, torch.bfloat16}


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options, *, inplace_backward: bool) -> Tensor:
    """Return the loss of logits, whose options may be tensors."""
    asked = request(as_array(input), as_array(target), axis, as_arrays(options))  # type: ignore[arg-type]
    if input.requires_grad and torch.is_grad_enabled():
        return _CrossEntropy.apply(input, target, options, axis, asked, inplace_backward)  # type: ignore[no-any-return, no-untyped-call]
    z, layout, rows, reduction = asked
    with hosted_by(HOST):
        losses = rowwise.losses(z, rows, layout)
    return as_loss(reduction.result(losses, z.dtype), z)


def as_arrays(options: Options) -> Options:
    """Return options with arrays in the place of tensors."""
    return {name: as_array(value) if isinstance(value, Tensor) else value for name, value in options.items()}


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, options: Options, axis: int, asked: Request, inplace: bool
    ) -> Tensor:
        z, layout, rows, reduction = asked
        inplace = inplace and not checks.may_overlap_itself(z)
        d_z = z if inplace else np.empty(z.shape, z.dtype)  # large arrays of NumPy lie in huge pages
        with hosted_by(HOST):
            losses = rowwise.losses_and_gradients(z, rows, ONE, d_z, layout)
        if inplace:
            torch.autograd.graph.increment_version(input)
        names = [name for name, value in options.items() if isinstance(value, Tensor)]
        ctx.save_for_backward(
            as_tensor(d_z), *((None, None) if inplace else (input, target)), *(options[name] for name in names)
        )
        ctx.more = asked, axis, options, names
        return as_loss(reduction.result(losses, z.dtype), z)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        d_input, input, target, *tensors = ctx.saved_tensors
        asked, axis, options, names = ctx.more
        if torch.is_grad_enabled():
            if input is None:
                raise RuntimeError("inplace_backward=True left no logits of which the gradient could be differentiated")
            options = options | dict(zip(names, tensors, strict=True))
            d_input = by_arrays.gradient(input, target, d_loss, axis, options)
        elif d_input.dtype in _HALF and input is not None and not is_one(d_loss):
            d_input = _computed_anew(asked, d_loss, d_input)
        else:
            d_input = times(d_input, d_loss.unsqueeze(axis) if d_loss.dim() > 0 else d_loss)
        return d_input, None, None, None, None, None


def is_one(d_loss: Tensor) -> bool:
    """Return whether the gradient that arrives is the number 1, or one of a batch of them, which has no number."""
    return is_batched(d_loss) or (d_loss.dim() == 0 and d_loss.item() == 1.0)


def times(gradient: Tensor, d_loss: Tensor) -> Tensor:
    """Return a gradient times the one that arrives, in its place if nobody needs it again."""
    if keeps_graph() or is_batched(d_loss):
        return gradient * d_loss
    return gradient if d_loss.dim() == 0 and d_loss.item() == 1.0 else gradient.mul_(d_loss)


def _computed_anew(asked: Request, d_loss: Tensor, place: Tensor) -> Tensor:
    """Return the gradient in half precision times the one that arrives, rounded once; small ones would be lost."""
    z, layout, rows, reduction = asked
    d_input = np.empty(z.shape, z.dtype) if keeps_graph() else as_array(place)
    with hosted_by(HOST):
        rowwise.losses_and_gradients(z, rows, reduction.upstream(as_array(d_loss)), d_input, layout)
    return as_tensor(d_input)


def softmax(input: Tensor, dim: int, temperature: float) -> Tensor:
    """Return the softmax over a dimension."""
    return _Softmax.apply(input, dim, temperature, rowwise.softmax, softmax_backward)  # type: ignore[no-any-return, no-untyped-call]


def log_softmax(input: Tensor, dim: int, temperature: float) -> Tensor:
    """Return the logarithms of the softmax over a dimension."""
    return _Softmax.apply(input, dim, temperature, rowwise.log_softmax, log_softmax_backward)  # type: ignore[no-any-return, no-untyped-call]


class _Softmax(Function):
    """The softmax or its logarithms; PyTorch has a function that goes back through each from its result."""

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
