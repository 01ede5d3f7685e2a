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
from softmaxloss.kernels.numerics.exponential import UNSCALE, Reference, below_peak, scaled_exp, times_exp
from softmaxloss.kernels.row import (
    Factors,
    class_weight_of,
    dot_of,
    factors_of,
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

    d_loss: Doubles
    f: Doubles  # the fields of Factors
    low_f: Doubles
    d: Doubles
    extra: Doubles
    first: Reals  # f exp((R - peak) / T) / SCALE is first times second
    second: Reals
    at_target: Reals  # the gradient at the target


tile_for, factors_for = stack_arrays(Tile, MOST_ROWS), stack_arrays(TileFactors, MOST_ROWS)


@inline
def begin_tile(rows: Any, tile: Tile, group: int, start: int, first: int, size: int) -> None:
    """Fill in all that does not depend on logits; row `first` of the batch is row `start` of its group."""
    _copy_numbers(rows.mass, first, tile.mass[:size])
    _copy_numbers(rows.weight, first, tile.weight[:size])
    label = rows.label[first : first + size]
    for c in range(size):
        tile.label[c] = label[c]
        tile.target[c] = label[c] if label[c] >= 0 else -1 - label[c]
    if rows.favourite >= 0:
        for c in range(size):
            tile.target[c] = target_of(rows, label[c]) if label[c] >= 0 else tile.target[c]
    r = tile.q_target  # holds r for now
    r[:size] = 1.0
    if rows.class_weight.size > 0:
        for c in range(size):
            r[c] = class_weight_of(rows.class_weight, tile.target[c])
    for c in range(size):
        p = probability_of(rows.dense, group, start + c, tile.target[c], tile.label[c])
        tile.q_target[c] = q_of(rows, r[c], p)


@inline
def _copy_numbers(values: Any, first: int, out: Any) -> None:
    """Copy the numbers of some rows from an array that has one for each row, or one for all."""
    if values.size > 1:
        part = values[first : first + out.size]
        for c in range(out.size):
            out[c] = part[c]
    else:
        out[:] = values[0]


@inline
def set_reference(tile: Tile, c: int, reference: Reference) -> None:
    """Store a row's reference."""
    tile.base[c], tile.rounder[c] = reference.base, reference.rounder
    tile.lowest[c], tile.exponent[c] = reference.lowest, reference.exponent


@inline
def set_below(tile: Tile, c: int, below: Any) -> None:
    """Store exp((R - peak) / T) of a row."""
    tile.below[c], tile.low_below[c] = high_of(below), low_of(below)


@inline
def find_below(rows: Any, tile: Tile, size: int) -> None:
    """Find exp((R - peak) / T) of rows whose peak may be above that of their reference."""
    for c in range(size):
        reference = Reference(tile.base[c], tile.rounder[c], tile.lowest[c], tile.exponent[c])
        peak = tile.peak[c] if math.isfinite(tile.peak[c]) else reference.base
        set_below(tile, c, below_peak(peak, reference, rows.temperature))


@inline
def finish_sums(rows: Any, tile: Tile, size: int) -> None:
    """Turn the sums of rows into rest, y_t and dot, given exp((R - peak) / T)."""
    like = tile.peak.dtype.type(0)
    for c in range(size):
        total = double_double(tile.rest[c] * UNSCALE, tile.low_rest[c] * UNSCALE, like)
        rest = times(total, double_double(tile.below[c], tile.low_below[c], like))
        tile.rest[c], tile.low_rest[c] = high_of(rest), low_of(rest)
    for c in range(size):
        reference = Reference(tile.base[c], tile.rounder[c], tile.lowest[c], 0.0)
        z = tile.peak.dtype.type(tile.target_logit[c])
        y = np.float64(scaled_exp(z - reference.base, reference, rows.temperature)) * (tile.below[c] * UNSCALE)
        tile.y_target[c] = 1.0 if z == tile.peak[c] else y
    for c in range(size):
        half_dot = double_double(tile.dot[c], tile.low_dot[c], like)
        tile.dot[c] = dot_of(half_dot, tile.q_target[c], tile.target_logit[c], tile.peak[c], rows.temperature)


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
) -> None:
    """Turn the sums of rows into losses, into the factors of gradients, and into summaries where these are wanted."""
    finish_sums(rows, tile, size)
    part = loss[first : first + size]
    for c in range(size):
        rest = double_double(tile.rest[c], tile.low_rest[c], tile.peak[c])
        value = loss_of(rows, tile.mass[c], tile.weight[c], tile.peak[c], rest, tile.y_target[c], tile.dot[c])
        part[c] = value if tile.weight[c] != 0.0 else 0.0
    if has_gradients:
        finish_factors(rows, d_loss, tile, factors, first, size)
    if summary is not None:
        for c in range(size):
            i, rest = first + c, double_double(tile.rest[c], tile.low_rest[c], tile.peak[c])
            summary.peak[i], summary.rest[i], summary.dot[i] = tile.peak[c], rounded(rest), tile.dot[c]
            summary.mass[i], summary.target_logit[i] = tile.mass[c], tile.target_logit[c]
            summary.q_target[i] = tile.q_target[c]


@inline
def finish_slice(
    rows: Any, d_loss: Any, tile: Tile, factors: TileFactors, whole: Any, first: int, size: int, loss: Any
) -> None:
    """Find losses and factors of rows of which these classes are a part, given the summaries of the whole rows.

    If the target of the whole row is a class outside this part, the target of the part is a class like all others.
    """
    like, t = tile.peak.dtype.type(0), rows.temperature
    for c in range(size):
        tile.peak[c] = whole.peak[first + c]
    find_below(rows, tile, size)
    _copy_numbers(d_loss, first, factors.d_loss[:size])
    for c in range(size):
        i, weight = first + c, tile.weight[c]
        mass, q_target, rest = whole.mass[i], whole.q_target[i], double_double(whole.rest[i], 0.0, like)
        y_target = times_exp(1.0, whole.target_logit[i], whole.peak[i], t)
        value = loss_of(rows, mass, weight, tile.peak[c], rest, y_target, whole.dot[i])
        loss[i] = value if weight != 0.0 else 0.0
        of = factors_of(rows, mass, weight, factors.d_loss[c], tile.peak[c], rest, y_target)
        factors.f[c], factors.low_f[c], factors.d[c], factors.extra[c] = high_of(of.f), low_of(of.f), of.d, of.extra
        below = double_double(tile.below[c], tile.low_below[c], like)
        factors.first[c], factors.second[c] = split(of.f, below, tile.peak)
        if tile.q_target[c] == q_target and tile.target_logit[c] == whole.target_logit[i]:
            factors.at_target[c] = gradient_of_target(mass, of, rest, y_target, q_target)
        else:
            y = times_exp(rounded(of.f), tile.target_logit[c], whole.peak[i], t)
            factors.at_target[c] = gradient_of(y, 1.0, of.d * tile.q_target[c])


@inline
def finish_factors(rows: Any, d_loss: Any, tile: Tile, factors: TileFactors, first: int, size: int) -> None:
    """Find the factors of exponentials, and the gradients of targets."""
    like = tile.peak.dtype.type(0)
    _copy_numbers(d_loss, first, factors.d_loss[:size])
    for c in range(size):
        rest, y = double_double(tile.rest[c], tile.low_rest[c], like), tile.y_target[c]
        of = factors_of(rows, tile.mass[c], tile.weight[c], factors.d_loss[c], tile.peak[c], rest, y)
        factors.f[c], factors.low_f[c], factors.d[c], factors.extra[c] = high_of(of.f), low_of(of.f), of.d, of.extra
        below = double_double(tile.below[c], tile.low_below[c], like)
        factors.first[c], factors.second[c] = split(of.f, below, tile.peak)
    for c in range(size):
        rest, y = double_double(tile.rest[c], tile.low_rest[c], like), tile.y_target[c]
        of = Factors(double_double(factors.f[c], factors.low_f[c], like), factors.d[c], factors.extra[c])
        factors.at_target[c] = gradient_of_target(tile.mass[c], of, rest, y, tile.q_target[c])
