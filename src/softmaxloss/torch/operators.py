"""Operators for compiled and exported graphs of CPU tensors. They run the kernels; the compiler does not look inside.

An operator returns the loss and the gradients, and backward multiplies them by the gradient from above. If an operator
runs outside of a compiled graph, and the gradient must be differentiable too, backward uses `softmaxloss.array`, as in
`by_kernels.py`.
"""

# PyTorch makes the schema of an operator from its annotations. PyTorch 2.6 does not know collections.abc.Sequence.
from typing import Any, Sequence  # noqa: UP035

import numpy as np
import torch
from torch import Tensor

from softmaxloss.head import Sampled
from softmaxloss.torch import by_arrays
from softmaxloss.torch.arguments import Layer, Options
from softmaxloss.torch.by_kernels import loss_and_gradient, requested
from softmaxloss.torch.errors import in_words_of_torch
from softmaxloss.torch.head import losses_and_gradients
from softmaxloss.torch.storage import as_tensor, loss_dtype

_TENSORS = ("class_weight", "sample_weight", "class_mask", "normalizer")
_NUMBERS = ("reduction", "ignore_index", "label_smoothing", "z_loss", "softcap", "temperature")


def _given(options: Options) -> list[Any]:
    """Return row options in the order of the parameters of operators."""
    return [options.get(name) for name in _TENSORS + _NUMBERS]


def _options(*given: Any) -> Options:
    return {name: value for name, value in zip(_TENSORS + _NUMBERS, given, strict=True) if value is not None}


def cross_entropy(input: Tensor, target: Tensor, axis: int, options: Options) -> Tensor:
    """Return the loss of logits in a graph that is being compiled."""
    with_gradient = input.requires_grad and torch.is_grad_enabled()
    loss, _ = torch.ops.softmaxloss.cross_entropy(input, target, axis, with_gradient, *_given(options))
    return loss  # type: ignore[no-any-return]


def linear_cross_entropy(layer: Layer, target: Tensor, options: Options, more: Options) -> Tensor:
    """Return the loss of a linear layer in a graph that is being compiled."""
    wanted = [tensor is not None and tensor.requires_grad and torch.is_grad_enabled() for tensor in layer]
    memory = None if more["max_memory"] is None else str(more["max_memory"])
    sampled = more["backward"]
    how = (sampled.threshold, sampled.seed) if isinstance(sampled, Sampled) else (0.0, 0)
    loss, *_ = torch.ops.softmaxloss.linear_cross_entropy(*layer, target, None, wanted, memory, *how, *_given(options))
    return loss  # type: ignore[no-any-return]


@torch.library.custom_op("softmaxloss::cross_entropy", mutates_args=(), device_types="cpu")
@in_words_of_torch
def _cross_entropy(
    input: Tensor,
    target: Tensor,
    axis: int,
    with_gradient: bool,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    class_mask: Tensor | None,
    normalizer: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    tensors = (class_weight, sample_weight, class_mask, normalizer)
    options = _options(*tensors, reduction, ignore_index, label_smoothing, z_loss, softcap, temperature)
    asked = requested(input, target, axis, options)
    z = asked[0]
    loss, d_z = loss_and_gradient(asked, np.empty(z.shape, z.dtype) if with_gradient else None)
    return loss, input.new_empty(0) if d_z is None else as_tensor(d_z)


@_cross_entropy.register_fake
def _(
    input: Tensor,
    target: Tensor,  # noqa: ARG001
    axis: int,
    with_gradient: bool,
    *given: Any,
) -> tuple[Tensor, Tensor]:
    per_row = _options(*given)["reduction"] == "none"
    shape = input.shape[:axis] + input.shape[axis + 1 :] if per_row else ()
    d_input = input.new_empty(input.shape if with_gradient else 0)
    return input.new_empty(shape, dtype=loss_dtype(input.dtype)), d_input


def _keep(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
    """Save inputs and gradients; the compiler drops what backward does not use."""
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    tensors = [k for k, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*gradients, *(inputs[k] for k in tensors))
    ctx.more = len(gradients), tensors, [None if k in tensors else value for k, value in enumerate(inputs)]


def _kept(ctx: Any) -> tuple[list[Tensor], list[Any]]:
    """Return the gradients and the inputs."""
    n_gradients, tensors, inputs = ctx.more
    inputs, saved = list(inputs), list(ctx.saved_tensors)  # checkpoints give them only once
    for k, tensor in zip(tensors, saved[n_gradients:], strict=True):
        inputs[k] = tensor
    return saved[:n_gradients], inputs


def _product(gradient: Tensor, d_loss: Tensor, like: Tensor) -> Tensor:
    if gradient.shape != like.shape:
        raise RuntimeError(
            "this graph was exported without a gradient; export it with an input that requires a gradient"
        )
    return (gradient * d_loss).to(gradient.dtype)


def _backward(ctx: Any, d_loss: Tensor, _: Tensor) -> Any:
    (d_input,), (input, target, axis, _, *given) = _kept(ctx)
    if torch.is_grad_enabled():
        d_input = by_arrays.gradient(input, target, d_loss, axis, _options(*given))
    else:
        d_input = _product(d_input, d_loss.unsqueeze(axis) if d_loss.dim() > 0 else d_loss, input)
    return d_input, *(None,) * (3 + len(given))


_cross_entropy.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("softmaxloss::linear_cross_entropy", mutates_args=(), device_types="cpu")
@in_words_of_torch
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
    normalizer: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = (class_weight, sample_weight, class_mask, normalizer)
    options = _options(*tensors, reduction, ignore_index, label_smoothing, z_loss, softcap, temperature)
    memory = int(max_memory) if max_memory is not None and max_memory.isdecimal() else max_memory
    more = {"max_memory": memory, "backward": Sampled(threshold, seed) if threshold else "exact"}
    layer = (input, linear_weight, linear_bias)
    loss, gradients = losses_and_gradients(layer, target, options, more, _made(wanted, d_loss, reduction), d_loss)
    made = [of if of is not None else _or(t, input).new_empty(0) for t, of in zip(layer, gradients, strict=True)]
    return loss, made[0], made[1], made[2]


def _made(wanted: Sequence[bool], d_loss: Tensor | None, reduction: str) -> list[bool]:
    """Return which gradients are computed now; with reduction "none" backward computes them."""
    return [asked and (reduction != "none" or d_loss is not None) for asked in wanted]


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


@_linear_cross_entropy.register_fake
def _(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,  # noqa: ARG001
    d_loss: Tensor | None,
    wanted: Sequence[bool],
    max_memory: str | None,  # noqa: ARG001
    threshold: float,  # noqa: ARG001
    seed: int,  # noqa: ARG001
    *given: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduction = _options(*given)["reduction"]
    layer = [_or(tensor, input) for tensor in (input, linear_weight, linear_bias)]
    made = _made(wanted, d_loss, reduction)
    gradients = [t.new_empty(t.shape if is_made else 0) for t, is_made in zip(layer, made, strict=True)]
    loss = input.new_empty(input.shape[:-1] if reduction == "none" else (), dtype=loss_dtype(input.dtype))
    return loss, gradients[0], gradients[1], gradients[2]


def _backward_of_layer(ctx: Any, d_loss: Tensor, *_: Tensor) -> Any:
    gradients, inputs = _kept(ctx)
    layer, (target, _, wanted), given = inputs[:3], inputs[3:6], inputs[9:]
    options = _options(*given)
    found: list[Tensor | None]
    if torch.is_grad_enabled():
        found = by_arrays.gradients_of_layer(tuple(layer), target, options, wanted, d_loss)
    elif options["reduction"] == "none":
        inputs[4] = d_loss
        _, *found = torch.ops.softmaxloss.linear_cross_entropy(*inputs)
    else:
        of_inputs = zip(gradients, layer, wanted, strict=True)
        found = [_product(of, d_loss, tensor) if asked else None for of, tensor, asked in of_inputs]
    found = [of if asked else None for of, asked in zip(found, wanted, strict=True)]
    return *found, *(None,) * (6 + len(given))


_linear_cross_entropy.register_autograd(_backward_of_layer, setup_context=_keep)
