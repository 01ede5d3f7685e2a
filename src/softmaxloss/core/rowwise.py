"""The row functions over whole arrays: n-d logits in, pieces of rows over threads, one number or row out for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import elementwise
from softmaxloss.core.elementwise import result_dtype
from softmaxloss.core.kernels import class_major, row_kernels, tiles
from softmaxloss.core.layout import ClassMajor, Layout, Piece
from softmaxloss.core.parallel import for_each, get_num_threads
from softmaxloss.core.summary import RowSummary, new_summary, row_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.core.rows import Rows

Array = NDArray[Any]
Float64s = NDArray[np.float64]

# Exponentials wait for their sum in a row of their own: up to so many, half a second-level cache of float32, or where
# there are so many times more rows than threads that these rows hardly count.
PRIVATE_CLASSES = 1 << 17
MANY_ROWS = 4
# So many spans of rows keep all threads busy to the end, if one of them is slowed down.
SPANS_PER_THREAD = 8
# Bytes from which a result is written around the caches, which would keep only the end of it: twice as fast. Half
# precision, and what is copied to its place afterwards, is not.
PAST_CACHES = 1 << 25


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

    def arrange(piece: Piece) -> tuple[Any, Rows, RowSummary]:
        return (*_readable(logits, rows, layout, piece), summary.part(piece.rows))

    def run(begin: int, end: int, arranged: tuple[Any, Rows, RowSummary]) -> None:
        _summarize(begin, end, *arranged)

    _for_each_span(run, arrange, layout, whole=_lies_as_read(logits, rows))
    return summary


def losses(logits: Array, rows: Rows, layout: Layout) -> Float64s:
    """Return the weighted loss of each row of logits."""
    summary, loss = new_summary(layout.n_rows), np.empty(layout.n_rows)

    def arrange(piece: Piece) -> tuple[Any, Rows, RowSummary, Float64s]:
        return (*_readable(logits, rows, layout, piece), summary.part(piece.rows), loss[piece.rows])

    def run(begin: int, end: int, arranged: tuple[Any, Rows, RowSummary, Float64s]) -> None:
        z, described, summary, loss = arranged
        _summarize(begin, end, z, described, summary)
        row_losses(described._replace(dense=None), summary, begin, end, loss)

    _for_each_span(run, arrange, layout, whole=_lies_as_read(logits, rows))
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

    def arrange(piece: Piece) -> tuple[Any, ...]:
        z, described = _readable(logits, rows, layout, piece)
        result = _Output(out, z, layout, piece, apart=softcap != 0.0)  # the logits are needed once more
        return piece, z, described, d_loss[piece.rows], loss[piece.rows], result

    def run(begin: int, end: int, arranged: tuple[Any, ...]) -> None:
        piece, z, described, d, loss, result = arranged
        to = result.arranged
        side_by_side = isinstance(z, ClassMajor)
        kernel = class_major.losses_and_gradients if side_by_side else row_kernels.losses_and_gradients
        room = _lines(z) if side_by_side else _room_for_rows(z, to, layout)
        kernel(z, described, d, begin, end, room, loss, to, past_caches)
        if softcap != 0.0:
            elementwise.multiply_by_cap_slope(result.array, layout.part(logits, piece), softcap)
        result.finish()

    whole = softcap == 0.0 and _lies_as_read(logits, rows) and _lies_as_read(out)
    _for_each_span(run, arrange, layout, whole=whole)
    return loss


def log_softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    by_row = layout.row_by_row()

    def arrange(piece: Piece) -> tuple[Any, Rows, _Output]:
        z, described = _readable(logits, rows, by_row, piece)
        return z, described, _Output(out, z, by_row, piece)

    def run(begin: int, end: int, arranged: tuple[Any, Rows, _Output]) -> None:
        z, described, result = arranged
        row_kernels.log_softmax(z, described, begin, end, result.arranged)
        result.finish()

    whole = by_row.axis == len(by_row.shape) - 1 and _lies_as_read(logits, rows) and _lies_as_read(out)
    _for_each_span(run, arrange, by_row, whole=whole)


def score(logits: Array, rows: Rows, layout: Layout) -> Scores:
    """Return the scores of rows that have a label; of each piece all are found while it is in the cache."""
    by_row, n = layout.row_by_row(), layout.n_rows
    scores = Scores(np.full(n, -1), np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan))
    once = rows._replace(weight=(rows.weight != 0) * 1.0)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, once, layout, piece)
        n = len(described.label)
        summary, part = new_summary(n), scores.part(piece.rows)
        _summarize(0, n, z, described, summary)
        row_losses(described._replace(dense=None), summary, 0, n, part.log_probability)
        np.negative(part.log_probability, out=part.log_probability)

        if isinstance(z, ClassMajor):
            z, described = _readable(logits, once, by_row, piece)
        uncapped = by_row.readable(by_row.part(logits, piece).astype(z.dtype, copy=False)) if rows.softcap else z
        row_kernels.score(z, uncapped, described, 0, n, summary, part)

    for_each(work, layout.pieces())
    return scores


A = TypeVar("A")


def _for_each_span(
    run: Callable[[int, int, A], None], arrange: Callable[[Piece], A], layout: Layout, *, whole: bool
) -> None:
    """Call run(begin, end, arrange(piece)) for rows that cover the batch.

    Arrays that lie as kernels take them are arranged once, as a `whole`; of others one piece after the other is copied.
    """
    if whole and layout.n_rows:
        arranged = arrange(layout.everything())
        for_each(lambda span: run(*span, arranged), layout.spans(SPANS_PER_THREAD * get_num_threads()))
    else:
        for_each(lambda piece: run(0, piece.rows.stop - piece.rows.start, arrange(piece)), layout.pieces())


def _lies_as_read(array: Array, rows: Rows | None = None) -> bool:
    """Return whether kernels can take an array, and the target rows, as they lie."""
    dense = None if rows is None else rows.dense
    if rows is not None and (
        rows.softcap != 0.0 or (dense is not None and dense.dtype not in (np.float32, np.float64))
    ):
        return False
    return all(
        part.flags.c_contiguous and part.flags.aligned and part.dtype == result_dtype(part.dtype)
        for part in (array, dense)
        if part is not None
    )


def _summarize(begin: int, end: int, logits: Array | ClassMajor, rows: Rows, summary: RowSummary) -> None:
    if isinstance(logits, ClassMajor):
        class_major.summarize(logits, rows, begin, end, _lines(logits), summary)
    else:
        row_kernels.summarize(logits, rows, begin, end, summary)


def _lines(logits: ClassMajor) -> Array:
    """Return room for the classes of rows that are computed side by side."""
    rows = tiles.rows_of_a_tile(logits.n_classes)
    return np.empty((logits.n_classes, rows), _computed_dtype(logits.flat))


def _room_for_rows(logits: Array, d_logits: Array, layout: Layout) -> Array:
    """Return room for the exponentials of a row: one for all rows, or where the gradients will be."""
    dtype = _computed_dtype(d_logits)
    private = layout.n_classes <= PRIVATE_CLASSES or layout.n_rows >= MANY_ROWS * get_num_threads()
    # a row may be read a second time, so its exponentials must not take the place of the logits
    if private or d_logits.dtype != dtype or np.may_share_memory(logits, d_logits):
        return np.empty((1, layout.n_classes), dtype)
    return d_logits


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
