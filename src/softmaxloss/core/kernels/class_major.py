"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory.

Each loop runs over one class of a tile of rows, and so becomes vector code however few classes there are.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import class_weight_of, clear, fold, half_gap, two_sum
from softmaxloss.core.kernels.blocks import multiply
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline, kernel
from softmaxloss.core.kernels.exponential import Reference, Temperature, exponential, reduced, reference_of, scale_in
from softmaxloss.core.kernels.lines import (
    ask_for_next,
    lines_and_spare,
    next_tile,
    place_of,
    read_tile,
    write_tile,
)
from softmaxloss.core.kernels.progress import take
from softmaxloss.core.kernels.tiles import (
    MOST_ROWS,
    Tile,
    TileFactors,
    begin_tile,
    factors_for,
    finish_factors,
    finish_losses,
    finish_summaries,
    has_spread,
    set_reference,
    tile_for,
    write_summaries,
)
from softmaxloss.core.layout import ClassMajor
from softmaxloss.core.rows import rows_of


def probability_in(dense: Any, group: int, j: int, i: int) -> Any:
    """Return P of class j of row i in its group, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_in, strict=False, jit_options=STEP_OPTIONS)
def _probability_in(dense: Any, group: int, j: int, i: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, group, j, i: 0.0
    return lambda dense, group, j, i: dense[0][np.uint64(place_of(ClassMajor(*dense), group, j, i))]


@inline
def four_from(lines: Any, j: int, size: int) -> Any:
    """Return four classes from j on: what is known of a row is then looked up once for them."""
    return lines[j][:size], lines[j + 1][:size], lines[j + 2][:size], lines[j + 3][:size]


@inline
def take_higher(line: Any, j: int, peak: Any, winner: Any) -> None:
    """Put class j in the place of lower winners; NaN is above all."""
    for c in range(line.size):
        higher = (line[c] > peak[c]) | (line[c] != line[c])
        peak[c] = line[c] if higher else peak[c]
        winner[c] = j if higher else winner[c]


@inline
def take_highest(z: Any, j: int, peak: Any, winner: Any) -> None:
    """Do so for four classes from j on, but NaN is passed over."""
    for c in range(peak.size):
        top, best = peak[c], winner[c]
        for k in range(4):
            higher = z[k][c] > top
            top = z[k][c] if higher else top
            best = np.int32(j + k) if higher else best
        peak[c], winner[c] = top, best


@inline
def find_winners(lines: Any, tile: Tile, n_classes: int, size: int) -> None:
    """Find the highest logit of each row and its class.

    A NaN may be passed over where sums of exponentials will tell of it: in rows without an infinite logit.
    """
    peak, winner, whole = tile.peak[:size], tile.winner[:size], n_classes // 4 * 4
    peak[:], winner[:] = -math.inf, 0
    for j in range(0, whole, 4):
        take_highest(four_from(lines, j, size), j, peak, winner)
    infinite = 0
    for c in range(size):
        infinite += peak[c] == math.inf
    for j in range(0 if infinite > 0 else whole, n_classes):
        take_higher(lines[j][:size], j, peak, winner)


@inline
def refer(size: int, tile: Tile, temperature: Temperature) -> None:
    """Choose the references of rows by their peaks."""
    for c in range(size):
        set_reference(tile, c, reference_of(tile.peak[c], temperature))


@inline
def sum_exponentials(
    logits: Any, lines: Any, tile: Tile, group: int, start: int, size: int, temperature: Temperature
) -> None:
    """Turn logits into LIFT * exp((z - R) / T), 0 for winners, and add them up.

    Four classes at a time, so that a sum takes two additions in a row.
    """
    n_classes = logits.n_classes
    subtract_bases(lines, tile, n_classes, size)
    powers = tile.powers.reshape(4, MOST_ROWS)
    p, run = (powers[0][:size], powers[1][:size], powers[2][:size], powers[3][:size]), tile.run[:size]
    whole = n_classes // 4 * 4
    for j in range(0, whole, 4):
        ask_for_next(logits, group, start, size, j, j + 4)
        four = four_from(lines, j, size)
        reduce_four(four, p, tile, j, temperature)
        if temperature.value != 1.0:
            multiply_four(four, scale_in(run[0], temperature).reciprocal)
        add_four(four, p, run)
        fold(run, tile.rest, tile.lost_rest)
    for j in range(whole, n_classes):
        reduce_one(lines[j][:size], p[0], tile, j, temperature)
        if temperature.value != 1.0:
            multiply(lines[j][:size], scale_in(run[0], temperature).reciprocal)
        take_one(lines[j][:size], p[0])
        fold(lines[j][:size], tile.rest, tile.lost_rest)


@inline
def subtract_bases(lines: Any, tile: Tile, n_classes: int, size: int) -> None:
    """Subtract the bases of rows, which are nearly always 0."""
    far = 0
    for c in range(size):
        far += tile.base[c] != 0
    if far > 0:
        for j in range(n_classes):
            subtract_base(lines[j][:size], tile)


@inline
def subtract_base(line: Any, tile: Tile) -> None:
    """Do so for one class."""
    for c in range(line.size):
        line[c] -= tile.base[c]


@inline
def reduce_four(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Turn logits of four classes into r T, and fill in the powers of two: see `reduced`."""
    for c in range(z[0].size):
        z[0][c], powers[0][c] = reduced_in(tile, c, z[0][c], j, temperature)
        z[1][c], powers[1][c] = reduced_in(tile, c, z[1][c], j + 1, temperature)
        z[2][c], powers[2][c] = reduced_in(tile, c, z[2][c], j + 2, temperature)
        z[3][c], powers[3][c] = reduced_in(tile, c, z[3][c], j + 3, temperature)


@inline
def multiply_four(r: Any, factor: Any) -> None:
    """Multiply four classes by a number."""
    for line in r:
        multiply(line, factor)


@inline
def reduce_one(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Do so for one class."""
    for c in range(z.size):
        z[c], powers[c] = reduced_in(tile, c, z[c], j, temperature)


@inline
def reduced_in(tile: Tile, c: int, x: Any, j: int, temperature: Temperature) -> tuple[Any, Any]:
    """Return r T and the power of two of class j of row c."""
    real = tile.peak.dtype.type
    r, power = reduced(x, Reference(real(0), tile.rounder[c], tile.lowest[c], 0.0), temperature)
    return r, real(0) if tile.winner[c] == np.int32(j) else power


@inline
def add_four(r: Any, powers: Any, run: Any) -> None:
    """Turn r of four classes into exponentials, and write their sums."""
    for c in range(run.size):
        w, x = exponential(r[0][c], powers[0][c]), exponential(r[1][c], powers[1][c])
        y, z = exponential(r[2][c], powers[2][c]), exponential(r[3][c], powers[3][c])
        r[0][c], r[1][c], r[2][c], r[3][c] = w, x, y, z
        run[c] = (w + x) + (y + z)


@inline
def take_one(r: Any, powers: Any) -> None:
    """Turn r of one class into exponentials."""
    for c in range(r.size):
        r[c] = exponential(r[c], powers[c])


@fused
def add_gaps(line: Any, tile: Tile, rows: Any, group: int, j: int, start: int) -> None:
    """Add q (z - peak) / 2 to dot."""
    r = class_weight_of(rows.class_weight, j)
    for c in range(line.size):
        q = r * (tile.keep[c] * probability_in(rows.dense, group, j, start + c) + rows.floor)
        term = q * half_gap(np.float64(line[c]), np.float64(tile.peak[c])) if q > 0.0 else 0.0
        tile.dot[c], error = two_sum(tile.dot[c], term)
        tile.lost_dot[c] += error


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
    for c in range(size):
        tile.peak[c] = tile.peak[c] if tile.rest[c] >= 0.0 or tile.peak[c] == math.inf else math.nan
    finish_summaries(rows, tile, size)


@kernel
def summarize(logits: Any, rows: Any, taken: Any, step: int, room: Any, summary: Any) -> None:
    """Fill the summaries of rows, taking `step` at a time; those of rows of weight 0, too."""
    logits, rows = ClassMajor(*logits), rows_of(rows)
    lines, spare = lines_and_spare(logits, room)
    tile, n_rows = tile_for(lines[0, 0]), logits.groups * logits.width
    begin = take(taken, step)
    while begin < n_rows:
        row, end = begin, min(begin + step, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, row, end)
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
    begin = take(taken, step)
    while begin < n_rows:
        row, end = begin, min(begin + step, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, row, end)
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
    """Do so for four classes from j on, of targets that are labels alone."""
    for c in range(lifted[0].size):
        factor = factors.second[c]
        lifted[0][c] = unless_wanted(lifted[0][c] * factor, tile, factors, j, c)
        lifted[1][c] = unless_wanted(lifted[1][c] * factor, tile, factors, j + 1, c)
        lifted[2][c] = unless_wanted(lifted[2][c] * factor, tile, factors, j + 2, c)
        lifted[3][c] = unless_wanted(lifted[3][c] * factor, tile, factors, j + 3, c)


@fused
def scale_line(line: Any, rows: Any, tile: Tile, factors: TileFactors, group: int, j: int, start: int) -> None:
    """Turn LIFT * exp of class j, times the first factors, into gradients."""
    if has_spread(rows):
        r = class_weight_of(rows.class_weight, j)
        for c in range(line.size):
            p = probability_in(rows.dense, group, j, start + c)
            q = r * (factors.d[c] * tile.keep[c] * p + factors.d[c] * rows.floor)
            scaled = line[c] * factors.second[c] - line.dtype.type(q)
            line[c] = unless_wanted(scaled, tile, factors, j, c)
    else:
        for c in range(line.size):
            line[c] = unless_wanted(line[c] * factors.second[c], tile, factors, j, c)


@inline
def unless_wanted(gradient: Any, tile: Tile, factors: TileFactors, j: int, c: int) -> Any:
    """Return the gradient of class j of row c, given what it is if that is neither the label nor the winner."""
    at_label, at_winner = factors.at_label[c], factors.at_winner[c]  # read in any case, for the sake of vector code
    value = at_label if tile.label[c] == np.int32(j) else gradient
    return at_winner if tile.winner[c] == np.int32(j) else value
