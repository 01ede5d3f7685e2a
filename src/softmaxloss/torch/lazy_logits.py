"""Logits of a linear layer. They are computed only when an operation other than a loss uses them.

`HeadLogits` hold hidden states and weights, not yet multiplied. Between head and loss, a model may take or reshape
rows, scale or cap logits, or add the logits of an adapter. These operations are noted, not computed. A call of
`torch.nn.functional.cross_entropy` becomes a call of `linear_cross_entropy` with the noted operations, and a call of
our `log_probs` becomes one of `linear_log_probs`. Any other use, such as sampling the next token, computes the logits
as the model would have computed them.

PyTorch puts lazy logits into its graph, as it does with other tensors. When PyTorch needs their numbers, it calls
`__torch_dispatch__`. This notes the operation, or computes the logits.
"""

from __future__ import annotations

import weakref
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import cross_entropy, linear
from torch.utils._pytree import tree_map_only

from softmaxloss.torch.by_arrays import is_autocast, without_autocast
from softmaxloss.torch.internals import new_without_memory, version_of, without_torch_function
from softmaxloss.torch.lazy_notes import Notes, Term
from softmaxloss.torch.linear import linear_cross_entropy
from softmaxloss.torch.log_probabilities import linear_log_probs, log_probs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ATEN = torch.ops.aten


class Product(Function):
    """The node of lazy logits in PyTorch's graph."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, max_memory: int | str | None
    ) -> HeadLogits:
        """Return the lazy product of hidden states and the transposed weights, plus bias."""
        of_hidden, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(hidden if of_weight else None, weight if of_hidden else None)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        sources = [None if tensor is None else tensor.detach() for tensor in (hidden, weight, bias)]
        dtype = _autocast_dtype(hidden)

        def make() -> Tensor:
            with without_autocast(hidden):
                return linear(*(t if t is None or dtype is None else t.to(dtype) for t in sources))  # type: ignore[arg-type]

        value = LazyValue(make, sources=[tensor for tensor in sources if tensor is not None])
        shape = (*hidden.shape[:-1], len(weight))
        notes = Notes((Term(hidden, weight, ()),), bias, 1.0, None, max_memory)
        return HeadLogits(notes, value, torch.empty(shape, dtype=dtype or hidden.dtype, device="meta"))

    @staticmethod
    def backward(ctx: Any, d_logits: Tensor) -> Any:
        """Return the gradients of hidden states, weights and bias."""
        (hidden, weight), dtypes = ctx.saved_tensors, ctx.dtypes
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        rows = d_logits.reshape(-1, d_logits.shape[-1])
        d_hidden = (d_logits @ weight.to(d_logits.dtype)).to(dtypes[0]) if of_hidden else None
        inputs = hidden.reshape(-1, hidden.shape[-1]).to(rows.dtype) if of_weight else None
        d_weight = None if inputs is None else (rows.T @ inputs).to(dtypes[1])
        return d_hidden, d_weight, rows.sum(0).to(dtypes[2]) if of_bias else None, None


def _autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that `torch.autocast` multiplies in; None where it changes nothing."""
    changes = is_autocast(tensor) and tensor.dtype is not torch.float64
    return torch.get_autocast_dtype(tensor.device.type) if changes else None


class LazyValue:
    """The numbers of lazy logits. They are computed once, and know nothing of PyTorch's graph."""

    def __init__(
        self, make: Callable[[], Tensor], *, parents: Sequence[LazyValue] = (), sources: Sequence[Tensor] = ()
    ) -> None:
        self.make: Callable[[], Tensor] | None = make
        self.made: Tensor | None = None
        self.parents = parents
        self.sources = [(tensor, version_of(tensor)) for tensor in sources]
        self.derived: list[weakref.ref[LazyValue]] = []  # the values that are made from this one
        for parent in parents:
            parent.derived.append(weakref.ref(self))

    def get(self) -> Tensor:
        """Return the numbers, as the model would have computed them."""
        for parent in self.parents:
            parent.get()
        make = self.make
        if self.made is None and make is not None:
            self.refuse_if_outdated()
            with torch.inference_mode(False):
                self.made = make()
            derived, self.make, self.parents, self.sources, self.derived = self.derived, None, (), [], []
            # views or copies of `made` are computed now, before `made` can be changed in place
            for reference in derived:
                if (value := reference()) is not None:
                    value.get()
        return self.made  # type: ignore[return-value]  # if `make` is None, this is the result

    def refuse_if_outdated(self) -> None:
        """Raise RuntimeError if a source, such as the weights, has changed since the logits were returned."""
        for parent in self.parents:
            parent.refuse_if_outdated()
        if any(version is not None and version != version_of(tensor) for tensor, version in self.sources):
            raise RuntimeError(
                "the head of the model, or its input, has changed since these logits were returned, so they can no "
                "longer be computed; use them before the change, or call the model again"
            )


class HeadLogits(Tensor):
    """Lazy logits. They are computed at their first use other than in a loss."""

    notes: Notes
    lazy: LazyValue
    parents: Sequence[HeadLogits]  # the lazy logits to which a gradient of these goes on

    def __new__(cls, notes: Notes, lazy: LazyValue, like: Tensor, parents: Sequence[HeadLogits] = ()) -> Self:
        """Return lazy logits, given the notes about them, their value, and a tensor like them."""
        logits = new_without_memory(cls, like, notes.terms[0].hidden.device)
        logits.notes, logits.lazy, logits.parents = notes, lazy, parents
        return logits

    def value(self) -> Tensor:
        """Return the logits, as the model would have computed them, outside of PyTorch's graph."""
        return self.lazy.get()

    def is_as_noted(self) -> bool:
        """Return True if the logits are not computed and nobody waits for their gradient."""
        with without_torch_function():
            leaf = self.requires_grad and self.is_leaf
            watched = leaf or self.retains_grad or bool(self._backward_hooks) or _passes_functions(self.grad_fn)
        return self.lazy.made is None and not watched and all(parent.is_as_noted() for parent in self.parents)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a loss without computing the logits, if this is possible; let PyTorch do everything else."""
        kwargs = kwargs or {}
        if function is cross_entropy:
            given = {name: v for name, v in _CROSS_ENTROPY.bind(*args, **kwargs).arguments.items() if v is not None}
            logits, has_labels = given.pop("input"), not given["target"].is_floating_point()
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and has_labels and logits.dim() <= 2 and given.keys().isdisjoint(_OLD):
                logits.lazy.refuse_if_outdated()
                return logits.notes.pass_to(linear_cross_entropy, graded=logits.requires_grad, **given)
        if function is log_probs:
            logits, target, options = args[0], args[1], dict(kwargs)
            dim, caps_twice = options.pop("dim"), options["softcap"] is not None
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and dim in (-1, logits.dim() - 1) and not caps_twice:
                logits.lazy.refuse_if_outdated()
                del options["softcap"]
                return logits.notes.pass_to(linear_log_probs, target, logits.requires_grad, **options)
        with without_torch_function():
            if function in _OF_MEMORY or (getattr(function, "__module__", None) or "").startswith("softmaxloss."):
                args, kwargs = tree_map_only(HeadLogits, _ATEN.alias.default, (args, kwargs))
            return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Note an operation, or compute the logits for it."""
        noted = _noted(function, args, kwargs or {})
        if noted is not None:
            return noted
        args, kwargs = tree_map_only(HeadLogits, HeadLogits.value, (args, kwargs or {}))
        return function(*args, **kwargs)


def _passes_functions(node: Any) -> bool:
    """Return whether a custom `torch.autograd.Function` lies between a node and the head, as hooks of modules do."""
    if node is None or isinstance(node, Product._backward_cls):  # noqa: SLF001
        return False
    return isinstance(node, BackwardCFunction) or any(_passes_functions(other) for other, _ in node.next_functions)


_CROSS_ENTROPY, _OLD = signature(cross_entropy), ("size_average", "reduce")
# What reads the memory of a tensor, and is no operation.
_OF_MEMORY = {
    getattr(Tensor, name)
    for name in (
        *("__array__", "__deepcopy__", "__dlpack__", "__reduce_ex__", "__repr__", "data_ptr", "numpy", "storage"),
        *("share_memory_", "tolist", "untyped_storage"),
    )
}


def _noted(function: Any, args: Any, kwargs: Any) -> HeadLogits | None:
    """Return the result of an operation as lazy logits; None if notes cannot express it."""
    note, logits = _NOTES_OF.get(function), args[0] if args else None
    if note is None or not isinstance(logits, HeadLogits) or logits.lazy.made is not None:
        return None
    if note is _of_index:  # the caller may change the index before the logits are computed
        args = logits, [None if part is None else part.clone() for part in args[1]]
    notes = note(function, *args, **kwargs)
    if notes is None:
        return None
    lazies = tree_map_only(HeadLogits, lambda logits: logits.lazy, args)

    def make() -> Tensor:
        return function(*tree_map_only(LazyValue, LazyValue.get, lazies), **kwargs)  # type: ignore[no-any-return]

    parents = [parent for parent in args if isinstance(parent, HeadLogits)]
    value = LazyValue(make, parents=[parent.lazy for parent in parents])
    if function is _ATEN.detach.default or not torch.is_grad_enabled():
        notes, parents = notes.detached(), []
    like = _like(function, args, {name: option for name, option in kwargs.items() if name != "device"})
    return HeadLogits(notes, value, like, parents)


def _like(function: Any, args: Any, kwargs: Any) -> Tensor:
    """Return a tensor without memory that has the shape, the strides and the dtype of a result."""

    def on_meta(logits: HeadLogits) -> Tensor:
        return torch.empty_strided(logits.shape, logits.stride(), dtype=logits.dtype, device="meta")

    return function(*tree_map_only(HeadLogits, on_meta, args), **kwargs)  # type: ignore[no-any-return]


def _same(_: Any, logits: HeadLogits, **__: Any) -> Notes:
    return logits.notes


def _of_tanh(_: Any, logits: HeadLogits) -> Notes | None:
    return logits.notes._replace(capped=1.0) if logits.notes.capped is None else None


def _of_product(_: Any, logits: HeadLogits, factor: Any) -> Notes | None:
    return logits.notes.times(factor) if isinstance(factor, int | float) else None


def _of_quotient(_: Any, logits: HeadLogits, divisor: Any) -> Notes | None:
    return logits.notes.times(1 / divisor) if isinstance(divisor, int | float) and divisor else None


def _of_sum(_: Any, logits: HeadLogits, other: Any, alpha: float = 1) -> Notes | None:
    added = isinstance(other, HeadLogits) and other.lazy.made is None and other.shape == logits.shape
    return logits.notes.plus(other.notes) if added and alpha == 1 and other.dtype == logits.dtype else None


def _of_new_dtype(_: Any, logits: HeadLogits, **kwargs: Any) -> Notes | None:
    floats = (torch.float16, torch.bfloat16, torch.float32)  # the loss of a linear layer is a float32 for these
    near = kwargs.get("device") in (None, logits.device)
    return logits.notes if near and {logits.dtype, kwargs.get("dtype") or logits.dtype} <= {*floats} else None


def _of_new_shape(function: Any, logits: HeadLogits, size: Any) -> Notes | None:
    shape = _like(function, (logits, size), {}).shape
    if shape[-1:] != logits.shape[-1:]:
        return None
    return logits.notes.of_rows(lambda hidden: hidden.reshape(*shape[:-1], hidden.shape[-1]))


def _along(function: Any, logits: HeadLogits, dim: int = 0, *args: Any) -> Notes | None:
    """Note what is done along a dimension, which may not be that of the classes."""
    n_dims = logits.dim() + (function is _ATEN.unsqueeze.default)
    if dim % n_dims == n_dims - 1:
        unchanged = function is _ATEN.slice.Tensor and _like(function, (logits, dim, *args), {}).shape == logits.shape
        return logits.notes if unchanged else None
    return logits.notes.of_rows(lambda hidden: function(hidden, dim, *args))


def _of_index(function: Any, logits: HeadLogits, index: Any) -> Notes | None:
    masks = any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in index)
    if masks or (len(index) == logits.dim() and index[-1] is not None):
        return None
    return logits.notes.of_rows(lambda hidden: function(hidden, index))


_NOTES_OF: dict[Any, Callable[..., Notes | None]] = {
    **dict.fromkeys((_ATEN.detach.default, _ATEN.clone.default), _same),
    _ATEN.tanh.default: _of_tanh,
    _ATEN.mul.Tensor: _of_product,
    _ATEN.div.Tensor: _of_quotient,
    _ATEN.add.Tensor: _of_sum,
    _ATEN._to_copy.default: _of_new_dtype,  # noqa: SLF001
    **dict.fromkeys((_ATEN.view.default, _ATEN._unsafe_view.default), _of_new_shape),  # noqa: SLF001
    **dict.fromkeys((_ATEN.slice.Tensor, _ATEN.select.int, _ATEN.unsqueeze.default), _along),
    _ATEN.index.Tensor: _of_index,
}
