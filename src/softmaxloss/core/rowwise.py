"""The functions of rows, over whole arrays. Each calls its kernel. Another backend would replace this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.dtypes import DOUBLE
from softmaxloss.core.rows import ONE
from softmaxloss.core.staging import scratch_for_columns, scratch_for_rows, stage, stage_piece
from softmaxloss.core.summary import RowSummary, new_summary
from softmaxloss.core.threads import for_each
from softmaxloss.kernels import log_probabilities as log_probs_kernels
from softmaxloss.kernels import scores as scores_kernels
from softmaxloss.kernels.by_row import losses as by_row
from softmaxloss.kernels.side_by_side import losses as side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.core.layout import Layout, Piece
    from softmaxloss.core.rows import Rows
    from softmaxloss.core.staging import Staged

Array = NDArray[Any]
Float64s = NDArray[np.float64]


def summarize(logits: Array, rows: Rows, layout: Layout) -> RowSummary:
    """Return the RowSummary of each row of logits. For a row of weight 0 its numbers are arbitrary."""
    summary = new_summary(layout.n_rows)
    stage(_losses_and_gradients, logits, rows, layout, (ONE, layout.empty((layout.n_rows,), DOUBLE), *summary))
    return summary


def losses(logits: Array, rows: Rows, layout: Layout) -> Float64s:
    """Return the weighted loss of each row of logits."""
    loss = layout.empty((layout.n_rows,), DOUBLE)
    stage(_losses_and_gradients, logits, rows, layout, (ONE, loss))
    return loss


def losses_and_gradients(
    logits: Array, rows: Rows, d_loss: Float64s, out: Array, layout: Layout, *, whole: RowSummary | None = None
) -> Float64s:
    """Return the losses and write their gradients, times d_loss, to `out`, which may be `logits`.

    For logits of a slice of the classes, `whole` are the summaries of the whole rows.
    """
    loss = layout.empty((layout.n_rows,), DOUBLE)
    kernel = _losses_and_gradients if whole is None else _losses_and_gradients_of_slice
    stage(kernel, logits, rows, layout, (d_loss, loss, *(whole or ())), out=out, cap=rows.softcap)
    return loss


def softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the softmax of z of each row to `out`: it is the gradient of logsumexp with respect to z."""
    per_row = np.array([rows.temperature]), layout.empty((layout.n_rows,), DOUBLE)
    stage(_losses_and_gradients, logits, rows.without_targets(), layout, per_row, out=out)


def _losses_and_gradients(s: Staged) -> None:
    _run(s, RowSummary._make(s.per_row[2:]) if len(s.per_row) > 2 else None, None)


def _losses_and_gradients_of_slice(s: Staged) -> None:
    _run(s, None, RowSummary._make(s.per_row[2:]))


def _run(s: Staged, summary: RowSummary | None, whole: RowSummary | None) -> None:
    layout, z, rows, per_row, out, streamed, taken = s
    fields, d_loss, loss = rows.fields(), per_row[0], per_row[1]
    if layout.class_major:
        scratch, kernel = scratch_for_columns(layout, z), side_by_side.losses_and_gradients
        dense_scratch = None if rows.dense is None else scratch_for_columns(layout, rows.dense)
        kernel(z, fields, d_loss, taken, layout.share, scratch, dense_scratch, loss, out, streamed, summary, whole)
    else:
        scratch, kernel = scratch_for_rows(layout, z, out), by_row.losses_and_gradients
        kernel(z, fields, d_loss, taken, layout.share, scratch, loss, out, streamed, summary, whole)


def log_softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    stage(_log_softmax, logits, rows, layout.row_by_row, (), out=out)


def _log_softmax(s: Staged) -> None:
    layout, z, rows, _, out, _, taken = s
    by_row.log_softmax(z, rows.fields(), taken, layout.share, out)


class LogProbs(NamedTuple):
    """The log-probability of each row's label, and the entropy of its distribution; both in nats."""

    log_prob: Any
    entropy: Any


def log_probs(
    logits: Array, rows: Rows, layout: Layout, d_rows: Sequence[Float64s] = (ONE, ONE), out: Array | None = None
) -> LogProbs:
    """Return the log-probabilities of labels and the entropies of rows.

    If `out` is given, which may be `logits`, it gets the gradient of a function of log-probability and entropy.
    `d_rows` holds the derivatives of this function with respect to log-probability and entropy.
    """
    found = LogProbs(np.empty(layout.n_rows), np.empty(layout.n_rows))
    stage(_log_probs, logits, rows, layout.row_by_row, (*d_rows, *found), out=out, cap=rows.softcap)
    return found


def _log_probs(s: Staged) -> None:
    layout, z, rows, (d_log_prob, d_entropy, log_prob, entropy), out, _, taken = s
    log_probs_kernels.log_probs(z, rows.fields(), d_log_prob, d_entropy, taken, layout.share, log_prob, entropy, out)


class Scores(NamedTuple):
    """Arrays (N,) that `metrics` needs; a row without a softmax has argmax -1, rank 0, and NaN for the others."""

    argmax: NDArray[np.int64]
    rank: NDArray[np.int64]
    log_probability: Float64s
    entropy: Float64s


def no_scores(n: int) -> Scores:
    """Return the scores of rows that take no part."""
    return Scores(np.full(n, -1), np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan))


def score(logits: Array, rows: Rows, layout: Layout) -> Scores:
    """Return the scores of rows that have a label. All scores of a piece are computed while it is in the cache."""
    rows_alone, scores = layout.row_by_row, no_scores(layout.n_rows)
    once = rows._replace(weight=(rows.weight != 0) * 1.0)

    def work(piece: Piece) -> None:
        part = Scores._make(values[piece.rows] for values in scores)
        s = stage_piece(piece, logits, once, layout)
        _losses_and_gradients(s._replace(per_row=(ONE, part.log_probability)))
        np.negative(part.log_probability, out=part.log_probability)

        s = stage_piece(piece, logits, once, rows_alone) if layout.class_major else s
        capped = uncapped = s.logits
        if rows.softcap:
            own = rows_alone.part(logits, piece).astype(capped.dtype, copy=False)
            uncapped = rows_alone.arranged(own, read_only=True)
        scores_kernels.score(capped, uncapped, s.rows._replace(dense=None).fields(), part)

    for_each(work, layout.pieces())
    return scores
