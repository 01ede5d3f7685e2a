"""The loss of a linear layer and its gradients without the logits, as a node of PyTorch's graph of derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from softmaxloss import head
from softmaxloss.core.threads import hosted_by
from softmaxloss.head.layer import INPUTS
from softmaxloss.torch import by_arrays
from softmaxloss.torch.by_kernels import as_arrays, is_one, times
from softmaxloss.torch.host import HOST
from softmaxloss.torch.storage import as_array, as_loss, as_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    Options = dict[str, Any]
    Layer = tuple[Tensor, Tensor, Tensor | None]


def linear_cross_entropy(layer: Layer, target: Tensor, options: Options, more: Options) -> Tensor:
    """Return the loss of a layer (input, weight, bias); `more` are `max_memory` and `backward`."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in layer):
        return _LinearCrossEntropy.apply(*layer, target, options, more)  # type: ignore[no-any-return, no-untyped-call]
    return losses_and_gradients(layer, target, options, more)[0]


def losses_and_gradients(
    layer: Layer,
    target: Tensor,
    options: Options,
    more: Options,
    wanted: Sequence[bool] = (),
    d_loss: Tensor | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss, and the gradients that are wanted, by kernels or by operations on arrays."""
    if not all(tensor is None or tensor.is_cpu for tensor in layer):
        return by_arrays.losses_and_gradients_of_layer(layer, target, options, more["max_memory"], wanted, d_loss)
    x, w, b = as_array(layer[0]), as_array(layer[1]), None if layer[2] is None else as_array(layer[2])
    t, arrays = as_array(target), as_arrays(options)
    with hosted_by(HOST):
        if not any(wanted):
            loss = head.linear_cross_entropy(x, w, t, b, max_memory=more["max_memory"], **arrays)
            return as_loss(loss, x), [None] * len(layer)
        wrt = [name for name, is_wanted in zip(INPUTS, wanted, strict=True) if is_wanted]
        upstream = None if d_loss is None else as_array(d_loss)
        loss, gradients = head.linear_cross_entropy_and_grad(x, w, t, b, upstream=upstream, wrt=wrt, **more, **arrays)
    return as_loss(loss, x), [None if gradient is None else as_tensor(gradient) for gradient in gradients]


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        input, weight, bias, target, options, more = arguments
        layer = (input, weight, bias)
        # without a reduction the gradients of parameters depend on those of all losses: backward makes them
        wanted = () if options["reduction"] == "none" else ctx.needs_input_grad[:3]
        loss, gradients = losses_and_gradients(layer, target, options, more, wanted)
        names = [name for name, value in options.items() if isinstance(value, Tensor)]
        ctx.save_for_backward(*layer, target, *gradients, *(options[name] for name in names))
        ctx.more = options, more, names
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        input, weight, bias, target, *saved = ctx.saved_tensors
        options, more, names = ctx.more
        layer, gradients, wanted = (input, weight, bias), saved[:3], ctx.needs_input_grad[:3]
        options = options | dict(zip(names, saved[3:], strict=True))
        if torch.is_grad_enabled():
            chosen = [tensor for tensor, is_wanted in zip(layer, wanted, strict=True) if is_wanted]
            found = iter(
                torch.autograd.grad(
                    by_arrays.cross_entropy(linear(*layer), target, input.dim() - 1, options),
                    chosen,
                    d_loss,
                    create_graph=True,
                )
            )
            gradients = [next(found) if is_wanted else None for is_wanted in wanted]
        elif options["reduction"] == "none" or (input.dtype is torch.float16 and not is_one(d_loss)):
            _, gradients = losses_and_gradients(layer, target, options, more, wanted, d_loss)
        else:
            gradients = [None if gradient is None else times(gradient, d_loss) for gradient in gradients]
        return *gradients, None, None, None
