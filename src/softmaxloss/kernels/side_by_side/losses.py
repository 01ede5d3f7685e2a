"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.class_major import ClassMajor
from softmaxloss.kernels.machine.compilation import fused, inline, kernel
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.lanes import clear
from softmaxloss.kernels.row import class_weight_of, gradient_of, has_dense_q, probability_of, q_of, rows_of
from softmaxloss.kernels.side_by_side.columns import (
    columns_in,
    next_tile,
    prefetch_shared,
    read_tile,
    rows_before_cache_line,
    rows_of_share,
    write_tile,
)
from softmaxloss.kernels.side_by_side.sums import (
    add_gaps,
    find_peaks,
    four_from,
    refer,
    see_from_winners,
    sum_exponentials,
)
from softmaxloss.kernels.tile import Tile, TileFactors, begin_tile, factors_for, finish_slice, finish_tile, tile_for


@kernel
def losses_and_gradients(
    logits: Any,
    rows: Any,
    d_loss: Any,
    taken: Any,
    share: int,
    scratch: Any,
    loss: Any,
    out: Any,
    streamed: bool,
    summary: Any,
    whole: Any,
) -> None:
    """Fill the losses of rows, taking a share of them at a time, their gradients times d_loss, and their summaries.

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
        row, end = rows_of_share(begin, share, skew, n_rows)
        while row < end:
            group, start, size = next_tile(logits, columns, skew, row, end)
            if streamed:
                prefetch_shared(out, group, start + size)
            summarize_tile(logits, rows, columns, scratch, tile, group, start, size, needs_lse)
            if whole is not None:
                finish_slice(rows, d_loss, tile, factors, whole, row, size, loss)
            else:
                finish_tile(rows, d_loss, tile, factors, row, size, loss, has_gradients, summary)
            if has_gradients:
                write_gradients(rows, columns, tile, factors, group, start, size)
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

    Rows without a wanted class whose lse is needed are seen from their winners, so that a tiny rest keeps its digits.
    """
    begin_tile(rows, tile, group, start, group * logits.width + start, size)
    read_tile(logits, rows.class_mask, columns, scratch, group, start, size)
    find_peaks(columns, tile, logits.n_classes, size)
    if needs_lse:
        see_from_winners(columns, tile, logits.n_classes, size)
    for c in range(size):
        tile.target_logit[c] = columns[tile.target[c], c]
    refer(size, tile, rows.temperature)

    clear(tile.rest[:size])
    clear(tile.dot[:size])
    if columns.itemsize == 8 or has_dense_q(rows):  # else there are no low parts
        clear(tile.low_rest[:size])
        clear(tile.low_dot[:size])
    if has_dense_q(rows):
        for j in range(logits.n_classes):
            add_gaps(columns[j][:size], tile, rows, group, j, start)
    sum_exponentials(logits, columns, tile, group, start, size, rows.temperature)
    for c in range(size):  # see find_peaks
        is_number = (tile.rest[c] >= 0.0 and not math.isnan(tile.target_logit[c])) or tile.peak[c] == math.inf
        tile.peak[c] = tile.peak[c] if is_number else math.nan


@inline
def write_gradients(
    rows: Any, columns: Any, tile: Tile, factors: TileFactors, group: int, start: int, size: int
) -> None:
    """Turn exponentials into gradients: 0 in rows of weight 0 and for classes that do not exist."""
    n_classes, far = columns.shape[0], 0
    for c in range(size):
        far += factors.first[c] != 1
    for j in range(n_classes if far > 0 else 0):
        _multiply_by_first(columns[j][:size], factors)
    whole = 0 if has_dense_q(rows) else n_classes // 4 * 4
    for j in range(0, whole, 4):
        _scale_four(four_from(columns, j, size), tile, factors, j)
    for j in range(whole, n_classes):
        _scale_one(columns[j][:size], rows, tile, factors, group, j, start)
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
def _multiply_by_first(column: Any, factors: TileFactors) -> None:
    """Multiply one class by the first factors of rows."""
    for c in range(column.size):
        column[c] *= factors.first[c]


@inline
def _scale_four(y: Any, tile: Tile, factors: TileFactors, j: int) -> None:
    """Turn exponentials of four classes, times the first factors, into gradients, if only targets have q > 0."""
    target, at_target, second, zero = tile.target, factors.at_target, factors.second, y[0].dtype.type(0)
    for c in range(y[0].size):
        factor, t, at_t = second[c], target[c], at_target[c]
        y[0][c] = at_t if t == np.int32(j) else gradient_of(y[0][c], factor, zero)
        y[1][c] = at_t if t == np.int32(j + 1) else gradient_of(y[1][c], factor, zero)
        y[2][c] = at_t if t == np.int32(j + 2) else gradient_of(y[2][c], factor, zero)
        y[3][c] = at_t if t == np.int32(j + 3) else gradient_of(y[3][c], factor, zero)


@fused
def _scale_one(column: Any, rows: Any, tile: Tile, factors: TileFactors, group: int, j: int, start: int) -> None:
    """Turn exponentials of class j, times the first factors, into gradients."""
    target, at_target, second, d = tile.target, factors.at_target, factors.second, factors.d
    r, real, is_dense = class_weight_of(rows.class_weight, j), column.dtype.type, has_dense_q(rows)
    for c in range(column.size):
        q = q_of(rows, r, probability_of(rows.dense, group, start + c, j, tile.label[c]))
        gradient = gradient_of(column[c], second[c], real(d[c] * q) if is_dense else real(0))
        column[c] = at_target[c] if target[c] == np.int32(j) else gradient
