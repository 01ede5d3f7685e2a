"""The results for each row of a linear layer, whose logits are computed for one block of classes at a time.

The summaries of the blocks merge into the summary of the row. The change of a result (see derivatives.py) is also a sum
over blocks. No logits are kept. They are computed again whenever they are needed, also in the backward pass.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from softmaxloss.array.summary import Summary, look, merge, summarize, whole
from softmaxloss.jax.derivatives import added, change_by_others, change_of, is_zero

if TYPE_CHECKING:
    from softmaxloss.array.wanted import Wanted
    from softmaxloss.jax.derivatives import Array, Asked, Numbers, Others

    Layer = tuple[Array, Array, Array | None]  # features, weight and bias


@partial(jax.jit, static_argnums=0)
def of_layer(asked: Asked, layer: Layer, others: Others) -> Numbers:
    """Return the results for rows of a linear layer's logits."""
    return _of_layer(asked, layer, others)


def _plain(asked: Asked, layer: Layer, others: Others) -> Numbers:
    rows = _rows(asked, layer, others)
    return asked.numbers_of(rows, _summary(asked, layer, rows))


_of_layer = jax.custom_jvp(_plain, nondiff_argnums=(0,))


def _change(asked: Asked, primals: tuple[Layer, Others], tangents: tuple[Any, Any]) -> tuple[Numbers, Numbers]:
    (layer, others), (d_layer, d_others) = primals, tangents
    changes = change_by_others(partial(_plain, asked, layer), others, d_others)
    d_layer = [None if of is None or is_zero(of) else of for of in d_layer]
    if any(of is not None for of in d_layer):
        changes = added(changes, _change_by_layer(asked, layer, _rows(asked, layer, others), tuple(d_layer)))
    numbers = _of_layer(asked, layer, others)
    return numbers, changes or tuple(jnp.zeros_like(of) for of in numbers)


_of_layer.defjvp(_change, symbolic_zeros=True)


def _rows(asked: Asked, layer: Layer, others: Others) -> Wanted:
    """Return the targets and options of the rows. The last block is filled up with classes that do not exist."""
    features, weight, _ = layer
    n_classes, missing = len(weight), -len(weight) % asked.block
    rows = asked.of((*features.shape[:-1], n_classes), dtype_of(layer), others)
    if not missing:
        return rows
    frame, p, r, exists = rows.frame, rows.p, rows.r, rows.exists
    exists = _filled(jnp.ones(frame.index.shape, bool) if exists is None else exists, missing)
    r = frame.numbers(exists) if isinstance(r, float) else _filled(r, missing)
    index = jnp.arange(n_classes + missing, dtype=frame.index.dtype).reshape(exists.shape)
    p = None if p is None else _filled(p, missing)
    return rows._replace(frame=frame._replace(index=index), p=p, r=r, exists=exists)


def _filled(array: Array, missing: int, axis: int = -1) -> Array:
    """Return an array with `missing` zeros, or False, appended along an axis."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return jnp.pad(array, widths) if missing else array


def dtype_of(layer: Layer) -> Any:
    """Return the widest dtype of a layer's arrays."""
    return jnp.result_type(*(of for of in layer if of is not None))


def _blocks(asked: Asked, parameters: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
    """Return weight and bias, or their changes, split into blocks of classes along a new first axis."""

    def blocks(array: Array) -> Array:
        filled = _filled(array, -len(array) % asked.block, axis=0)
        return filled.reshape(-1, asked.block, *array.shape[1:])

    return tuple(None if of is None else blocks(of) for of in parameters)


def _firsts(asked: Asked, rows: Wanted) -> Array:
    return jnp.arange(0, rows.frame.index.shape[-1], asked.block, dtype=rows.frame.index.dtype)


def _of_block(asked: Asked, rows: Wanted, first: Array) -> Wanted:
    return rows.of_block(first, lambda array: lax.dynamic_slice_in_dim(array, first, asked.block, axis=array.ndim - 1))


def _product(rows: Wanted, features: Array, weight: Array) -> Array:
    """Return features @ weight.T. Products of half precision are added up in float32."""
    dtype = jnp.result_type(features, weight)
    dimensions = (((features.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(
        features.astype(dtype), weight.astype(dtype), dimensions, preferred_element_type=rows.frame.dtype
    )


def _read(rows: Wanted, features: Array) -> Array:
    """Return the features, with 0 in rows that do not count, because these may hold NaN."""
    return features if rows.live is None else jnp.where(rows.live, features, 0)


def _logits(rows: Wanted, features: Array, weight: Array, bias: Array | None) -> Array:
    logits = _product(rows, features, weight)
    return logits if bias is None else logits + bias.astype(logits.dtype)


def _summary(asked: Asked, layer: Layer, rows: Wanted) -> Summary:
    """Return the summary of the rows, merged from those of the blocks."""
    x = _read(rows, layer[0])

    @jax.checkpoint
    def grown(summary: Summary, block: Any) -> tuple[Summary, None]:
        first, parameters = block
        of = _of_block(asked, rows, first)
        looked = look(of, _logits(rows, x, *parameters))
        return merge(rows, summary, summarize(of, looked, entropy=asked.log_probs)), None

    zero = jnp.zeros(rows.frame.row_shape, rows.frame.dtype)
    of_q, heat = None if rows.is_sharp else zero, zero if asked.log_probs else None
    nothing = Summary(zero, zero - jnp.inf, zero, of_q, of_q, heat)
    return lax.scan(grown, nothing, (_firsts(asked, rows), _blocks(asked, layer[1:])))[0]


def _change_by_layer(asked: Asked, layer: Layer, rows: Wanted, d_layer: tuple[Array | None, ...]) -> Numbers:
    """Return how changes of features, weight and bias change the results of the rows."""
    summary = _summary(asked, layer, rows)
    seen, x = whole(rows, summary), _read(rows, layer[0])
    dx = None if d_layer[0] is None else _read(rows, d_layer[0])

    @jax.checkpoint
    def grown(changes: Numbers, block: Any) -> tuple[Numbers, None]:
        first, (weight, bias), (d_weight, d_bias) = block
        of = _of_block(asked, rows, first)
        looked = look(of, _logits(rows, x, weight, bias), seen.peak)
        d_logits = 0.0 if dx is None else _product(rows, dx, weight)
        if d_weight is not None:
            d_logits = d_logits + _product(rows, x, d_weight)
        if d_bias is not None:
            d_logits = d_logits + rows.frame.numbers(d_bias)
        gradients = asked.gradients_of(of, looked, summary, seen)
        return added(changes, tuple(rows.frame.total(gradient * d_logits) for gradient in gradients)), None

    zeros = (jnp.zeros(rows.frame.row_shape, rows.frame.dtype),) * (2 if asked.log_probs else 1)
    blocks = (_firsts(asked, rows), _blocks(asked, layer[1:]), _blocks(asked, d_layer[1:]))
    return tuple(change_of(rows, change) for change in lax.scan(grown, zeros, blocks)[0])
