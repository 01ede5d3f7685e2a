"""The loss of a linear layer and its gradients without the logits, as a node of PyTorch's graph of derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from softmaxloss import head
from softmaxloss.core.hosts import hosted_by
from softmaxloss.head.layer import INPUTS
from softmaxloss.torch import by_arrays, by_chunks
from softmaxloss.torch.arguments import joined, split
from softmaxloss.torch.by_kernels import as_arrays, needs_product, times
from softmaxloss.torch.host import HOST
from softmaxloss.torch.internals import is_batched
from softmaxloss.torch.storage import as_array, as_loss, as_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.torch.arguments import Layer, Options


def linear_cross_entropy(layer: Layer, target: Tensor, options: Options, more: Options) -> Tensor:
    """Return the loss of a layer; `more` are `max_memory` and `backward`."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in layer):
        return _LinearCrossEntropy.apply(*layer, target, options, more)  # type: ignore[no-any-return, no-untyped-call]
    return losses_and_gradients(layer, target, options, more)[0]


def losses_and_gradients(
    layer: Layer,
    target: Tensor,
    options: Options,
    more: Options,
    wanted: Sequence[bool] = (False,) * 3,
    d_loss: Tensor | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss and the wanted gradients.

    Gradients are multiplied by `d_loss`, the gradient from above, and have the dtypes of their inputs.
    """
    if not layer[0].is_cpu:
        return by_chunks.losses_and_gradients(layer, target, options, more["max_memory"], wanted, d_loss)
    x, w, b = as_array(layer[0]), as_array(layer[1]), None if layer[2] is None else as_array(layer[2])
    t, arrays = as_array(target), as_arrays(options)
    with hosted_by(HOST):
        if not any(wanted):
            loss = head.linear_cross_entropy(x, w, t, b, max_memory=more["max_memory"], **arrays)
            return as_loss(loss, x), [None] * len(layer)
        wrt = [name for name, is_wanted in zip(INPUTS, wanted, strict=True) if is_wanted]
        upstream = None if d_loss is None else as_array(d_loss)
        loss, gradients = head.linear_cross_entropy_and_grad(x, w, t, b, upstream=upstream, wrt=wrt, **more, **arrays)
    return as_loss(loss, x), [
        None if tensor is None or gradient is None else as_tensor(gradient).to(tensor.dtype)
        for tensor, gradient in zip(layer, gradients, strict=True)
    ]


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        input, weight, bias, target, options, more = arguments
        layer = (input, weight, bias)
        # Backward computes gradients that depend on the d_loss of each row, and float16 where d_loss is not read.
        later = options["reduction"] == "none" or (input.dtype is torch.float16 and not input.is_cpu)
        wanted = (False,) * 3 if later else ctx.needs_input_grad[:3]
        loss, gradients = losses_and_gradients(layer, target, options, more, wanted)
        numbers, names, tensors = split(options)
        ctx.save_for_backward(*layer, target, *gradients, *tensors)
        ctx.more = numbers, names, more
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        input, weight, bias, target, *saved = ctx.saved_tensors
        numbers, names, more = ctx.more
        layer, gradients, wanted = (input, weight, bias), saved[:3], ctx.needs_input_grad[:3]
        options = joined(numbers, names, saved[3:])
        # float16 gradients are computed again: stored ones would lose small entries in the product with d_loss
        per_row, is_half = options["reduction"] == "none", input.dtype is torch.float16
        if torch.is_grad_enabled() or ((per_row or is_half) and is_batched(d_loss)):
            gradients = by_arrays.gradients_of_layer(layer, target, options, wanted, d_loss)
        elif per_row or (is_half and needs_product(d_loss)):
            _, gradients = losses_and_gradients(layer, target, options, more, wanted, d_loss)
        else:
            gradients = [None if gradient is None else times(gradient, d_loss) for gradient in gradients]
        return *gradients, None, None, None
