"""Sums over classes that are columns of a tile, many rows at a time: peaks, exponentials, gaps.

Each loop runs over one class of a tile, or over four at once, and so becomes vector code however few classes there are.
"""

import math
from typing import Any

import numpy as np
from numba import types

from softmaxloss.kernels.by_row.blocks import multiply
from softmaxloss.kernels.machine.compilation import by_type, fused, inline
from softmaxloss.kernels.machine.intrinsics import higher, stack_array
from softmaxloss.kernels.numerics.double_double import two_sum
from softmaxloss.kernels.numerics.exponential import (
    Reference,
    Temperature,
    constants_in,
    exponential,
    reduced,
)
from softmaxloss.kernels.numerics.lanes import fold
from softmaxloss.kernels.row import half_gap, q_of_class
from softmaxloss.kernels.side_by_side.columns import prefetch_next
from softmaxloss.kernels.tile import MOST_ROWS, Tile

_five_columns = stack_array(5 * MOST_ROWS)


@inline
def four_from(columns: Any, j: int, size: int) -> Any:
    """Return four classes from j on: a loop over all four looks up the numbers of a row only once."""
    return columns[j][:size], columns[j + 1][:size], columns[j + 2][:size], columns[j + 3][:size]


@inline
def _take_higher(column: Any, peak: Any) -> None:
    """Raise peaks to the logits of one class where these are higher; NaN is above all."""
    for c in range(column.size):
        peak[c] = column[c] if (column[c] > peak[c]) | (column[c] != column[c]) else peak[c]


@inline
def _take_highest(z: Any, peak: Any) -> None:
    """Raise peaks to the highest logit of four classes where this is higher; NaN may be ignored."""
    for c in range(peak.size):
        peak[c] = higher(peak[c], higher(higher(z[0][c], z[1][c]), higher(z[2][c], z[3][c])))


@inline
def find_peaks(columns: Any, tile: Tile, n_classes: int, size: int) -> None:
    """Find the highest logit of each row.

    A NaN may be ignored in rows without a logit of inf: there the sum of exponentials reveals it.
    """
    peak, whole = tile.peak[:size], n_classes // 4 * 4
    peak[:] = -math.inf
    for j in range(0, whole, 4):
        _take_highest(four_from(columns, j, size), peak)
    infinite = 0
    for c in range(size):
        infinite += peak[c] == math.inf
    for j in range(0 if infinite > 0 else whole, n_classes):
        _take_higher(columns[j][:size], peak)


@inline
def see_from_winners(columns: Any, tile: Tile, n_classes: int, size: int) -> None:
    """In rows without a wanted class, make the first class with the highest logit the target."""
    indifferent = 0
    for c in range(size):
        indifferent += tile.q_target[c] == 0.0
    for k in range(n_classes if indifferent > 0 else 0):
        column, j = columns[n_classes - 1 - k][:size], n_classes - 1 - k
        for c in range(size):
            tile.target[c] = j if tile.q_target[c] == 0.0 and column[c] == tile.peak[c] else tile.target[c]


@inline
def sum_exponentials(
    logits: Any, columns: Any, tile: Tile, group: int, start: int, size: int, temperature: Temperature
) -> None:
    """Turn logits into SCALE * exp((z - R) / T), 0 for targets, and add them up.

    It takes four classes at a time, so that a sum is a chain of only two additions.
    """
    n_classes, scratch = logits.n_classes, _five_columns(columns[0, 0]).reshape(5, MOST_ROWS)
    powers, run = four_from(scratch, np.int64(0), size), scratch[4][:size]  # a literal would compile it twice
    whole, t, reciprocal = n_classes // 4 * 4, temperature.value, constants_in(run[0], temperature).reciprocal
    for j in range(0, whole, 4):
        prefetch_next(logits, group, start, size, j, j + 4)
        four = four_from(columns, j, size)
        _reduce_four(four, powers, tile, j, temperature)
        if t != 1.0:
            multiply(columns[j : j + 4].reshape(4 * columns.shape[1]), reciprocal)  # also unused places beyond `size`
        _add_four(four, powers, run)
        fold(run, tile.rest, tile.low_rest)
    for j in range(whole, n_classes):
        column = columns[j][:size]
        _reduce_one(column, powers[0], tile, j, temperature)
        if t != 1.0:
            multiply(column, reciprocal)
        _exponentiate_one(column, powers[0])
        fold(column, tile.rest, tile.low_rest)


@inline
def _reduce_four(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Turn logits of four classes into r * T, and write powers of two, 0 for targets: see `reduced`."""
    base, rounder, lowest, target, zero = tile.base, tile.rounder, tile.lowest, tile.target, tile.base.dtype.type(0)
    for c in range(z[0].size):
        reference, t = Reference(base[c], rounder[c], lowest[c], 0.0), target[c]
        z[0][c], a = reduced(z[0][c] - reference.base, reference, temperature)
        z[1][c], b = reduced(z[1][c] - reference.base, reference, temperature)
        z[2][c], d = reduced(z[2][c] - reference.base, reference, temperature)
        z[3][c], e = reduced(z[3][c] - reference.base, reference, temperature)
        powers[0][c] = zero if t == np.int32(j) else a
        powers[1][c] = zero if t == np.int32(j + 1) else b
        powers[2][c] = zero if t == np.int32(j + 2) else d
        powers[3][c] = zero if t == np.int32(j + 3) else e


@inline
def _reduce_one(z: Any, powers: Any, tile: Tile, j: int, temperature: Temperature) -> None:
    """Do the same for one class."""
    base, rounder, lowest, target, zero = tile.base, tile.rounder, tile.lowest, tile.target, tile.base.dtype.type(0)
    for c in range(z.size):
        z[c], power = reduced(z[c] - base[c], Reference(base[c], rounder[c], lowest[c], 0.0), temperature)
        powers[c] = zero if target[c] == np.int32(j) else power


@inline
def _add_four(r: Any, powers: Any, run: Any) -> None:
    """Turn r of four classes into exponentials, and write their sums."""
    for c in range(run.size):
        w, x = exponential(r[0][c], powers[0][c]), exponential(r[1][c], powers[1][c])
        y, z = exponential(r[2][c], powers[2][c]), exponential(r[3][c], powers[3][c])
        r[0][c], r[1][c], r[2][c], r[3][c] = w, x, y, z
        run[c] = (w + x) + (y + z)


@inline
def _exponentiate_one(r: Any, powers: Any) -> None:
    """Turn r of one class into exponentials."""
    for c in range(r.size):
        r[c] = exponential(r[c], powers[c])


@fused
def add_gaps(column: Any, tile: Tile, rows: Any, j: int) -> None:
    """Add q (peak - z) / 2 of class j to dot, except for targets."""
    for c in range(column.size):
        q = q_of_class(rows, c, np.int32(j), tile.label[c])
        gap = half_gap(np.float64(column[c]), np.float64(tile.peak[c]))
        term = 0.0 if tile.target[c] == np.int32(j) or q <= 0.0 else q * gap
        tile.dot[c], tile.low_dot[c] = _sum(tile.dot[c], tile.low_dot[c], term, column[c])


@by_type
def _sum(total: float, low: float, term: float, like: Any) -> Any:
    """Return the sum of a double-double and a term. For logits of single precision, `low` is not used."""

    def exactly(total: float, low: float, term: float, like: Any) -> tuple[float, float]:
        total, error = two_sum(total, term)
        return total, low + error

    return exactly if like == types.float64 else lambda total, low, term, like: (total + term, low)
