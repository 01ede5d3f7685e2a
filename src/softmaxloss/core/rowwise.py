"""The row functions over whole arrays: n-d logits in, pieces of rows over threads, one number or row out for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import elementwise
from softmaxloss.core.elementwise import result_dtype
from softmaxloss.core.kernels import class_major, row_kernels
from softmaxloss.core.layout import ClassMajor, Layout, Piece
from softmaxloss.core.parallel import for_each, get_num_threads
from softmaxloss.core.summary import RowSummary, new_summary, row_losses

if TYPE_CHECKING:
    from softmaxloss.core.rows import Rows

Array = NDArray[Any]

# Exponentials wait for their sum in a row of their own: up to so many, half a second-level cache of float32, or where
# there are so many times more rows than threads that these rows hardly count.
PRIVATE_CLASSES = 1 << 17
MANY_ROWS = 4
# So many pieces keep all threads busy to the end, if one of them is slowed down.
PIECES_PER_THREAD = 8
# Bytes from which a result is written around the caches, which would keep only the end of it: twice as fast.
PAST_CACHES = 1 << 25
Float64s = NDArray[np.float64]


class Scores(NamedTuple):
    """What `metrics` needs of each row, shape (N,); of rows without a softmax argmax is -1, rank 0, the others NaN."""

    argmax: NDArray[np.int64]
    rank: NDArray[np.int64]
    log_probability: Float64s
    entropy: Float64s

    def part(self, rows: slice) -> Scores:
        """Return the scores of some of the rows."""
        return Scores(self.argmax[rows], self.rank[rows], self.log_probability[rows], self.entropy[rows])


def summarize(logits: Array, rows: Rows, layout: Layout) -> RowSummary:
    """Return the RowSummary of each row of logits; that of rows of weight 0 means nothing."""
    summary = new_summary(layout.n_rows)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        _summarize(z, described, summary.part(piece.rows))

    for_each(work, _pieces(logits, rows, layout))
    return summary


def losses(logits: Array, rows: Rows, layout: Layout) -> Float64s:
    """Return the weighted loss of each row of logits."""
    loss = np.empty(layout.n_rows)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        summary = new_summary(len(described.label))
        _summarize(z, described, summary)
        row_losses(described._replace(dense=None), summary, loss[piece.rows])

    for_each(work, _pieces(logits, rows, layout))
    return loss


def losses_and_gradients(logits: Array, rows: Rows, d_loss: Float64s, out: Array, layout: Layout) -> Float64s:
    """Return the losses and write their gradients, times d_loss, to `out`, which may be `logits`."""
    return _losses_and_gradients(logits, rows, d_loss, out, layout, softcap=rows.softcap)


def softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the softmax of z of each row to `out`: it is the gradient of logsumexp by z."""
    alone = rows.without_targets()
    d_loss = np.full(layout.n_rows, rows.temperature.value)
    _losses_and_gradients(logits, alone, d_loss, out, layout, softcap=0.0)


def _losses_and_gradients(
    logits: Array, rows: Rows, d_loss: Float64s, out: Array, layout: Layout, *, softcap: float
) -> Float64s:
    """Do so, with gradients by the logits under a soft cap, or by the capped logits for a `softcap` of 0."""
    loss = np.empty(layout.n_rows)
    past_caches = out.nbytes >= PAST_CACHES

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        d, losses = d_loss[piece.rows], loss[piece.rows]
        result = _Output(out, z, layout, piece, apart=softcap != 0.0)  # the logits are needed once more
        to: Any = result.arranged
        if isinstance(z, ClassMajor):
            class_major.losses_and_gradients(z, described, d, _lines(z), losses, to, past_caches)
        else:
            row_kernels.losses_and_gradients(z, described, d, _room_for_rows(to, layout), losses, to, past_caches)
        if softcap != 0.0:
            elementwise.multiply_by_cap_slope(result.array, layout.part(logits, piece), softcap)
        result.finish()

    for_each(work, _pieces(logits, rows, layout))
    return loss


def log_softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    by_row = layout.row_by_row()

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, by_row, piece)
        result = _Output(out, z, by_row, piece)
        row_kernels.log_softmax(z, described, result.arranged)
        result.finish()

    for_each(work, by_row.pieces())


def score(logits: Array, rows: Rows, layout: Layout) -> Scores:
    """Return the scores of rows that have a label; of each piece all are found while it is in the cache."""
    by_row, n = layout.row_by_row(), layout.n_rows
    scores = Scores(np.full(n, -1), np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan))
    once = rows._replace(weight=(rows.weight != 0) * 1.0)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, once, layout, piece)
        summary, part = new_summary(len(described.label)), scores.part(piece.rows)
        _summarize(z, described, summary)
        row_losses(described._replace(dense=None), summary, part.log_probability)
        np.negative(part.log_probability, out=part.log_probability)

        if isinstance(z, ClassMajor):
            z, described = _readable(logits, once, by_row, piece)
        uncapped = by_row.readable(by_row.part(logits, piece).astype(z.dtype, copy=False)) if rows.softcap else z
        row_kernels.score(z, uncapped, described, summary.peak, summary.rest, part)

    for_each(work, layout.pieces())
    return scores


def _pieces(logits: Array, rows: Rows, layout: Layout) -> list[Piece]:
    """Return pieces for all threads: large ones where nothing of their size must be allocated for each."""
    copied = rows.softcap != 0.0 or logits.dtype != result_dtype(logits.dtype) or not logits.flags.c_contiguous
    return layout.pieces(None if copied else PIECES_PER_THREAD * get_num_threads())


def _summarize(logits: Array | ClassMajor, rows: Rows, summary: RowSummary) -> None:
    if isinstance(logits, ClassMajor):
        class_major.summarize(logits, rows, _lines(logits), summary)
    else:
        row_kernels.summarize(logits, rows, summary)


def _lines(logits: ClassMajor) -> Array:
    """Return room for the classes of rows that are computed side by side."""
    rows = class_major.rows_of_a_tile(logits.n_classes)
    return np.empty((logits.n_classes, rows), _computed_dtype(logits.flat))


def _room_for_rows(d_logits: Array, layout: Layout) -> Array:
    """Return room for the exponentials of a row: one for all rows, or where the gradients will be."""
    dtype = _computed_dtype(d_logits)
    small = layout.n_classes <= PRIVATE_CLASSES or layout.n_rows >= MANY_ROWS * get_num_threads()
    return np.empty((1, layout.n_classes), dtype) if small or d_logits.dtype != dtype else d_logits


def _computed_dtype(stored: Array) -> np.dtype[Any]:
    return np.dtype(np.float64 if stored.dtype == np.float64 else np.float32)


def _readable(logits: Array, rows: Rows, layout: Layout, piece: Piece) -> tuple[Any, Rows]:
    """Return a piece of logits and the descriptor of its rows as kernels read them."""
    z = layout.readable(elementwise.load(layout.part(logits, piece), rows.softcap))
    dense = None
    if rows.dense is not None:
        dense = layout.readable(elementwise.computed(layout.part(rows.dense, piece)))
    return z, rows.part(piece.rows, dense)


class _Output:
    """A piece of `out` for a kernel that reads z to write to, or a stand-in whose content is put there afterwards."""

    def __init__(self, out: Array, z: Any, layout: Layout, piece: Piece, *, apart: bool = False) -> None:
        self.place = self.array = layout.part(out, piece)
        dtype, stored = _computed_dtype(_values(z)), result_dtype(out.dtype)
        same = elementwise.kernel_dtype(stored) == dtype
        if same and out.dtype == stored and not apart:
            self.arranged = layout.arranged(elementwise.as_bits(self.place))
            if np.may_share_memory(_values(self.arranged), self.place):
                return
        self.array = np.empty(self.place.shape, stored if same else dtype)
        self.arranged = layout.arranged(elementwise.as_bits(self.array))

    def finish(self) -> None:
        """Put the result where it belongs."""
        if self.array is not self.place:
            elementwise.store(self.array, self.place)


def _values(arranged: Array | ClassMajor) -> Array:
    return arranged.flat if isinstance(arranged, ClassMajor) else arranged
