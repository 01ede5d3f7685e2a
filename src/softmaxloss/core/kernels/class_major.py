"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory."""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import class_weight_of, clear
from softmaxloss.core.kernels.compilation import fused, inline, kernel
from softmaxloss.core.kernels.line_sums import (
    add_gaps,
    find_winners,
    four_from,
    probability_in,
    refer,
    sum_exponentials,
)
from softmaxloss.core.kernels.lines import (
    ask_for_shared,
    lines_and_spare,
    next_tile,
    read_tile,
    rows_before_line,
    rows_of_step,
    write_tile,
)
from softmaxloss.core.kernels.progress import take
from softmaxloss.core.kernels.tiles import (
    Tile,
    TileFactors,
    begin_tile,
    factors_for,
    finish_factors,
    finish_losses,
    finish_sums,
    has_spread,
    tile_for,
    write_summaries,
)
from softmaxloss.core.layout import ClassMajor
from softmaxloss.core.rows import rows_of


@inline
def summarize_tile(
    logits: Any, rows: Any, lines: Any, spare: Any, tile: Tile, group: int, start: int, size: int
) -> None:
    """Summarise rows of a group; `lines` gets LIFT * exp((z - R) / T), but for the winners."""
    first = group * logits.width + start
    begin_tile(rows, tile, first, size)
    read_tile(logits, rows.class_mask, lines, spare, group, start, size)
    find_winners(lines, tile, logits.n_classes, size)
    for c in range(size):
        tile.label_logit[c] = lines[max(tile.label[c], 0), c]
    refer(size, tile, rows.temperature)

    for sums in (tile.rest, tile.lost_rest, tile.dot, tile.lost_dot):
        clear(sums[:size])
    if has_spread(rows):
        for j in range(logits.n_classes):
            add_gaps(lines[j][:size], tile, rows, group, j, start)
    sum_exponentials(logits, lines, tile, group, start, size, rows.temperature)
    for c in range(size):  # see find_winners
        tile.peak[c] = tile.peak[c] if tile.rest[c] >= 0.0 or tile.peak[c] == math.inf else math.nan
    finish_sums(rows, tile, size)


@kernel
def summarize(logits: Any, rows: Any, taken: Any, step: int, room: Any, summary: Any) -> None:
    """Fill the summaries of rows, taking `step` at a time; those of rows of weight 0, too."""
    logits, rows = ClassMajor(*logits), rows_of(rows)
    lines, spare = lines_and_spare(logits, room)
    tile, n_rows, skew = tile_for(lines[0, 0]), logits.groups * logits.width, rows_before_line(logits)
    begin = take(taken, step)
    while begin < n_rows:
        row, end = rows_of_step(begin, step, skew, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, skew, row, end)
            summarize_tile(logits, rows, lines, spare, tile, group, start, size)
            write_summaries(rows, tile, row, size, summary)
            row += size
        begin = take(taken, step)


@kernel
def losses_and_gradients(
    logits: Any, rows: Any, d_loss: Any, taken: Any, step: int, room: Any, loss: Any, out: Any, past_caches: bool
) -> None:
    """Fill the losses of rows, taking `step` at a time, and their gradients, times d_loss.

    `out` may be `logits` itself, or hold nothing where no gradients are wanted.
    """
    logits, rows, out = ClassMajor(*logits), rows_of(rows), ClassMajor(*out)
    lines, spare = lines_and_spare(logits, room)
    tile, factors, n_rows = tile_for(lines[0, 0]), factors_for(lines[0, 0]), logits.groups * logits.width
    skew = rows_before_line(out) if out.flat.size > 0 else rows_before_line(logits)
    begin = take(taken, step)
    while begin < n_rows:
        row, end = rows_of_step(begin, step, skew, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, skew, row, end)
            if past_caches:
                ask_for_shared(out, group, start + size)
            summarize_tile(logits, rows, lines, spare, tile, group, start, size)
            finish_losses(rows, tile, row, size, loss)
            if out.flat.size > 0:
                find_wanted(rows, lines, tile, factors, group, start, size)
                finish_factors(rows, d_loss, tile, factors, row, size)
                finish_gradients(rows, lines, tile, factors, group, start, size)
                write_tile(lines, spare, out, group, start, size, past_caches)
            row += size
        begin = take(taken, step)


@inline
def find_wanted(rows: Any, lines: Any, tile: Tile, factors: TileFactors, group: int, start: int, size: int) -> None:
    """Look up the exponentials of labels, and the targets of winners."""
    for c in range(size):
        factors.label_exp[c] = lines[max(tile.label[c], 0), c]
        factors.q_winner[c] = probability_in(rows.dense, group, tile.winner[c], start + c)


@inline
def finish_gradients(
    rows: Any, lines: Any, tile: Tile, factors: TileFactors, group: int, start: int, size: int
) -> None:
    """Turn exponentials into gradients; clear rows of weight 0 and classes that do not exist."""
    n_classes, far = lines.shape[0], 0
    for c in range(size):
        far += factors.first[c] != 1
    for j in range(n_classes if far > 0 else 0):
        multiply_by_first(lines[j][:size], factors)
    whole = 0 if has_spread(rows) else n_classes // 4 * 4
    for j in range(0, whole, 4):
        scale_four(four_from(lines, j, size), tile, factors, j)
    for j in range(whole, n_classes):
        scale_line(lines[j][:size], rows, tile, factors, group, j, start)
    idle = 0
    for c in range(size):
        idle += tile.weight[c] == 0.0
    for j in range(n_classes if idle > 0 else 0):
        clear_idle(lines[j][:size], tile)
    for j in range(rows.class_mask.size):
        if not rows.class_mask[j]:
            lines[j] = 0


@inline
def clear_idle(line: Any, tile: Tile) -> None:
    """Set a class to 0 in rows of weight 0."""
    for c in range(line.size):
        line[c] = line[c] if tile.weight[c] != 0.0 else 0


@inline
def multiply_by_first(line: Any, factors: TileFactors) -> None:
    """Multiply one class by the first factors of rows."""
    for c in range(line.size):
        line[c] *= factors.first[c]


@inline
def scale_four(lifted: Any, tile: Tile, factors: TileFactors, j: int) -> None:
    """Turn LIFT * exp of four classes from j on, times the first factors, into gradients, if targets are labels."""
    label, at_label, winner, at_winner = tile.label, factors.at_label, tile.winner, factors.at_winner
    second = factors.second
    for c in range(lifted[0].size):
        factor, wanted = second[c], (label[c], at_label[c], winner[c], at_winner[c])
        lifted[0][c] = unless_wanted(lifted[0][c] * factor, j, wanted)
        lifted[1][c] = unless_wanted(lifted[1][c] * factor, j + 1, wanted)
        lifted[2][c] = unless_wanted(lifted[2][c] * factor, j + 2, wanted)
        lifted[3][c] = unless_wanted(lifted[3][c] * factor, j + 3, wanted)


@fused
def scale_line(line: Any, rows: Any, tile: Tile, factors: TileFactors, group: int, j: int, start: int) -> None:
    """Turn LIFT * exp of class j, times the first factors, into gradients."""
    label, at_label, winner, at_winner = tile.label, factors.at_label, tile.winner, factors.at_winner
    second, d, keep = factors.second, factors.d, tile.keep
    if has_spread(rows):
        r = class_weight_of(rows.class_weight, j)
        for c in range(line.size):
            p = probability_in(rows.dense, group, j, start + c)
            q = r * (d[c] * keep[c] * p + d[c] * rows.floor)
            scaled = line[c] * second[c] - line.dtype.type(q)
            line[c] = unless_wanted(scaled, j, (label[c], at_label[c], winner[c], at_winner[c]))
    else:
        for c in range(line.size):
            line[c] = unless_wanted(line[c] * second[c], j, (label[c], at_label[c], winner[c], at_winner[c]))


@inline
def unless_wanted(gradient: Any, j: int, wanted: Any) -> Any:
    """Return the gradient of class j, given what it is if that is neither the label nor the winner, and these."""
    label, at_label, winner, at_winner = wanted
    value = at_label if label == np.int32(j) else gradient
    return at_winner if winner == np.int32(j) else value
