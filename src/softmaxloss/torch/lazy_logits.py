"""Logits of a linear layer that are computed only if something else than a loss uses them.

`HeadLogits` hold hidden states and weights, not yet multiplied. Between head and loss, a model may take or reshape
rows, scale or cap logits, or add the logits of an adapter. These operations are noted, not computed. A call of
`torch.nn.functional.cross_entropy` becomes a call of `linear_cross_entropy` with the noted operations, and a call of
our `log_probs` becomes one of `linear_log_probs`. Any other use, such as sampling the next token, computes the logits
as the model would have computed them.

PyTorch sees lazy logits as tensors of its graph, with gradients, hooks and versions like those of other tensors. Only
below that, where it would compute numbers, `__torch_dispatch__` notes an operation, or computes the logits first.
"""

from __future__ import annotations

import weakref
from inspect import signature
from math import inf
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import cross_entropy, linear
from torch.utils._pytree import tree_map_only

from softmaxloss.torch.by_arrays import without_autocast
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
        ctx.save_for_backward(hidden, weight)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype

        def make() -> Tensor:
            with without_autocast(hidden):
                return linear(*(None if t is None else t.detach().to(dtype) for t in (hidden, weight, bias)))  # type: ignore[arg-type]

        notes = Notes((Term(hidden, weight, ()),), bias, 1.0, None, max_memory)
        return HeadLogits(notes, make, torch.empty((*hidden.shape[:-1], len(weight)), dtype=dtype, device="meta"))

    @staticmethod
    def backward(ctx: Any, d_logits: Tensor) -> Any:
        """Return the gradients of hidden states, weights and bias."""
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        rows = d_logits.reshape(-1, len(weight))
        d_hidden = (d_logits @ weight.to(d_logits.dtype)).to(hidden.dtype) if of_hidden else None
        inputs = hidden.reshape(-1, hidden.shape[-1]).to(rows.dtype) if of_weight else None
        d_weight = None if inputs is None else (rows.T @ inputs).to(weight.dtype)
        return d_hidden, d_weight, rows.sum(0).to(weight.dtype) if of_bias else None, None


class HeadLogits(Tensor):
    """Lazy logits. They are computed at their first use other than in a loss."""

    notes: Notes
    make: Callable[[], Tensor]
    made: Tensor | None
    parents: Sequence[HeadLogits]  # the lazy logits that these are made from
    derived: list[weakref.ref[HeadLogits]]  # those that are made from these
    sources: list[tuple[Tensor, int | None]]  # the tensors that the head multiplied, with their versions

    def __new__(
        cls,
        notes: Notes,
        make: Callable[[], Tensor],
        like: Tensor,
        parents: Sequence[HeadLogits] = (),
    ) -> Self:
        """Return lazy logits, given the notes about them, the function that computes them, and a tensor like them."""
        logits = new_without_memory(cls, like, notes.terms[0].hidden.device)
        logits.notes, logits.make, logits.made, logits.parents, logits.derived = notes, make, None, parents, []
        tensors = [] if parents else [*notes.terms[0][:2], notes.bias]
        logits.sources = [(tensor, version_of(tensor)) for tensor in tensors if tensor is not None]
        for parent in parents:
            parent.derived.append(weakref.ref(logits))
        return logits

    def value(self) -> Tensor:
        """Return the logits, as the model would have computed them, outside of PyTorch's graph."""
        for parent in self.parents:
            parent.value()
        if self.made is None:
            self.refuse_if_outdated()
            self.made = self.make()
            # views or copies of `made` are computed now, before `made` can be changed in place
            for reference in self.derived:
                if (logits := reference()) is not None:
                    logits.value()
        return self.made

    def is_as_noted(self) -> bool:
        """Return whether nobody has looked at the logits, or waits for their gradient."""
        with without_torch_function():
            leaf = self.requires_grad and self.is_leaf
            watched = leaf or self.retains_grad or bool(self._backward_hooks) or _passes_functions(self.grad_fn)
        return self.made is None and not watched and all(parent.is_as_noted() for parent in self.parents)

    def refuse_if_outdated(self) -> None:
        """Raise RuntimeError if a source of these logits, such as the weights, has changed since they were returned."""
        for parent in self.parents:
            parent.refuse_if_outdated()
        if any(version is not None and version != version_of(tensor) for tensor, version in self.sources):
            raise RuntimeError(
                "the head of the model, or its input, has changed since these logits were returned, so they can no "
                "longer be computed; use them before the change, or call the model again"
            )

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a loss without computing the logits, if this is possible; let PyTorch do everything else."""
        kwargs = kwargs or {}
        if function is cross_entropy:
            given = {name: v for name, v in _CROSS_ENTROPY.bind(*args, **kwargs).arguments.items() if v is not None}
            logits, has_labels = given.pop("input"), not given["target"].is_floating_point()
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and has_labels and logits.dim() <= 2 and given.keys().isdisjoint(_OLD):
                logits.refuse_if_outdated()
                return logits.notes.pass_to(linear_cross_entropy, graded=logits.requires_grad, **given)
        if function is log_probs:
            logits, target, options = args[0], args[1], dict(kwargs)
            dim, caps_twice = options.pop("dim"), options["softcap"] is not None
            noted = isinstance(logits, HeadLogits) and logits.is_as_noted()
            if noted and dim in (-1, logits.dim() - 1) and not caps_twice:
                logits.refuse_if_outdated()
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
        args, kwargs = _computed(args, kwargs or {})
        return function(*args, **kwargs)


def _passes_functions(node: Any) -> bool:
    """Return whether a gradient passes a `torch.autograd.Function` on its way to the head, as with hooks of modules."""
    if node is None or isinstance(node, Product._backward_cls):  # noqa: SLF001
        return False
    return isinstance(node, BackwardCFunction) or any(_passes_functions(other) for other, _ in node.next_functions)


def _computed(*arguments: Any) -> Any:
    return tree_map_only(HeadLogits, HeadLogits.value, arguments)


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
    if note is None or not isinstance(logits, HeadLogits) or logits.made is not None:
        return None
    if note is _of_index:  # the caller may change it before the logits are computed
        args = logits, [None if part is None else part.clone() for part in args[1]]
    notes = note(function, *args, **kwargs)
    if notes is None:
        return None

    def make() -> Tensor:
        values, names = _computed(args, kwargs)
        return function(*values, **names)  # type: ignore[no-any-return]

    like = _like(function, args, {name: value for name, value in kwargs.items() if name != "device"})
    return HeadLogits(notes, make, like, [parent for parent in args if isinstance(parent, HeadLogits)])


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
    return logits.notes.times(factor) if _is_factor(factor) else None


def _of_quotient(_: Any, logits: HeadLogits, divisor: Any) -> Notes | None:
    return logits.notes.times(1 / divisor) if _is_factor(divisor) else None


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < inf


def _of_sum(_: Any, logits: HeadLogits, other: Any, alpha: float = 1) -> Notes | None:
    added = isinstance(other, HeadLogits) and other.made is None and other.shape == logits.shape
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
