"""Operators of compiled and exported graphs: on CPU tensors they are opaque to the compiler, and run the kernels."""

from collections.abc import Iterable, Sequence  # an operator's schema is made of its annotations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softmaxloss.core import rowwise
from softmaxloss.core.options import ONE, request
from softmaxloss.core.threads import hosted_by
from softmaxloss.head import Sampled
from softmaxloss.torch import by_arrays
from softmaxloss.torch.by_kernels import as_arrays
from softmaxloss.torch.head import losses_and_gradients
from softmaxloss.torch.host import HOST
from softmaxloss.torch.storage import as_array, as_loss, as_tensor, loss_dtype

Options = dict[str, Any]
Gradients = tuple[Tensor, Tensor, Tensor]
_ROW_OPTIONS = ["class_weight", "sample_weight", "class_mask", "ignore_index", "label_smoothing", "z_loss", "softcap"]
_ROW_OPTIONS += ["temperature", "reduction", "normalizer"]


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options) -> Tensor:
    """Return the loss of logits in a graph that is being compiled."""
    if not for_kernels((input,), (target, *options.values())):
        return by_arrays.cross_entropy(input, target, axis, options)
    with_gradient = input.requires_grad and torch.is_grad_enabled()
    given = _as_given(options)
    loss, _ = torch.ops.softmaxloss.cross_entropy(input, target, axis, with_gradient, *given)
    return loss  # type: ignore[no-any-return]


def linear_cross_entropy(
    input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, options: Options, more: Options
) -> Tensor:
    """Return the loss of a linear layer in a graph that is being compiled; None if it must be made of its logits."""
    wanted = [t is not None and t.requires_grad and torch.is_grad_enabled() for t in (input, weight, bias)]
    sampled = more["backward"] if isinstance(more["backward"], Sampled) else None
    memory = None if more["max_memory"] is None else str(more["max_memory"])
    how = (memory, sampled.threshold if sampled else 0.0, sampled.seed if sampled else 0)
    given = _as_given(options)
    loss, *_ = torch.ops.softmaxloss.linear_cross_entropy(input, weight, bias, target, None, wanted, *how, *given)
    return loss  # type: ignore[no-any-return]


def _as_given(options: Options) -> list[Any]:
    """Return the row options in the order of the operators, which take the normalizer as a tensor."""
    normalizer = options.get("normalizer")
    if normalizer is not None and not isinstance(normalizer, Tensor):
        options = options | {"normalizer": torch.tensor(normalizer, dtype=torch.float64)}
    return [options.get(name) for name in _ROW_OPTIONS]


def for_kernels(inputs: Iterable[Tensor | None], others: Iterable[Any]) -> bool:
    """Return whether kernels can compute the loss of tensors in a graph, and its derivative by the inputs."""
    on_cpu = all(tensor is None or tensor.device.type == "cpu" for tensor in inputs)
    return on_cpu and not any(isinstance(other, Tensor) and other.requires_grad for other in others)


@torch.library.custom_op("softmaxloss::cross_entropy", mutates_args=(), device_types="cpu")
def _cross_entropy(
    input: Tensor,
    target: Tensor,
    axis: int,
    with_gradient: bool,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    class_mask: Tensor | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
    reduction: str,
    normalizer: Tensor | None,
) -> tuple[Tensor, Tensor]:
    given = (class_weight, sample_weight, class_mask, ignore_index, label_smoothing, z_loss, softcap, temperature)
    options = _named(*given, reduction, normalizer)
    z, layout, rows, reduced = request(as_array(input), as_array(target), axis, as_arrays(options))  # type: ignore[arg-type]
    d_z = np.empty(z.shape if with_gradient else 0, z.dtype)
    with hosted_by(HOST):
        if with_gradient:
            losses = rowwise.losses_and_gradients(z, rows, ONE, d_z, layout)
        else:
            losses = rowwise.losses(z, rows, layout)
    return as_loss(reduced.result(losses, z.dtype), z), as_tensor(d_z)


@_cross_entropy.register_fake
def _(input: Tensor, target: Tensor, axis: int, with_gradient: bool, *options: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    shape = input.shape[:axis] + input.shape[axis + 1 :] if "none" in options else ()
    d_input = input.new_empty(input.shape if with_gradient else 0)
    return input.new_empty(shape, dtype=loss_dtype(input.dtype)), d_input


def _keep_gradient(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    ctx.axis = inputs[2]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_loss: Tensor, _: Tensor) -> Any:
    (d_input,) = ctx.saved_tensors
    d_loss = d_loss.unsqueeze(ctx.axis) if d_loss.dim() > 0 else d_loss
    return (d_input * d_loss).to(d_input.dtype), *(None,) * (3 + len(_ROW_OPTIONS))


_cross_entropy.register_autograd(_backward, setup_context=_keep_gradient)


@torch.library.custom_op("softmaxloss::linear_cross_entropy", mutates_args=(), device_types="cpu")
def _linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    d_loss: Tensor | None,
    wanted: Sequence[bool],
    max_memory: str | None,
    threshold: float,
    seed: int,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    class_mask: Tensor | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
    reduction: str,
    normalizer: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (class_weight, sample_weight, class_mask, ignore_index, label_smoothing, z_loss, softcap, temperature)
    options = _named(*given, reduction, normalizer)
    memory = int(max_memory) if max_memory is not None and max_memory.isdecimal() else max_memory
    more = {"max_memory": memory, "backward": Sampled(threshold, seed) if threshold else "exact"}
    layer = (input, linear_weight, linear_bias)
    at_once = wanted if reduction != "none" or d_loss is not None else ()
    loss, gradients = losses_and_gradients(layer, target, options, more, at_once, d_loss)
    d_input, d_weight, d_bias = (input.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return loss, d_input, d_weight, d_bias


@_linear_cross_entropy.register_fake
def _(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,  # noqa: ARG001
    d_loss: Tensor | None,
    wanted: Sequence[bool],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    per_row = "none" in options
    layer = (input, linear_weight, linear_bias)
    made = [asked and (not per_row or d_loss is not None) for asked in wanted]
    shapes = (t.shape if t is not None and is_made else 0 for t, is_made in zip(layer, made, strict=True))
    d_input, d_weight, d_bias = (input.new_empty(shape) for shape in shapes)
    loss = input.new_empty(input.shape[:-1] if per_row else (), dtype=loss_dtype(input.dtype))
    return loss, d_input, d_weight, d_bias


def _keep_gradients(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.wanted, ctx.per_row = inputs[5], "none" in inputs[6:]
    if ctx.per_row:  # the gradients of parameters depend on those of all losses
        ctx.names = [k for k, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(inputs[k] for k in ctx.names))
    else:
        ctx.save_for_backward(*gradients)


def _backward_of_layer(ctx: Any, d_loss: Tensor, *_: Tensor) -> Any:
    if ctx.per_row:
        inputs = list(ctx.inputs)
        for k, tensor in zip(ctx.names, ctx.saved_tensors, strict=True):
            inputs[k] = tensor
        inputs[4] = d_loss
        _, *gradients = torch.ops.softmaxloss.linear_cross_entropy(*inputs)
    else:
        gradients = [(gradient * d_loss).to(gradient.dtype) for gradient in ctx.saved_tensors]
    found = (g if asked else None for g, asked in zip(gradients, ctx.wanted, strict=True))
    return *found, *(None,) * (6 + len(_ROW_OPTIONS))


_linear_cross_entropy.register_autograd(_backward_of_layer, setup_context=_keep_gradients)


def _named(*options: Any) -> Options:
    return {name: value for name, value in zip(_ROW_OPTIONS, options, strict=True) if value is not None}
