"""The loss of a causal language model without its logits: they are computed only if something else uses them.

`fuse_head` makes the linear layers of a model's head return `HeadLogits`: hidden states and weights, not yet
multiplied. Between head and loss, a model may take or reshape rows, scale or cap logits, or add the logits of an
adapter. These operations are noted, not computed. A call of `torch.nn.functional.cross_entropy` becomes a call of
`linear_cross_entropy` with the noted operations, and a call of our `log_probs` becomes one of `linear_log_probs`. Any
other use, such as sampling the next token, computes the logits as the model would have computed them.
"""

from __future__ import annotations

import weakref
from copy import deepcopy
from functools import partial
from inspect import signature
from math import inf
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils._pytree import tree_map_only

from softmaxloss.torch.internals import new_without_memory, version_of, without_torch_function
from softmaxloss.torch.linear import linear_cross_entropy
from softmaxloss.torch.log_probabilities import linear_log_probs, log_probs

if TYPE_CHECKING:
    from collections.abc import Callable

Model = TypeVar("Model", bound=nn.Module)
T = TypeVar("T")


def fuse_head(model: Model, *, max_memory: int | str | None = None) -> Model:
    """Let a causal language model compute its loss without holding the logits.

    It works for models of Hugging Face whose `get_output_embeddings()` returns a linear layer, with or without
    adapters. Parameters and checkpoints stay the same. The logits in the model's output are computed when they are
    first used.

    Parameters
    ----------
    model : torch.nn.Module
        A model whose method `get_output_embeddings` returns its head.
    max_memory : int or str, optional
        As in `linear_cross_entropy`.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If the model has no head of linear layers.

    See Also
    --------
    unfuse_head
    """
    for layer in _layers(model):
        layer.__dict__.update(forward=MethodType(_fused_forward, layer), max_memory_of_loss=max_memory)
    return model


def unfuse_head(model: Model) -> Model:
    """Make the head of a model return ordinary logits again, as before `fuse_head`. Return the model."""
    for layer in _layers(model):
        for name in ("forward", "max_memory_of_loss"):
            layer.__dict__.pop(name, None)
    return model


def _layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a model's head that have one output per class. With adapters there are several."""
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    found = [m for m in head.modules() if isinstance(m, nn.Linear)] if isinstance(head, nn.Module) else []
    n_classes = max((layer.out_features for layer in found), default=0)
    layers = [layer for layer in found if layer.out_features == n_classes]
    if not layers:
        raise TypeError(
            f"model must have a head of linear layers, got {type(model).__name__} with {head!r}; pass a causal "
            "language model whose get_output_embeddings() returns its head"
        )
    return layers


def _fused_forward(layer: nn.Linear, hidden: Tensor) -> Tensor:
    notes = _Notes(((hidden, layer.weight),), layer.bias, None, layer.__dict__["max_memory_of_loss"])
    return HeadLogits(notes, partial(linear, hidden, layer.weight, layer.bias), hidden.dtype)


class _Notes(NamedTuple):
    """How logits are made: z is the sum of hidden @ weight.T over the terms, plus bias. Then capped * tanh(z)."""

    terms: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None
    capped: float | None  # None if logits are z, without tanh
    max_memory: int | str | None

    def of_rows(self, function: Callable[[Tensor], Tensor]) -> _Notes:
        """Return the notes after rows are taken or reshaped, given a function that does so with hidden states."""
        return self._replace(terms=tuple((function(hidden), weight) for hidden, weight in self.terms))

    def times(self, factor: float) -> _Notes:
        """Return the notes of logits times a number."""
        if self.capped is not None:
            return self._replace(capped=self.capped * factor)
        bias = None if self.bias is None else self.bias * factor
        return self.of_rows(lambda hidden: hidden * factor)._replace(bias=bias)

    def plus(self, other: _Notes) -> _Notes | None:
        """Return the notes of a sum of logits; None if notes cannot express it."""
        biases = [notes.bias for notes in (self, other) if notes.bias is not None]
        if self.capped is not None or other.capped is not None or len(biases) > 1:
            return None
        return self._replace(terms=self.terms + other.terms, bias=biases[0] if biases else None)

    def pass_to(self, function: Callable[..., T], target: Tensor, temperature: float = 1.0, **options: Any) -> T:
        """Return the result of a function of a linear layer for these logits."""
        hidden, weight = self.terms[0]
        if len(self.terms) > 1:
            hidden = torch.cat([hidden for hidden, _ in self.terms], -1)
            weight = torch.cat([weight for _, weight in self.terms], 1)
        if self.capped is not None:
            options["softcap"], temperature = 1.0, temperature / self.capped
        options |= {"linear_bias": self.bias, "max_memory": self.max_memory, "temperature": temperature}
        return function(hidden, weight, target, **options)


class HeadLogits(Tensor):
    """Lazy logits. They are computed at their first use other than in a loss."""

    notes: _Notes
    make: Callable[[], Tensor]
    made: Tensor | None
    version: int | None  # the version of `made` when it was made; None if PyTorch does not count changes
    derived: list[weakref.ref[HeadLogits]]  # lazy logits that were made from these
    sources: list[tuple[Tensor, int | None]]  # the tensors that the logits are made from, with their versions

    def __new__(cls, notes: _Notes, make: Callable[[], Tensor], dtype: torch.dtype) -> Self:
        """Return lazy logits, given the notes about them and the function that computes them."""
        hidden, weight = notes.terms[0]
        logits = new_without_memory(cls, (*hidden.shape[:-1], len(weight)), dtype, hidden.device)
        logits.notes, logits.make, logits.made, logits.version, logits.derived = notes, make, None, None, []
        tensors = [*(tensor for term in notes.terms for tensor in term), notes.bias]
        logits.sources = [(tensor, version_of(tensor)) for tensor in tensors if tensor is not None]
        return logits

    def value(self) -> Tensor:
        """Return the logits, as the model would have computed them."""
        if self.made is None:
            self.refuse_if_outdated()
            self.made = self.make()
            self.version = version_of(self.made)
            # views or copies of `made` are computed now, before `made` can be changed in place
            for reference in self.derived:
                if (logits := reference()) is not None:
                    logits.value()
        return self.made

    def is_as_noted(self) -> bool:
        """Return whether nobody has changed the logits in place."""
        return self.made is None or (self.version is not None and self.version == version_of(self.made))

    def refuse_if_outdated(self) -> None:
        """Raise RuntimeError if a source of these logits, such as the weights, has changed since they were returned."""
        if any(version is not None and version != version_of(tensor) for tensor, version in self.sources):
            raise RuntimeError(
                "the head of the model, or its input, has changed since these logits were returned, so they can no "
                "longer be computed; use them before the change, or call the model again"
            )

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a function of lazy logits without computing the logits, if this is possible."""
        kwargs = kwargs or {}
        if function in _OF_SHAPE_AND_DTYPE:
            with without_torch_function():
                return function(*args, **kwargs)
        if function is cross_entropy:
            given = {name: v for name, v in _CROSS_ENTROPY.bind(*args, **kwargs).arguments.items() if v is not None}
            logits = given.pop("input")
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and logits.dim() <= 2 and given.keys().isdisjoint(_OLD):
                logits.refuse_if_outdated()
                return logits.notes.pass_to(linear_cross_entropy, **given)
        if function is log_probs:
            logits, target, options = args[0], args[1], dict(kwargs)
            dim, caps_twice = options.pop("dim"), options["softcap"] is not None
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and dim in (-1, logits.dim() - 1) and not caps_twice:
                logits.refuse_if_outdated()
                del options["softcap"]
                return logits.notes.pass_to(linear_log_probs, target, **options)
        recorded = _noted(function, args, kwargs)
        if recorded is not None:
            return recorded
        args, kwargs = _computed(args, kwargs)
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Compute the logits for operations that did not pass through `__torch_function__`."""
        args, kwargs = _computed(args, kwargs or {})
        return function(*args, **kwargs)


def _computed(*arguments: Any) -> Any:
    return tree_map_only(HeadLogits, HeadLogits.value, arguments)


_CROSS_ENTROPY, _OLD = signature(cross_entropy), ("size_average", "reduce")
_OF_SHAPE_AND_DTYPE = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point}
_OF_SHAPE_AND_DTYPE |= {getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout")}


def _noted(function: Any, args: Any, kwargs: Any) -> HeadLogits | None:
    """Return the result of a function as lazy logits; None if notes cannot express it."""
    note, logits = _NOTES_OF.get(function), args[0] if args else None
    if note is None or not isinstance(logits, HeadLogits) or logits.made is not None:
        return None
    found = note(function, *args, **kwargs)
    if found is None:
        return None
    if note is _of_rows:  # the caller may change the index before the logits are computed
        args = (logits, deepcopy(args[1]))

    def make() -> Tensor:
        values, names = _computed(args, kwargs)
        return function(*values, **names)  # type: ignore[no-any-return]

    notes, dtype = (found, logits.dtype) if isinstance(found, _Notes) else found
    result = HeadLogits(notes, make, dtype)
    parents = [parent for parent in args if isinstance(parent, HeadLogits)]  # a sum has two
    result.sources = [source for parent in parents for source in parent.sources]
    for parent in parents:
        parent.derived.append(weakref.ref(result))
    return result


def _of_tanh(_: Any, logits: HeadLogits, **more: Any) -> _Notes | None:
    return logits.notes._replace(capped=1.0) if logits.notes.capped is None and not more else None


def _of_product(_: Any, logits: HeadLogits, factor: Any = None, **more: Any) -> _Notes | None:
    return logits.notes.times(factor) if _is_factor(factor) and not more else None


def _of_quotient(_: Any, logits: HeadLogits, divisor: Any = None, **more: Any) -> _Notes | None:
    return logits.notes.times(1 / divisor) if _is_factor(divisor) and not more else None


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < inf


def _of_sum(_: Any, logits: HeadLogits, other: Any = None, **more: Any) -> _Notes | None:
    added = isinstance(other, HeadLogits) and other.made is None and other.shape == logits.shape and not more
    return logits.notes.plus(other.notes) if added else None


def _of_new_shape(function: Any, logits: HeadLogits, *args: Any, **kwargs: Any) -> _Notes | None:
    shape = function(torch.empty(logits.shape, device="meta"), *args, **kwargs).shape
    if shape[-1:] != logits.shape[-1:]:
        return None
    return logits.notes.of_rows(lambda hidden: hidden.reshape(*shape[:-1], hidden.shape[-1]))


def _of_new_dtype(function: Any, logits: HeadLogits, *args: Any, **kwargs: Any) -> tuple[_Notes, torch.dtype] | None:
    like = function(torch.empty(0, dtype=logits.dtype, device=logits.device), *args, **kwargs)
    return (logits.notes, like.dtype) if like.is_floating_point() and like.device == logits.device else None


def _of_rows(_: Any, logits: HeadLogits, index: Any) -> _Notes | None:
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, bool) or (isinstance(part, Tensor) and part.dtype is torch.bool) for part in parts):
        return None
    axes = [part for part in parts if part is not None and part is not Ellipsis]
    skips = any(part is Ellipsis for part in parts)
    names_classes = len(axes) == logits.dim() or (skips and parts[-1] is not Ellipsis)
    if names_classes and not (isinstance(parts[-1], slice) and parts[-1] == slice(None)):
        return None
    return logits.notes.of_rows(lambda hidden: hidden[index])


_NOTES_OF: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((Tensor.tanh, torch.tanh), _of_tanh),
    **dict.fromkeys((Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul), _of_product),
    **dict.fromkeys((Tensor.div, Tensor.__truediv__, torch.div, torch.true_divide), _of_quotient),
    **dict.fromkeys((Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add), _of_sum),
    **dict.fromkeys((Tensor.view, Tensor.reshape, Tensor.flatten), _of_new_shape),
    **dict.fromkeys((Tensor.float, Tensor.to, Tensor.contiguous), _of_new_dtype),
    Tensor.__getitem__: _of_rows,
}
