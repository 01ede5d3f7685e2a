"""How arrays reach a kernel and its results come back: directly, or piece by piece.

Arrays of floats in C order and native byte order go to the kernel directly, and threads take a few of their rows at a
time. All others go piece by piece: a thread copies, converts or caps some rows, computes them, and puts the result
back. Logits under a soft cap, and targets in half precision or bools, also go piece by piece.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.dtypes import DOUBLE, SINGLE, as_bits, computed, kernel_dtype, result_dtype
from softmaxloss.core.memory import reused_empty
from softmaxloss.core.threads import for_each, get_num_threads, none_taken, share
from softmaxloss.kernels import soft_cap
from softmaxloss.kernels.by_row.losses import rows_that_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.core.layout import Arranged, Layout, Piece
    from softmaxloss.core.rows import Rows
    from softmaxloss.core.threads import Counter

Array = NDArray[Any]

# Exponentials wait for the sum of their row. They wait in scratch memory of each thread if rows have at most
# PRIVATE_CLASSES classes: such a row of float32 fills half of a second-level cache. They also wait there if there are
# at least MANY_ROWS rows per thread: this memory is then small beside the logits. Otherwise they wait in the place of
# the gradient.
PRIVATE_CLASSES = 1 << 17
MANY_ROWS = 4
# Results of at least this size are written by streaming stores, twice as fast: caches would keep only their end.
STREAMED_BYTES = 1 << 24


class Staged(NamedTuple):
    """Some rows as kernels take them."""

    layout: Layout
    logits: Any  # an Arranged of core/layout.py, and so is `out`
    rows: Rows
    per_row: tuple[Array, ...]  # arrays with one entry per row, or one entry for all rows
    out: Any  # of the shape of the logits, or empty if no such result is wanted
    streamed: bool
    taken: Counter


def stage(
    kernel: Callable[[Staged], None],
    logits: Array,
    rows: Rows,
    layout: Layout,
    per_row: tuple[Array, ...],
    *,
    out: Array | None = None,
    cap: float = 0.0,
) -> None:
    """Call kernel(staged) in threads until all rows are done. `out`, which may be `logits`, gets the result.

    If `cap` is given, the result is a gradient, and is multiplied by the slope of this soft cap.
    """
    streamed = out is not None and out.nbytes >= STREAMED_BYTES
    if _lie_directly(logits, rows, layout, out):
        z, taken = layout.whole_of(as_bits(logits), read_only=True), none_taken()
        if rows.dense is not None:
            rows = rows._replace(dense=layout.whole_of(rows.dense, read_only=True))
        to = _nowhere(z) if out is None else layout.whole_of(as_bits(out))
        staged = tuple.__new__(Staged, (layout, z, rows, per_row, to, streamed, taken))  # 0.2 us less than Staged(...)
        share(lambda: kernel(staged), layout.n_shares, begun=taken)
        return

    def work(piece: Piece) -> None:
        part = stage_piece(piece, logits, rows, layout, per_row)
        if out is None:
            kernel(part)
            return
        place = layout.part(out, piece)
        # the slope of a cap reads the logits again: the result must not overwrite them
        array, arranged = _stand_in(place, part.logits, layout, apart=cap != 0.0)
        kernel(part._replace(out=arranged, streamed=streamed and array is place))
        if cap != 0.0:
            multiply_by_cap_slope(array, layout.part(logits, piece), cap)
        if array is not place:
            store(array, place)

    for_each(work, layout.pieces())


def stage_piece(piece: Piece, logits: Array, rows: Rows, layout: Layout, per_row: tuple[Array, ...] = ()) -> Staged:
    """Return the rows of a piece for a kernel that has no result of the shape of the logits."""
    z = layout.arranged(load(layout.part(logits, piece), rows.softcap), read_only=True)
    dense = None
    if rows.dense is not None:
        dense = layout.arranged(computed(layout.part(rows.dense, piece)), read_only=True)
    of_piece = tuple(values if len(values) == 1 else values[piece.rows] for values in per_row)
    return Staged(layout, z, rows.part(piece.rows, dense), of_piece, _nowhere(z), False, none_taken())


def scratch_for_columns(layout: Layout, values: Arranged) -> Array:
    """Return scratch memory for logits, or dense targets, of rows that one thread computes side by side."""
    return layout.empty(layout.scratch, _computed_dtype(values[0]))


def scratch_for_rows(layout: Layout, logits: Arranged, out: Any) -> Array:
    """Return scratch memory for the exponentials of one thread. It may be `out` itself."""
    n_rows, dtype = rows_that_wait(layout.n_classes), _computed_dtype(out)
    if not out.size:
        return np.empty((n_rows, 0), dtype)
    private = layout.n_classes <= PRIVATE_CLASSES or layout.n_rows >= MANY_ROWS * get_num_threads()
    # a row may be read a second time, so its exponentials must not take the place of the logits
    if private or out.dtype != dtype or np.may_share_memory(logits, out):
        return layout.empty((n_rows, layout.n_classes), dtype)
    return out  # type: ignore[no-any-return]


def _lie_directly(logits: Array, rows: Rows, layout: Layout, out: Array | None) -> bool:
    """Return whether there are rows, and kernels can take all arrays as they lie."""
    if not layout.in_order or rows.softcap != 0.0 or not _lies_in_order(logits):
        return False
    if out is not None and not _lies_in_order(out):
        return False
    dense = rows.dense
    return dense is None or (dense.dtype in (SINGLE, DOUBLE) and _lies_in_order(dense))


def _lies_in_order(array: Array) -> bool:
    flags = array.flags
    return flags.c_contiguous and flags.aligned and array.dtype.isnative and array.dtype.kind in "fV"


def _nowhere(z: Arranged) -> Arranged:
    """Return an empty array in the format of the logits."""
    return (_nothing(z[0].dtype), *z[1:]) if isinstance(z, tuple) else np.empty((0, z.shape[1]), z.dtype)


@cache
def _nothing(dtype: np.dtype[Any]) -> Array:
    return np.empty(0, dtype)


def _stand_in(place: Array, z: Arranged, layout: Layout, *, apart: bool) -> tuple[Array, Arranged]:
    """Return two things: an array for a result, and the same array as kernels take it.

    The array is the place itself if kernels can write to it, and it need not stay `apart`.
    """
    dtype, stored = _computed_dtype(_values(z)), result_dtype(place.dtype)
    same = kernel_dtype(stored) == dtype
    if same and place.dtype == stored and not apart:
        arranged = layout.arranged(as_bits(place))
        if np.may_share_memory(_values(arranged), place):
            return place, arranged
    array = reused_empty(place.shape, stored if same else dtype)
    return array, layout.arranged(as_bits(array))


def _values(arranged: Arranged) -> Array:
    return arranged[0] if isinstance(arranged, tuple) else arranged


def _computed_dtype(stored: Array) -> np.dtype[Any]:
    return DOUBLE if stored.dtype == DOUBLE else SINGLE


def load(part: Array, softcap: float = 0.0) -> Array:
    """Return some of the logits as kernels take them: half precision as bits, and capped logits as float64."""
    if softcap == 0.0:
        return _stored(part)
    capped = reused_empty(part.shape, DOUBLE)
    soft_cap.cap(_flat(part), softcap, capped.reshape(-1))
    return capped


def _stored(part: Array) -> Array:
    return as_bits(part.astype(result_dtype(part.dtype), copy=False))


def store(result: Array, out: Array) -> None:
    """Write a result of kernels to `out`, rounded to its dtype."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out[...] = result


def multiply_by_cap_slope(gradient: Array, logits: Array, softcap: float) -> None:
    """Turn a gradient with respect to capped logits into one with respect to the logits.

    The slope of the soft cap is 1 - tanh(x / softcap)**2, which is 1 / cosh(x / softcap)**2. A gradient of 0 stays 0,
    even where the logit is NaN, as in a row that is not read. `gradient` must be in C order: `reshape` would copy any
    other array, and the result would be lost.
    """
    soft_cap.multiply_by_slope(_flat(logits), softcap, gradient.reshape(-1))


def _flat(part: Array) -> Array:
    """Return some of the logits as a flat, read-only array in C order; half precision becomes bits."""
    flat = np.require(_stored(part), requirements=["C_CONTIGUOUS", "ALIGNED"]).reshape(-1)
    flat.setflags(write=False)
    return flat
