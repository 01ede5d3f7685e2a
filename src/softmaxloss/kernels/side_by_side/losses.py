"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.machine.compilation import fused, inline, kernel
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.exponential import below_own_peak, reference_of
from softmaxloss.kernels.numerics.lanes import clear
from softmaxloss.kernels.row import UNSIGNED, gradient_of, has_dense_q, q_of_class, rows_of, with_dense
from softmaxloss.kernels.side_by_side.columns import (
    ClassMajor,
    columns_in,
    dense_tile,
    next_tile,
    prefetch_shared,
    read_tile,
    rows_before_cache_line,
    write_tile,
)
from softmaxloss.kernels.side_by_side.sums import (
    add_gaps,
    find_peaks,
    four_from,
    see_from_winners,
    sum_exponentials,
)
from softmaxloss.kernels.tile import (
    Tile,
    TileFactors,
    begin_tile,
    factors_for,
    finish_tile,
    set_below,
    set_reference,
    tile_for,
)


@kernel
def losses_and_gradients(
    logits: Any,
    rows: Any,
    d_loss: Any,
    taken: Any,
    share: int,
    scratch: Any,
    dense_scratch: Any,
    loss: Any,
    out: Any,
    streamed: bool,
    summary: Any,
    whole: Any,
) -> None:
    """Fill the losses of rows, their gradients times d_loss, and their summaries. Rows are taken a share at a time.

    `scratch` is for columns of logits. `dense_scratch` is for columns of dense targets; it is None if there are none.
    `columns_shape` returns the shape of both.

    `out` may be `logits` itself, or hold nothing where no gradients are wanted; `summary` may be None. If these classes
    are only a part of all, `whole` holds the summaries of whole rows, else None.
    """
    logits, rows, out = ClassMajor(*logits), rows_of(rows), ClassMajor(*out)
    columns, scratch = columns_in(scratch, logits.n_classes)
    tile, factors, n_rows = tile_for(columns[0, 0]), factors_for(columns[0, 0]), logits.groups * logits.width
    has_gradients = out.flat.size > 0
    needs_lse = summary is not None or whole is not None or rows.z_loss > 0.0
    skew = rows_before_cache_line(out) if has_gradients else rows_before_cache_line(logits)
    begin = take(taken, share)
    while begin < n_rows:
        row, end = begin + skew if begin > 0 else 0, min(begin + share + skew, n_rows)
        while row < end:
            group, start, size = next_tile(logits, columns, skew, row, end)
            if streamed:
                prefetch_shared(out, group, start + size)
            some = with_dense(rows, dense_tile(rows.dense, dense_scratch, group, start, size))
            summarize_tile(logits, some, columns, scratch, tile, group, start, size, needs_lse)
            finish_tile(rows, d_loss, tile, factors, row, size, loss, has_gradients, summary, whole)
            if has_gradients:
                write_gradients(some, columns, tile, factors, size)
                write_tile(columns, scratch, out, group, start, size, streamed)
            row += size
        begin = take(taken, share)


@inline
def summarize_tile(
    logits: Any,
    rows: Any,
    columns: Any,
    scratch: Any,
    tile: Tile,
    group: int,
    start: int,
    size: int,
    needs_lse: bool,
) -> None:
    """Summarise rows of a group; `columns` gets SCALE * exp((z - R) / T), and 0 for the targets.

    `rows.dense` holds the targets of this tile alone. If a row has no wanted class but its lse is needed, it is seen
    from its winner. So a tiny rest keeps its digits.
    """
    begin_tile(rows, tile, group * logits.width + start, size, 0)
    read_tile(logits, columns, scratch, group, start, size)
    for j in range(rows.class_mask.size):
        if not rows.class_mask[j]:
            columns[j][:size] = -math.inf
    find_peaks(columns, tile, logits.n_classes, size)
    if needs_lse:
        see_from_winners(columns, tile, logits.n_classes, size)
    for c in range(size):
        tile.target_logit[c] = columns[UNSIGNED(tile.target[c]), c]
        reference = reference_of(tile.peak[c], rows.temperature)
        set_reference(tile, c, reference)
        peak = tile.peak[c] if math.isfinite(tile.peak[c]) else reference.base
        set_below(tile, c, below_own_peak(peak, reference, rows.temperature))

    clear(tile.rest[:size])
    clear(tile.dot[:size])
    if columns.itemsize == 8:  # else there are no low parts
        clear(tile.low_rest[:size])
        clear(tile.low_dot[:size])
    if has_dense_q(rows):
        for j in range(logits.n_classes):
            add_gaps(columns[j][:size], tile, rows, j)
    sum_exponentials(logits, columns, tile, group, start, size, rows.temperature)
    for c in range(size):  # see find_peaks
        is_number = (tile.rest[c] >= 0.0 and not math.isnan(tile.target_logit[c])) or tile.peak[c] == math.inf
        tile.peak[c] = tile.peak[c] if is_number else math.nan


@inline
def write_gradients(rows: Any, columns: Any, tile: Tile, factors: TileFactors, size: int) -> None:
    """Turn exponentials into gradients: 0 in rows of weight 0 and for classes that do not exist."""
    n_classes, n_far = columns.shape[0], 0
    for c in range(size):  # most first factors are 1
        n_far += factors.first[c] != 1
    for j in range(n_classes if n_far > 0 else 0):
        for c in range(size):
            columns[j, c] *= factors.first[c]
    in_fours = 0 if has_dense_q(rows) else n_classes // 4 * 4
    for j in range(0, in_fours, 4):
        _scale_four(four_from(columns, j, size), tile, factors, j)
    for j in range(in_fours, n_classes):
        _scale(columns[j][:size], rows, tile, factors, j)
    filled = 0
    for c in range(size):
        filled += tile.weight[c] == 0.0 or math.isnan(factors.second[c])
    for j in range(n_classes if filled > 0 else 0):
        _fill(columns[j][:size], tile, factors)
    for j in range(rows.class_mask.size):
        if not rows.class_mask[j]:
            columns[j] = 0


@inline
def _fill(column: Any, tile: Tile, factors: TileFactors) -> None:
    """Set a class to 0 in rows of weight 0, and to one and the same NaN in rows without a softmax."""
    for c in range(column.size):
        value = math.nan if math.isnan(factors.second[c]) else column[c]
        column[c] = value if tile.weight[c] != 0.0 else 0


@inline
def _scale_four(y: Any, tile: Tile, factors: TileFactors, j: int) -> None:
    """Turn exponentials of four classes, times the first factors, into gradients, where only targets have q > 0."""
    zero = y[0].dtype.type(0)
    for c in range(y[0].size):
        factor, t, at_t = factors.second[c], tile.target[c], factors.at_target[c]
        y[0][c] = at_t if t == np.int32(j) else gradient_of(y[0][c], factor, zero)
        y[1][c] = at_t if t == np.int32(j + 1) else gradient_of(y[1][c], factor, zero)
        y[2][c] = at_t if t == np.int32(j + 2) else gradient_of(y[2][c], factor, zero)
        y[3][c] = at_t if t == np.int32(j + 3) else gradient_of(y[3][c], factor, zero)


@fused
def _scale(column: Any, rows: Any, tile: Tile, factors: TileFactors, j: int) -> None:
    """Turn exponentials of class j, times the first factors, into gradients."""
    real, is_dense = column.dtype.type, has_dense_q(rows)
    for c in range(column.size):
        of_q = real(factors.d[c] * q_of_class(rows, c, np.int32(j), tile.label[c])) if is_dense else real(0)
        gradient = gradient_of(column[c], factors.second[c], of_q)
        column[c] = factors.at_target[c] if tile.target[c] == np.int32(j) else gradient
