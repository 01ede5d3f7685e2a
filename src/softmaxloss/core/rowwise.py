"""The row functions over whole arrays: n-d logits in, pieces of rows over threads, one number or row out for each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import elementwise
from softmaxloss.core.kernels import class_major, row_kernels
from softmaxloss.core.layout import ClassMajor, Layout, Piece
from softmaxloss.core.parallel import for_each
from softmaxloss.core.summary import RowSummary, new_summary, row_losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softmaxloss.core.rows import Rows

Array = NDArray[Any]
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

    for_each(work, layout.pieces())
    return summary


def losses(logits: Array, rows: Rows, layout: Layout) -> Float64s:
    """Return the weighted loss of each row of logits."""
    loss = np.empty(layout.n_rows)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        summary = new_summary(len(described.label))
        _summarize(z, described, summary)
        row_losses(described._replace(dense=None), summary, loss[piece.rows])

    for_each(work, layout.pieces())
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

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        d, losses = d_loss[piece.rows], loss[piece.rows]
        with _written(out, z, layout, piece, logits=logits, softcap=softcap) as d_logits:
            if isinstance(z, ClassMajor):
                tile = class_major.room_for_a_tile(z)
                class_major.losses_and_gradients(z, described, d, tile, losses, d_logits)
            else:
                row_kernels.losses_and_gradients(z, described, d, row_kernels.room_for_rows(z), losses, d_logits)

    for_each(work, layout.pieces())
    return loss


def log_softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    by_row = layout.row_by_row()

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, by_row, piece)
        with _written(out, z, by_row, piece, logits=logits, softcap=0.0) as result:
            row_kernels.log_softmax(z, described, row_kernels.room_for_rows(z), result)

    for_each(work, by_row.pieces())


def score(logits: Array, rows: Rows, layout: Layout) -> Scores:
    """Return the scores of rows that have a label."""
    by_row = layout.row_by_row()
    n = layout.n_rows
    scores = Scores(np.full(n, -1), np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan))

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, by_row, piece)
        uncapped = by_row.readable(by_row.part(logits, piece).astype(z.dtype, copy=False)) if rows.softcap else z
        row_kernels.score(z, uncapped, described, row_kernels.room_for_rows(z), scores.part(piece.rows))

    for_each(work, by_row.pieces())
    return scores


def _summarize(logits: Array | ClassMajor, rows: Rows, summary: RowSummary) -> None:
    if isinstance(logits, ClassMajor):
        one_line = np.empty(logits.width, logits.flat.dtype)
        scratch = logits._replace(flat=one_line, group_stride=0, class_stride=0)
        class_major.summarize(logits, rows, class_major.room_for_a_tile(logits), scratch, summary)
    else:
        row_kernels.summarize(logits, rows, row_kernels.room_for_rows(logits), summary)


def _readable(logits: Array, rows: Rows, layout: Layout, piece: Piece) -> tuple[Any, Rows]:
    """Return a piece of logits and the descriptor of its rows as kernels read them."""

    def arranged(array: Array, softcap: float) -> Any:
        return layout.readable(elementwise.load(layout.part(array, piece), softcap))

    dense = None if rows.dense is None else arranged(rows.dense, 0.0)
    return arranged(logits, rows.softcap), rows.part(piece.rows, dense)


@contextmanager
def _written(out: Array, z: Any, layout: Layout, piece: Piece, *, logits: Array, softcap: float) -> Iterator[Any]:
    """Give a kernel that reads z a piece of `out` to write to, or a stand-in whose content is put there afterwards."""
    place, dtype = layout.part(out, piece), _values(z).dtype
    if place.dtype == dtype and softcap == 0.0:
        arranged = layout.arranged(place)
        if np.may_share_memory(_values(arranged), place):
            yield arranged
            return
    stand_in = np.empty(place.shape, dtype)
    yield layout.arranged(stand_in)
    elementwise.store(stand_in, layout.part(logits, piece), softcap, place)


def _values(arranged: Array | ClassMajor) -> Array:
    return arranged.flat if isinstance(arranged, ClassMajor) else arranged
