"""Sums over classes that are lines of a tile, many rows side by side: winners and their references, exponentials, gaps.

Each loop runs over one class of a tile, or over four at once, and so becomes vector code however few classes there are.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import class_weight_of, fold, half_gap, two_sum
from softmaxloss.core.kernels.blocks import multiply
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline
from softmaxloss.core.kernels.exponential import (
    Reference,
    Temperature,
    below_own_peak,
    exponential,
    reduced,
    reference_of,
    scale_in,
)
from softmaxloss.core.kernels.lines import ask_for_next, place_of
from softmaxloss.core.kernels.tiles import MOST_ROWS, Tile, set_below, set_reference
from softmaxloss.core.layout import ClassMajor


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

    A NaN may be passed over where sums of exponentials will tell of it: in rows without a logit of inf.
    """
    peak, winner, whole = tile.peak[:size], tile.winner[:size], n_classes // 4 * 4
    for c in range(size):
        peak[c], winner[c] = -math.inf, 0
    for j in range(0, whole, 4):
        take_highest(four_from(lines, j, size), j, peak, winner)
    infinite = 0
    for c in range(size):
        infinite += peak[c] == math.inf
    for j in range(0 if infinite > 0 else whole, n_classes):
        take_higher(lines[j][:size], j, peak, winner)


@inline
def refer(size: int, tile: Tile, temperature: Temperature) -> None:
    """Give rows the references of their peaks."""
    for c in range(size):
        reference = reference_of(tile.peak[c], temperature)
        set_reference(tile, c, reference)
        peak = tile.peak[c] if math.isfinite(tile.peak[c]) else reference.base
        set_below(tile, c, below_own_peak(peak, reference, temperature))


@inline
def sum_exponentials(
    logits: Any, lines: Any, tile: Tile, group: int, start: int, size: int, temperature: Temperature
) -> None:
    """Turn logits into LIFT * exp((z - R) / T), 0 for winners, and add them up.

    Four classes at a time, so that a sum takes two additions in a row.
    """
    n_classes = logits.n_classes
    powers, run = four_from(tile.powers.reshape(4, MOST_ROWS), 0, size), tile.run[:size]
    whole, t, reciprocal = n_classes // 4 * 4, temperature.value, scale_in(run[0], temperature).reciprocal
    for j in range(0, whole, 4):
        ask_for_next(logits, group, start, size, j, j + 4)
        four = four_from(lines, j, size)
        reduce_four(four, powers, tile, j, temperature)
        if t != 1.0:
            multiply(lines[j : j + 4].reshape(4 * lines.shape[1]), reciprocal)  # beyond `size`, too, where nothing is
        add_four(four, powers, run)
        fold(run, tile.rest, tile.lost_rest)
    for j in range(whole, n_classes):
        line = lines[j][:size]
        reduce_one(line, powers[0], tile, j, temperature)
        if t != 1.0:
            multiply(line, reciprocal)
        exponentiate_one(line, powers[0])
        fold(line, tile.rest, tile.lost_rest)


@inline
def reduce_four(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Turn logits of four classes into r, still times T, and write powers of two, 0 for winners: see `reduced`."""
    base, rounder, lowest, winner, zero = tile.base, tile.rounder, tile.lowest, tile.winner, tile.base.dtype.type(0)
    for c in range(z[0].size):
        reference, best = Reference(base[c], rounder[c], lowest[c], 0.0), winner[c]
        z[0][c], a = reduced(z[0][c] - reference.base, reference, temperature)
        z[1][c], b = reduced(z[1][c] - reference.base, reference, temperature)
        z[2][c], d = reduced(z[2][c] - reference.base, reference, temperature)
        z[3][c], e = reduced(z[3][c] - reference.base, reference, temperature)
        powers[0][c] = zero if best == np.int32(j) else a
        powers[1][c] = zero if best == np.int32(j + 1) else b
        powers[2][c] = zero if best == np.int32(j + 2) else d
        powers[3][c] = zero if best == np.int32(j + 3) else e


@inline
def reduce_one(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Do so for one class."""
    base, rounder, lowest, winner, zero = tile.base, tile.rounder, tile.lowest, tile.winner, tile.base.dtype.type(0)
    for c in range(z.size):
        z[c], power = reduced(z[c] - base[c], Reference(base[c], rounder[c], lowest[c], 0.0), temperature)
        powers[c] = zero if winner[c] == np.int32(j) else power


@inline
def add_four(r: Any, powers: Any, run: Any) -> None:
    """Turn r of four classes into exponentials, and write their sums."""
    for c in range(run.size):
        w, x = exponential(r[0][c], powers[0][c]), exponential(r[1][c], powers[1][c])
        y, z = exponential(r[2][c], powers[2][c]), exponential(r[3][c], powers[3][c])
        r[0][c], r[1][c], r[2][c], r[3][c] = w, x, y, z
        run[c] = (w + x) + (y + z)


@inline
def exponentiate_one(r: Any, powers: Any) -> None:
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
