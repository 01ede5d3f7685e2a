"""Log-probabilities of tokens and entropies of their distributions, with and without the logits of a linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_variadic
from torch.utils.checkpoint import checkpoint

import softmaxloss
from softmaxloss import array
from softmaxloss.core import checks
from softmaxloss.core.hosts import hosted_by
from softmaxloss.core.rowwise import LogProbs
from softmaxloss.head.layer import INPUTS
from softmaxloss.torch import by_arrays
from softmaxloss.torch.arguments import check_numbers, check_tensors, is_plain, joined, split
from softmaxloss.torch.by_chunks import rows_at_once
from softmaxloss.torch.by_kernels import as_arrays
from softmaxloss.torch.errors import TensorTypeError, TensorValueError, in_words_of_torch
from softmaxloss.torch.host import HOST
from softmaxloss.torch.internals import is_batched
from softmaxloss.torch.linear import check_shapes
from softmaxloss.torch.storage import as_array, as_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.torch.arguments import Layer, Options

__all__ = ["LogProbs", "linear_log_probs", "log_probs"]


@in_words_of_torch
def log_probs(
    input: Tensor,
    target: Tensor,
    *,
    dim: int = -1,
    ignore_index: int = -100,
    class_mask: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> LogProbs:
    """Return the log-probability of each class index in `target`, and the entropy of each row of logits.

    With ``log_p = log_softmax(input, dim)`` they equal ``log_p.gather(dim, target.unsqueeze(dim)).squeeze(dim)`` and
    ``-(log_p.exp() * log_p).sum(dim)``. Both can be differentiated. On a CPU the function allocates one array of the
    size of the logits: their gradient. It allocates more in compiled graphs, under `torch.func` and for second
    derivatives.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        Logits of C classes; language models have them on the last dimension.
    target : Tensor of integers, shape of the input without `dim`
    dim : int, default -1
        The dimension of the classes. PyTorch's losses use dimension 1.
    ignore_index : int, default -100
        Rows with this class index are not read: their log-probability and entropy are 0.
    class_mask, softcap, temperature
        As in `cross_entropy`.

    Returns
    -------
    LogProbs
        (log_prob, entropy), in nats: tensors of the shape of the target, float64 for float64 logits, else float32.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import log_probs
    >>> logits = torch.tensor([[0.3, 2.9, 4.0], [0.0, 0.0, 0.0]], requires_grad=True)
    >>> log_prob, entropy = log_probs(logits, torch.tensor([2, 0]))
    >>> log_prob.detach(), entropy.detach()
    (tensor([-0.3057, -1.0986]), tensor([0.6428, 1.0986]))
    """
    if has_torch_function_variadic(input, target, class_mask):
        return handle_torch_function(
            log_probs,
            (input, target, class_mask),
            input,
            target,
            dim=dim,
            ignore_index=ignore_index,
            class_mask=class_mask,
            softcap=softcap,
            temperature=temperature,
        )
    check_tensors({"input": input}, {"target": target, "class_mask": class_mask})
    options = _options(target, ignore_index, class_mask, softcap, temperature)
    dim = checks.integer("dim", dim)
    if input.dim() == 0 or not -input.dim() <= dim < input.dim():
        raise TensorValueError(f"dim must be a dimension of input, whose shape is {tuple(input.shape)}, got {dim}")
    axis = dim % input.dim()
    _check(tuple(input.shape), input.dtype, target, axis, options)
    if torch.compiler.is_compiling() or not (input.is_cpu and is_plain((input,), (target, class_mask))):
        return _by_arrays(input, target, axis, options)
    return LogProbs(*_OfLogits.apply(input, target, axis, options))  # type: ignore[no-untyped-call]


@in_words_of_torch
def linear_log_probs(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int = -100,
    class_mask: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    max_memory: int | str | None = None,
) -> LogProbs:
    """Return ``log_probs(linear(input, linear_weight, linear_bias), target, ...)`` without storing the logits.

    The backward pass computes the logits a second time, some rows at a time. All logits are stored only for second
    derivatives, under the transforms of `torch.func`, in traces and in compiled graphs.

    Parameters
    ----------
    input, linear_weight, linear_bias, max_memory
        As in `linear_cross_entropy`; `linear_weight` has two dimensions.
    target, ignore_index, class_mask, softcap, temperature
        As in `log_probs`.

    Returns
    -------
    LogProbs
        As from `log_probs`.

    Raises
    ------
    ValueError, TypeError
        As `linear_cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import linear_log_probs
    >>> hidden, head = torch.randn(2, 7, 16), torch.nn.Linear(16, 50_000)
    >>> log_prob, entropy = linear_log_probs(hidden, head.weight, torch.zeros(2, 7, dtype=int), linear_bias=head.bias)
    >>> log_prob.shape, entropy.shape
    (torch.Size([2, 7]), torch.Size([2, 7]))
    """
    tensors = (input, linear_weight, target, linear_bias, class_mask)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_log_probs,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            ignore_index=ignore_index,
            class_mask=class_mask,
            softcap=softcap,
            temperature=temperature,
            max_memory=max_memory,
        )
    floats = {"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}
    check_tensors(floats, {"target": target, "class_mask": class_mask})
    options = _options(target, ignore_index, class_mask, softcap, temperature)
    if linear_weight.dim() != 2:
        raise TensorValueError(f"linear_weight must have shape (C, D), got {tuple(linear_weight.shape)}")
    check_shapes(input, linear_weight, linear_bias)
    if max_memory is not None:
        checks.memory("max_memory", max_memory)
    layer, axis = (input, linear_weight, linear_bias), input.dim() - 1
    _check((*input.shape[:-1], len(linear_weight)), input.dtype, target, axis, options)
    if torch.compiler.is_compiling() or not is_plain(layer, (target, class_mask)):
        return _by_arrays(by_arrays.logits_of(*layer), target, axis, options)
    if not input.is_cpu:
        return _by_chunks(layer, target, options, max_memory)
    return LogProbs(*_OfLayer.apply(*layer, target, options, max_memory))  # type: ignore[no-untyped-call]


def _options(
    target: Tensor, ignore_index: int, class_mask: Tensor | None, softcap: float | None, temperature: float
) -> Options:
    """Return the given options, under the names that the NumPy functions use."""
    if target.is_floating_point() or target.dtype is torch.bool:
        raise TensorTypeError(
            f"target must hold class indices, which are integers, got {target.dtype}; pass target.long()"
        )
    check_numbers(softcap=softcap, temperature=temperature)
    options = {"ignore_index": ignore_index, "class_mask": class_mask, "softcap": softcap, "temperature": temperature}
    return {name: value for name, value in options.items() if value is not None}


def _check(shape: tuple[int, ...], dtype: torch.dtype, target: Tensor, axis: int, options: Options) -> None:
    by_arrays.check(shape, dtype, target, axis, {"reduction": "none", **options})


def _by_arrays(input: Tensor, target: Tensor, axis: int, options: Options) -> LogProbs:
    return LogProbs(*array.log_probs(input, target, xp=torch_namespace, axis=axis, **options))


def _by_chunks(layer: Layer, target: Tensor, options: Options, max_memory: int | str | None) -> LogProbs:
    """Return the results of a layer on another device. The backward pass computes the logits of each chunk again."""

    def of_part(x: Tensor, weight: Tensor, bias: Tensor | None, t: Tensor) -> LogProbs:
        return _by_arrays(by_arrays.logits_of(x, weight, bias), t, 1, options)

    input, weight, bias = layer
    flat = input.reshape(target.numel(), input.shape[-1]), target.flatten()
    xs, ts = (torch.split(rows, rows_at_once(weight, max_memory)) for rows in flat)
    found = [checkpoint(of_part, x, weight, bias, t, use_reentrant=False) for x, t in zip(xs, ts, strict=True)]
    return LogProbs(*(torch.cat(values).reshape(target.shape) for values in zip(*found, strict=True)))


class _OfLogits(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, axis: int, options: Options) -> tuple[Tensor, Tensor]:
        numbers, names, tensors = split(options)
        ctx.save_for_backward(input, target, *tensors)
        ctx.more = axis, numbers, names
        with hosted_by(HOST):
            return _tensors(softmaxloss.log_probs(as_array(input), as_array(target), axis=axis, **as_arrays(options)))

    @staticmethod
    def backward(ctx: Any, *d_rows: Tensor) -> Any:
        input, target, *tensors = ctx.saved_tensors
        axis, numbers, names = ctx.more
        options = joined(numbers, names, tensors)
        if _asks_for_more(d_rows):
            of_logits = torch.func.vjp(lambda z: tuple(_by_arrays(z, target, axis, options)), input)[1]
            (d_input,) = of_logits(tuple(d_rows))
        else:
            with hosted_by(HOST):
                d_logits = softmaxloss.log_probs_and_grad(
                    as_array(input), as_array(target), axis=axis, **_derivatives(d_rows), **as_arrays(options)
                )[1]
            d_input = as_tensor(d_logits)
        return d_input, None, None, None


class _OfLayer(Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        input, weight, bias, target, options, max_memory = arguments
        numbers, names, tensors = split(options)
        ctx.save_for_backward(input, weight, bias, target, *tensors)
        ctx.more = numbers, names, max_memory
        x, w, b = _arrays(input, weight, bias)
        with hosted_by(HOST):
            return _tensors(
                softmaxloss.linear_log_probs(x, w, as_array(target), b, max_memory=max_memory, **as_arrays(options))
            )

    @staticmethod
    def backward(ctx: Any, *d_rows: Tensor) -> Any:
        input, weight, bias, target, *tensors = ctx.saved_tensors  # checkpoints give them only once
        layer, (numbers, names, max_memory) = (input, weight, bias), ctx.more
        options, wanted = joined(numbers, names, tensors), ctx.needs_input_grad[:3]
        if _asks_for_more(d_rows):
            axis = layer[0].dim() - 1
            gradients = by_arrays.pull_back(
                lambda z: tuple(_by_arrays(z, target, axis, options)), layer, wanted, tuple(d_rows)
            )
        else:
            x, w, b = _arrays(*layer)
            wrt = [name for name, asked in zip(INPUTS, wanted, strict=True) if asked]
            more = {"max_memory": max_memory, "wrt": wrt, **_derivatives(d_rows), **as_arrays(options)}
            with hosted_by(HOST):
                arrays = softmaxloss.linear_log_probs_and_grad(x, w, as_array(target), b, **more)[1]
            gradients = [
                None if of is None else as_tensor(of).to(tensor.dtype) for of, tensor in zip(arrays, layer, strict=True)
            ]
        return *gradients, None, None, None


def _tensors(found: LogProbs) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(found.log_prob), torch.as_tensor(found.entropy)


def _arrays(*layer: Tensor | None) -> list[Any]:
    return [None if tensor is None else as_array(tensor) for tensor in layer]


def _derivatives(d_rows: Sequence[Tensor]) -> Options:
    return {name: as_array(d) for name, d in zip(("d_log_prob", "d_entropy"), d_rows, strict=True)}


def _asks_for_more(d_rows: Sequence[Tensor]) -> bool:
    """Return whether a backward pass must be differentiable itself, or gets a batch of gradients, as under `vmap`."""
    return torch.is_grad_enabled() or any(map(is_batched, d_rows))
