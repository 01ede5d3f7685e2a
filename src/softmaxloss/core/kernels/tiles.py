"""A tile: what is kept of some rows whose sums over classes are finished together, in vector code over the rows.

How the sums come about is another matter: row by row (row_kernels.py) or class by class (class_major.py).
"""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.core.kernels.arithmetic import (
    carried,
    class_weight_of,
    finished_dot,
    lost_of,
    rounded,
    times,
    value_of,
)
from softmaxloss.core.kernels.bits import local_array
from softmaxloss.core.kernels.compilation import inline
from softmaxloss.core.kernels.exponential import UNLIFT, Reference, below_peak
from softmaxloss.core.kernels.scaling import two_factors, within
from softmaxloss.core.summary import Factors, gradient_at_winner, gradient_factors, row_loss

# What is kept of so many rows, some 200 bytes each, stays in a first-level cache.
MOST_ROWS = 128
_numbers, _four_numbers = local_array(MOST_ROWS), local_array(4 * MOST_ROWS)


class Tile(NamedTuple):
    """What is kept of rows; what is carried has an array of what rounding lost."""

    peak: Any  # in the precision of the logits
    winner: Any
    label: Any
    base: Any  # those of Reference, in the precision of the logits
    rounder: Any
    lowest: Any
    exponent: Any
    powers: Any  # room for four numbers per row, and for one, in the precision of the logits
    run: Any
    below: Any  # exp((R - peak) / T), carried: from 2**-59 to 1.5 unless the peak is NaN
    lost_below: Any
    rest: Any  # first the sum of LIFT * exp((z - R) / T) but for the winner's, then rest, carried
    lost_rest: Any
    dot: Any  # first half of T times the sum of q (z - peak) / T but for the label's, carried, then dot
    lost_dot: Any
    label_logit: Any
    label_weight: Any  # the class weight of the label; 0 for rows that have none
    keep: Any  # 0 for rows that have a label
    mass: Any  # those of Rows
    weight: Any


class TileFactors(NamedTuple):
    """What the gradients of rows are made of."""

    d_loss: Any
    f: Any  # carried
    lost_f: Any
    d: Any
    extra: Any
    first: Any  # two_factors, in the precision of the logits
    second: Any
    q_winner: Any
    label_exp: Any  # LIFT * exp((z - R) / T) of labels
    at_winner: Any  # the gradients there, in the precision of the logits
    at_label: Any


@inline
def tile_for(number: Any) -> Tile:
    """Return what rows of numbers like this one need."""
    integer, double = np.int32(0), 0.0
    return Tile(
        peak=_numbers(number),
        winner=_numbers(integer),
        label=_numbers(integer),
        base=_numbers(number),
        rounder=_numbers(number),
        lowest=_numbers(number),
        exponent=_numbers(double),
        powers=_four_numbers(number),
        run=_numbers(number),
        below=_numbers(double),
        lost_below=_numbers(double),
        rest=_numbers(double),
        lost_rest=_numbers(double),
        dot=_numbers(double),
        lost_dot=_numbers(double),
        label_logit=_numbers(double),
        label_weight=_numbers(double),
        keep=_numbers(double),
        mass=_numbers(double),
        weight=_numbers(double),
    )


@inline
def factors_for(number: Any) -> TileFactors:
    """Return what gradients of rows of numbers like this one need."""
    double = 0.0
    return TileFactors(
        d_loss=_numbers(double),
        f=_numbers(double),
        lost_f=_numbers(double),
        d=_numbers(double),
        extra=_numbers(double),
        first=_numbers(number),
        second=_numbers(number),
        q_winner=_numbers(double),
        label_exp=_numbers(double),
        at_winner=_numbers(number),
        at_label=_numbers(number),
    )


@inline
def has_spread(rows: Any) -> bool:
    """Return whether targets have other entries than those of labels."""
    return rows.floor > 0.0 or rows.dense is not None


@inline
def begin_tile(rows: Any, tile: Tile, first: int, size: int) -> None:
    """Take what is known of rows before their logits are read."""
    of_rows(rows.mass, first, tile.mass[:size])
    of_rows(rows.weight, first, tile.weight[:size])
    label = rows.label[first : first + size]
    for c in range(size):
        tile.label[c] = label[c]
        tile.keep[c], tile.label_weight[c] = (0.0, 1.0) if label[c] >= 0 else (rows.keep, 0.0)
    times_class_weights(rows, tile.label, tile.label_weight[:size])


@inline
def of_rows(values: Any, first: int, out: Any) -> None:
    """Copy the numbers of some rows from an array that has one for each row, or one for all."""
    if values.size > 1:
        part = values[first : first + out.size]
        for c in range(out.size):
            out[c] = part[c]
    else:
        out[:] = values[0]


@inline
def times_class_weights(rows: Any, classes: Any, values: Any) -> None:
    """Multiply numbers by the weights of classes; of class 0 in the place of none."""
    if rows.class_weight.size > 0:
        for c in range(values.size):
            values[c] *= class_weight_of(rows.class_weight, max(classes[c], 0))


@inline
def set_reference(tile: Tile, c: int, reference: Reference) -> None:
    """Keep a row's reference."""
    tile.base[c], tile.rounder[c] = reference.base, reference.rounder
    tile.lowest[c], tile.exponent[c] = reference.lowest, reference.exponent


@inline
def finish_summaries(rows: Any, tile: Tile, size: int) -> None:
    """Turn the sums of rows into rest and dot, given their references."""
    for c in range(size):
        reference = Reference(tile.base[c], tile.rounder[c], tile.lowest[c], tile.exponent[c])
        peak = tile.peak[c] if math.isfinite(tile.peak[c]) else reference.base
        set_below(tile, c, below_peak(peak, reference, rows.temperature))
    finish_sums(rows, tile, size)


@inline
def set_below(tile: Tile, c: int, below: Any) -> None:
    """Keep exp((R - peak) / T) of a row."""
    tile.below[c], tile.lost_below[c] = value_of(below), lost_of(below)


@inline
def finish_sums(rows: Any, tile: Tile, size: int) -> None:
    """Turn the sums of rows into rest and dot, given exp((R - peak) / T)."""
    like = tile.peak.dtype.type(0)
    for c in range(size):
        total = carried(tile.rest[c] * UNLIFT, tile.lost_rest[c] * UNLIFT, like)
        rest = times(total, carried(tile.below[c], tile.lost_below[c], like))
        tile.rest[c], tile.lost_rest[c] = value_of(rest), lost_of(rest)
    for c in range(size):
        half_dot = carried(tile.dot[c], tile.lost_dot[c], like)
        tile.dot[c] = finished_dot(
            half_dot, rows.keep * tile.label_weight[c], tile.label_logit[c], tile.peak[c], rows.temperature
        )


@inline
def write_summaries(rows: Any, tile: Tile, first: int, size: int, summary: Any) -> None:
    """Copy what was found of rows."""
    like = tile.peak.dtype.type(0)
    for c in range(size):
        i = first + c
        rest = carried(tile.rest[c], tile.lost_rest[c], like)
        summary.argmax[i], summary.peak[i], summary.rest[i] = tile.winner[c], tile.peak[c], rounded(rest)
        summary.dot[i], summary.mass[i] = tile.dot[c], tile.mass[c]


@inline
def finish_losses(rows: Any, tile: Tile, first: int, size: int, loss: Any) -> None:
    """Fill the losses of rows."""
    part = loss[first : first + size]
    for c in range(size):
        rest = carried(tile.rest[c], tile.lost_rest[c], tile.peak[c])
        value = row_loss(rows, tile.mass[c], tile.weight[c], tile.peak[c], rest, tile.dot[c])
        part[c] = value if tile.weight[c] != 0.0 else 0.0


@inline
def finish_factors(rows: Any, d_loss: Any, tile: Tile, factors: TileFactors, first: int, size: int) -> None:
    """Find what exponentials are to be multiplied by, and the gradients at winners and labels.

    It asks for the exponentials of labels, and for the target P of winners in the place of their q.
    """
    of_rows(d_loss, first, factors.d_loss[:size])
    for c in range(size):
        rest = carried(tile.rest[c], tile.lost_rest[c], tile.peak[c])
        of = gradient_factors(rows, tile.mass[c], tile.weight[c], factors.d_loss[c], tile.peak[c], rest)
        factors.f[c], factors.lost_f[c], factors.d[c], factors.extra[c] = value_of(of.f), lost_of(of.f), of.d, of.extra
        first, second = two_factors(of.f, carried(tile.below[c], tile.lost_below[c], tile.peak[c]), tile.peak)
        factors.first[c], factors.second[c] = within(first, tile.peak), within(second, tile.peak)
        q_label = tile.label_weight[c] * (rows.keep + rows.floor)
        factors.at_label[c] = factors.label_exp[c] * first * second - of.d * q_label
    for c in range(size):
        spike = rows.keep if tile.winner[c] == tile.label[c] else 0.0
        factors.q_winner[c] = tile.keep[c] * factors.q_winner[c] + rows.floor + spike
    times_class_weights(rows, tile.winner, factors.q_winner[:size])
    for c in range(size):
        of = Factors(carried(factors.f[c], factors.lost_f[c], tile.peak[c]), factors.d[c], factors.extra[c])
        rest = rounded(carried(tile.rest[c], tile.lost_rest[c], tile.peak[c]))
        factors.at_winner[c] = gradient_at_winner(tile.mass[c], of, rest, factors.q_winner[c])
