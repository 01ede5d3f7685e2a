"""A tile: some rows whose sums over classes are finished together, in vector code over the rows.

The sums are computed row by row (by_row/) or class by class (side_by_side/). The functions here then apply row.py to
each row of a tile.
"""

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import types

from softmaxloss.kernels.machine.compilation import inline
from softmaxloss.kernels.machine.intrinsics import stack_arrays
from softmaxloss.kernels.numerics.double_double import double_double, high_of, low_of, rounded, times
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    Reference,
    Temperature,
    below_peak,
    scaled_exp,
    times_exp,
)
from softmaxloss.kernels.row import (
    class_weight_of,
    dot_of,
    factors_of,
    favoured,
    gradient_of,
    gradient_of_target,
    loss_of,
    probability_of,
    q_of,
    split,
    target_of,
)

# The arrays of this many rows, some 200 bytes a row, stay in a first-level cache.
MOST_ROWS = 128

Reals = Annotated[Any, None]  # in the precision that logits are computed in
Doubles = Annotated[Any, types.float64]
Indices = Annotated[Any, types.int32]


class Tile(NamedTuple):
    """The state of each row; a double-double has a second array for its low parts."""

    label: Indices  # negative for a row of dense targets
    target: Indices  # t
    mass: Doubles
    weight: Doubles
    q_target: Doubles  # q_t
    peak: Reals
    target_logit: Doubles  # z_t
    base: Reals  # the fields of Reference
    rounder: Reals
    lowest: Reals
    exponent: Doubles
    below: Doubles  # exp((R - peak) / T): from 2**-59 to 1.5 unless the peak is NaN
    low_below: Doubles
    rest: Doubles  # at first the sum of SCALE * exp((z - R) / T) without the target, later rest
    low_rest: Doubles
    y_target: Doubles  # exp((z_t - peak) / T)
    dot: Doubles  # at first T / 2 times the sum over all classes but the target, later dot
    low_dot: Doubles


class TileFactors(NamedTuple):
    """The numbers that the gradient of each row is made of."""

    d: Doubles  # of Factors
    first: Reals  # f exp((R - peak) / T) / SCALE is first times second
    second: Reals
    at_target: Reals  # the gradient at the target


tile_for, factors_for = stack_arrays(Tile, MOST_ROWS), stack_arrays(TileFactors, MOST_ROWS)


@inline
def begin_tile(rows: Any, tile: Tile, first: int, size: int, dense_first: int) -> None:
    """Fill in all that does not depend on logits; row `first` of the batch is row `dense_first` of `rows.dense`.

    Options that are seldom used have loops of their own. So the other loops have no branches, and become vector code.
    """
    _copy_numbers(rows.mass, first, tile.mass[:size])
    _copy_numbers(rows.weight, first, tile.weight[:size])
    label = rows.label[first : first + size]
    for c in range(size):
        tile.label[c], tile.target[c] = label[c], target_of(label[c])
    if rows.favourite >= 0.0:
        for c in range(size):
            tile.target[c] = favoured(rows, tile.label[c], tile.target[c])
    for c in range(size):
        tile.q_target[c] = q_of(rows, 1.0, probability_of(rows.dense, dense_first + c, tile.target[c], tile.label[c]))
    if rows.class_weight.size > 0:
        for c in range(size):
            tile.q_target[c] *= class_weight_of(rows.class_weight, tile.target[c])


@inline
def _copy_numbers(values: Any, first: int, out: Any) -> None:
    """Copy the numbers of some rows, as `of_row` returns them; unlike calls of it, these loops become vector code."""
    if values.size > 1:
        part = values[first : first + out.size]
        for c in range(out.size):
            out[c] = part[c]
    else:
        out[:] = values[0]


@inline
def reference_in(tile: Tile, c: int) -> Reference:
    """Return a row's reference."""
    return Reference(tile.base[c], tile.rounder[c], tile.lowest[c], tile.exponent[c])


@inline
def set_reference(tile: Tile, c: int, reference: Reference) -> None:
    """Store a row's reference."""
    tile.base[c], tile.rounder[c], tile.lowest[c], tile.exponent[c] = reference


@inline
def set_sums(
    tile: Tile, c: int, peak: Any, reference: Reference, rest: float, low_rest: float, dot: float, low_dot: float
) -> None:
    """Store what a sweep over a row has found."""
    set_reference(tile, c, reference)
    tile.peak[c], tile.rest[c], tile.low_rest[c], tile.dot[c], tile.low_dot[c] = peak, rest, low_rest, dot, low_dot


@inline
def set_below(tile: Tile, c: int, below: Any) -> None:
    """Store exp((R - peak) / T) of a row."""
    tile.below[c], tile.low_below[c] = high_of(below), low_of(below)


@inline
def find_below(tile: Tile, size: int, temperature: Temperature) -> None:
    """Find exp((R - peak) / T) of rows whose peak may be above the logit that their R was chosen for."""
    for c in range(size):
        reference = reference_in(tile, c)
        peak = tile.peak[c] if math.isfinite(tile.peak[c]) else reference.base
        set_below(tile, c, below_peak(peak, reference, temperature))


@inline
def finish_sums(rows: Any, tile: Tile, size: int) -> None:
    """Turn the sums of rows into rest, y_t and dot, given exp((R - peak) / T)."""
    like = tile.peak.dtype.type(0)
    for c in range(size):
        below = double_double(tile.below[c], tile.low_below[c], like)
        rest = times(double_double(tile.rest[c] * UNSCALE, tile.low_rest[c] * UNSCALE, like), below)
        tile.rest[c], tile.low_rest[c] = high_of(rest), low_of(rest)
        reference, z = reference_in(tile, c), tile.peak.dtype.type(tile.target_logit[c])
        y = np.float64(scaled_exp(z - reference.base, reference, rows.temperature)) * (tile.below[c] * UNSCALE)
        tile.y_target[c] = 1.0 if z == tile.peak[c] else y
        half_dot = double_double(tile.dot[c], tile.low_dot[c], like)
        tile.dot[c] = dot_of(half_dot, tile.q_target[c], tile.target_logit[c], tile.peak[c], rows.temperature)


@inline
def _take_whole(rows: Any, tile: Tile, whole: Any, first: int, size: int) -> None:
    """Replace the sums of rows by those of the whole rows, of which these classes are a part."""
    for c in range(size):
        i = first + c
        tile.peak[c], tile.mass[c], tile.dot[c] = whole.peak[i], whole.mass[i], whole.dot[i]
        tile.rest[c], tile.low_rest[c] = whole.rest[i], 0.0
        tile.y_target[c] = times_exp(1.0, whole.target_logit[i], whole.peak[i], rows.temperature)
    find_below(tile, size, rows.temperature)


@inline
def finish_tile(
    rows: Any,
    d_loss: Any,
    tile: Tile,
    factors: TileFactors,
    first: int,
    size: int,
    loss: Any,
    has_gradients: bool,
    summary: Any,
    whole: Any,
) -> None:
    """Turn the sums of rows into losses, into the factors of gradients, and into summaries where these are wanted."""
    if whole is None:
        finish_sums(rows, tile, size)
    else:
        _take_whole(rows, tile, whole, first, size)
    part = loss[first : first + size]
    for c in range(size):
        rest = double_double(tile.rest[c], tile.low_rest[c], tile.peak[c])
        value = loss_of(rows, tile.mass[c], tile.weight[c], tile.peak[c], rest, tile.y_target[c], tile.dot[c])
        part[c] = value if tile.weight[c] != 0.0 else 0.0
    if has_gradients:
        _find_factors(rows, d_loss, tile, factors, whole, first, size)
    if summary is not None:
        for c in range(size):
            i, rest = first + c, double_double(tile.rest[c], tile.low_rest[c], tile.peak[c])
            summary.peak[i], summary.rest[i], summary.dot[i] = tile.peak[c], rounded(rest), tile.dot[c]
            summary.mass[i], summary.target_logit[i] = tile.mass[c], tile.target_logit[c]
            summary.q_target[i] = tile.q_target[c]


@inline
def _find_factors(rows: Any, d_loss: Any, tile: Tile, factors: TileFactors, whole: Any, first: int, size: int) -> None:
    """Find the factors of exponentials, and the gradients of targets.

    If the target of a whole row is a class outside this part of it, the target of the part is a class like all others.
    """
    like = tile.peak.dtype.type(0)
    _copy_numbers(d_loss, first, factors.d[:size])
    for c in range(size):
        i, mass, q_target, y = first + c, tile.mass[c], tile.q_target[c], tile.y_target[c]
        rest = double_double(tile.rest[c], tile.low_rest[c], like)
        of = factors_of(rows, mass, tile.weight[c], factors.d[c], tile.peak[c], rest, y)
        below = double_double(tile.below[c], tile.low_below[c], like)
        factors.d[c], (factors.first[c], factors.second[c]) = of.d, split(of.f, below, tile.peak)
        factors.at_target[c] = gradient_of_target(mass, of, rest, y, q_target)
        if whole is not None and (q_target != whole.q_target[i] or tile.target_logit[c] != whole.target_logit[i]):
            y = times_exp(rounded(of.f), tile.target_logit[c], whole.peak[i], rows.temperature)
            factors.at_target[c] = gradient_of(y, 1.0, of.d * q_target)
