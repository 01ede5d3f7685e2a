"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory.

Each loop runs over one class of a tile of rows, and so becomes vector code however few classes there are.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import class_weight_of, fold, half_gap, two_sum
from softmaxloss.core.kernels.bits import take
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline, kernel
from softmaxloss.core.kernels.exponential import Reference, Temperature, power_series, reduced, reference_of
from softmaxloss.core.kernels.lines import exists, next_tile, place_of, read_tile, write_tile
from softmaxloss.core.kernels.tiles import (
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

# Classes whose terms are added plainly before their sum joins the compensated total.
RUN = 4


def probability_in(dense: Any, group: int, j: int, i: int) -> Any:
    """Return P of class j of row i in its group, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_in, strict=False, jit_options=STEP_OPTIONS)
def _probability_in(dense: Any, group: int, j: int, i: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, group, j, i: 0.0
    return lambda dense, group, j, i: dense.flat[np.uint64(place_of(dense, group, j, i))]


@inline
def take_higher(line: Any, j: int, peak: Any, winner: Any) -> None:
    """Put class j in the place of lower winners; NaN is above all."""
    for c in range(line.size):
        higher = (line[c] > peak[c]) | (line[c] != line[c])
        peak[c] = line[c] if higher else peak[c]
        winner[c] = j if higher else winner[c]


@inline
def refer(size: int, tile: Tile, temperature: Temperature) -> None:
    """Choose the references of rows by their peaks."""
    for c in range(size):
        set_reference(tile, c, reference_of(tile.peak[c], temperature))


@inline
def reduce_line(line: Any, tile: Tile, temperature: Temperature) -> None:
    """Turn each logit into r, and fill in the powers of two: see `reduced`."""
    for c in range(line.size):
        reference = Reference(tile.base[c], tile.rounder[c], tile.lowest[c], 0.0)
        line[c], tile.powers[c] = reduced(line[c] - tile.base[c], 0.0, reference, temperature)


@inline
def add_exponentials(line: Any, tile: Tile) -> None:
    """Turn each r into LIFT * exp((z - R) / T), and add it to the run."""
    for c in range(line.size):
        line[c] = power_series(line[c]) * tile.powers[c]
        tile.run[c] += line[c]


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
def summarize_tile(logits: Any, rows: Any, lines: Any, tile: Tile, group: int, start: int, size: int) -> None:
    """Summarise rows of a group; `lines` gets LIFT * exp((z - R) / T), but for the winners."""
    first = group * logits.width + start
    begin_tile(rows, tile, first, size)
    tile.peak[:], tile.winner[:] = -math.inf, 0
    read_tile(logits, rows.class_mask, lines, group, start, size)
    for j in range(logits.n_classes):
        if exists(rows.class_mask, j):
            take_higher(lines[j][:size], j, tile.peak, tile.winner)
    for c in range(size):
        tile.label_logit[c] = lines[max(rows.label[first + c], 0), c]
    refer(size, tile, rows.temperature)

    tile.run[:] = 0
    tile.rest[:], tile.lost_rest[:], tile.dot[:], tile.lost_dot[:] = 0.0, 0.0, 0.0, 0.0
    if has_spread(rows):
        for j in range(logits.n_classes):
            add_gaps(lines[j][:size], tile, rows, group, j, start)
    for c in range(size):
        lines[tile.winner[c], c] = -math.inf
    for begin in range(0, logits.n_classes, RUN):
        for j in range(begin, min(begin + RUN, logits.n_classes)):
            reduce_line(lines[j][:size], tile, rows.temperature)
            add_exponentials(lines[j][:size], tile)
        fold(tile.run[:size], tile.rest, tile.lost_rest)
        tile.run[:] = 0
    finish_summaries(rows, tile, first, size)


@kernel
def summarize(logits: Any, rows: Any, next_row: Any, step: int, lines: Any, summary: Any) -> None:
    """Fill the summaries of rows, taking `step` at a time from a counter; those of rows of weight 0, too."""
    tile, n_rows = tile_for(lines[0, 0]), logits.groups * logits.width
    row = take(next_row, step)
    while row < n_rows:
        end = min(row + step, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, row, end)
            summarize_tile(logits, rows, lines, tile, group, start, size)
            write_summaries(rows, tile, row, size, summary)
            row += size
        row = take(next_row, step)


@kernel
def losses_and_gradients(
    logits: Any, rows: Any, d_loss: Any, next_row: Any, step: int, lines: Any, loss: Any, out: Any, past_caches: bool
) -> None:
    """Fill the losses of rows, taking `step` at a time from a counter, and their gradients, times d_loss.

    `out` may be `logits` itself, or hold nothing where no gradients are wanted.
    """
    tile, factors, n_rows = tile_for(lines[0, 0]), factors_for(lines[0, 0]), logits.groups * logits.width
    row = take(next_row, step)
    while row < n_rows:
        end = min(row + step, n_rows)
        while row < end:
            group, start, size = next_tile(logits, lines, row, end)
            summarize_tile(logits, rows, lines, tile, group, start, size)
            finish_losses(rows, tile, row, size, loss)
            if out.flat.size > 0:
                find_wanted(rows, lines, tile, factors, group, start, row, size)
                finish_factors(rows, d_loss, tile, factors, row, size)
                finish_gradients(rows, lines, tile, factors, group, start, row, size)
                write_tile(lines, out, group, start, size, past_caches)
            row += size
        row = take(next_row, step)


@inline
def find_wanted(
    rows: Any, lines: Any, tile: Tile, factors: TileFactors, group: int, start: int, first: int, size: int
) -> None:
    """Look up the exponentials of labels, and the targets of winners."""
    for c in range(size):
        factors.label_exp[c] = lines[max(rows.label[first + c], 0), c]
        factors.q_winner[c] = probability_in(rows.dense, group, tile.winner[c], start + c)


@inline
def finish_gradients(
    rows: Any, lines: Any, tile: Tile, factors: TileFactors, group: int, start: int, first: int, size: int
) -> None:
    """Turn exponentials into gradients; clear rows of weight 0 and classes that do not exist."""
    for j in range(lines.shape[0]):
        scale_line(lines[j][:size], rows, tile, factors, group, j, start)
    for c in range(size):
        label = rows.label[first + c]
        if label >= 0:
            lines[label, c] = factors.at_label[c]
        if math.isfinite(tile.peak[c]):
            lines[tile.winner[c], c] = factors.at_winner[c]
        if tile.weight[c] == 0.0:
            lines[:, c] = 0
    for j in range(rows.class_mask.size):
        if not rows.class_mask[j]:
            lines[j] = 0


@fused
def scale_line(line: Any, rows: Any, tile: Tile, factors: TileFactors, group: int, j: int, start: int) -> None:
    """Turn LIFT * exp of class j into factor * exp - d * q."""
    if has_spread(rows):
        r = class_weight_of(rows.class_weight, j)
        for c in range(line.size):
            p = probability_in(rows.dense, group, j, start + c)
            q = r * (factors.d[c] * tile.keep[c] * p + factors.d[c] * rows.floor)
            line[c] = (line[c] * factors.first[c]) * factors.second[c] - line.dtype.type(q)
    else:
        for c in range(line.size):
            line[c] = (line[c] * factors.first[c]) * factors.second[c]
