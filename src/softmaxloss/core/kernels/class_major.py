"""The entry points that compute many rows side by side: for few classes, and for rows that are neighbours in memory.

Rows are copied, a tile of them at a time, to where each class of theirs is one line. Each loop runs over a line and so
becomes vector code however few classes there are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import class_weight_of, fold, half_gap, two_quotient, two_sum
from softmaxloss.core.kernels.bits import decoded, encoded, local_array
from softmaxloss.core.kernels.blocks import two_factors
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline, kernel
from softmaxloss.core.kernels.exponential import (
    UNLIFT,
    Reference,
    Temperature,
    above_reference,
    lifted_exp,
    reference_of,
)
from softmaxloss.core.summary import gradient_at_winner, gradient_factors, row_loss

# Rows of a tile: what is kept of each, some 150 bytes, stays in a first-level cache, its logits in a second-level one.
MOST_ROWS = 128
FEWEST_ROWS = 16
TILE_ELEMENTS = 1 << 14
# Classes whose terms are added plainly before their sum joins the compensated total.
RUN = 4

_numbers = local_array(MOST_ROWS)


class Tile(NamedTuple):
    """What is kept of rows that are computed side by side."""

    peak: Any  # in the precision of the logits
    winner: Any
    base: Any  # those of Reference
    rounder: Any
    lowest: Any
    above: Any  # exp((peak - R) / T)
    lost_above: Any
    label_logit: Any
    keep: Any  # 0 for rows that have a label
    run: Any  # sum of exponentials over a run of classes, without the winner
    run_dot: Any
    rest: Any  # sum over all runs, and what rounding lost of it
    lost_rest: Any
    dot: Any
    lost_dot: Any


class Factors(NamedTuple):
    """The gradient of rows that are computed side by side is factor * LIFT * exp((z - R) / T) - d * q."""

    d: Any
    factor: Any
    at_winner: Any  # the gradients there, and what they are made of
    at_label: Any
    q_winner: Any
    q_label: Any
    first: Any  # two numbers whose product is the factor
    second: Any


@inline
def tile_for(number: Any) -> Tile:
    """Return what rows of numbers like this one need."""
    return Tile(
        _numbers(number),
        _numbers(np.int32(0)),
        _numbers(number),
        _numbers(number),
        _numbers(number),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(number),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
    )


@inline
def factors_for(number: Any) -> Factors:
    """Return what gradients of rows of numbers like this one need."""
    return Factors(
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(0.0),
        _numbers(number),
        _numbers(number),
    )


def rows_of_a_tile(n_classes: int) -> int:
    """Return how many rows to compute side by side."""
    return min(MOST_ROWS, max(FEWEST_ROWS, TILE_ELEMENTS // max(n_classes, 1)))


@inline
def place_of(array: Any, group: int, j: int, row: int) -> int:
    """Return where class j of a row of a group stands in the flat array."""
    return group * array.group_stride + j * array.class_stride + row * array.row_stride


def probability_in(dense: Any, group: int, j: int, i: int) -> Any:
    """Return P of class j of row i in its group, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_in, strict=False, jit_options=STEP_OPTIONS)
def _probability_in(dense: Any, group: int, j: int, i: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, group, j, i: 0.0
    return lambda dense, group, j, i: dense.flat[np.uint64(place_of(dense, group, j, i))]


@inline
def exists(class_mask: Any, j: int) -> bool:
    """Return whether class j exists."""
    return class_mask.size == 0 or class_mask[j]


@inline
def read_line(flat: Any, stride: int, line: Any) -> None:
    """Copy one class of the rows into a line."""
    if stride == 1:
        for c in range(line.size):
            line[c] = decoded(flat[c])
    else:
        for c in range(line.size):
            line[c] = decoded(flat[np.uint64(c * stride)])


@inline
def write_line(line: Any, flat: Any, stride: int) -> None:
    """Copy a line to where the class of the rows belongs."""
    if stride == 1:
        for c in range(line.size):
            flat[c] = encoded(line[c], flat[c])
    else:
        for c in range(line.size):
            flat[np.uint64(c * stride)] = encoded(line[c], flat[np.uint64(c * stride)])


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
        reference = reference_of(tile.peak[c], temperature)
        tile.base[c], tile.rounder[c], tile.lowest[c] = reference.base, reference.rounder, reference.lowest
        top = tile.peak[c] if math.isfinite(tile.peak[c]) else tile.peak.dtype.type(0)
        tile.above[c], tile.lost_above[c] = above_reference(top, reference, temperature)


@inline
def add_exponentials(line: Any, j: int, tile: Tile, temperature: Temperature) -> None:
    """Turn each logit into LIFT * exp((z - R) / T), and add it to the run but at the winner."""
    for c in range(line.size):
        reference = Reference(tile.base[c], tile.rounder[c], tile.lowest[c], 0.0)
        line[c] = lifted_exp(line[c] - tile.base[c], 0.0, reference, temperature)
        tile.run[c] += line[c] if tile.winner[c] != j else line.dtype.type(0)


@fused
def add_gaps(line: Any, tile: Tile, rows: Any, group: int, j: int, start: int) -> None:
    """Add q (z - peak) / 2 to the run."""
    r = class_weight_of(rows.class_weight, j)
    for c in range(line.size):
        q = r * (tile.keep[c] * probability_in(rows.dense, group, j, start + c) + rows.floor)
        tile.run_dot[c] += q * half_gap(np.float64(line[c]), np.float64(tile.peak[c])) if q > 0.0 else 0.0


@inline
def has_spread(rows: Any) -> bool:
    """Return whether targets have other entries than those of labels."""
    return rows.floor > 0.0 or rows.dense is not None


@inline
def summarize_tile(logits: Any, rows: Any, lines: Any, tile: Tile, group: int, start: int, size: int) -> None:
    """Summarise rows of a group into peak, winner, rest and dot; `lines` gets LIFT * exp((z - R) / T)."""
    first = group * logits.width + start
    tile.peak[:], tile.winner[:] = -math.inf, 0
    for j in range(logits.n_classes):
        line = lines[j][:size]
        if exists(rows.class_mask, j):
            read_line(logits.flat[place_of(logits, group, j, start) :], logits.row_stride, line)
            take_higher(line, j, tile.peak, tile.winner)
        else:
            line[:] = -math.inf
    for c in range(size):
        label = rows.label[first + c]
        tile.keep[c] = 0.0 if label >= 0 else rows.keep
        tile.label_logit[c] = lines[max(label, 0), c]
    refer(size, tile, rows.temperature)

    tile.run[:], tile.run_dot[:] = 0, 0.0
    tile.rest[:], tile.lost_rest[:], tile.dot[:], tile.lost_dot[:] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, logits.n_classes, RUN):
        for j in range(begin, min(begin + RUN, logits.n_classes)):
            if has_spread(rows):
                add_gaps(lines[j][:size], tile, rows, group, j, start)
            add_exponentials(lines[j][:size], j, tile, rows.temperature)
        fold(tile.run[:size], tile.rest, tile.lost_rest)
        tile.run[:] = 0
        if has_spread(rows):
            fold(tile.run_dot[:size], tile.dot, tile.lost_dot)
            tile.run_dot[:] = 0.0
    finish_dots(rows, tile, first, size)
    finish_rests(tile, size)


@inline
def finish_dots(rows: Any, tile: Tile, first: int, size: int) -> None:
    """Add the label's share to what the lines gave of dot."""
    for c in range(size):
        label = rows.label[first + c]
        spike = rows.keep * class_weight_of(rows.class_weight, label) if label >= 0 else 0.0
        dot = tile.dot[c] + (tile.lost_dot[c] if tile.dot[c] > -math.inf else 0.0)
        dot += spike * half_gap(tile.label_logit[c], np.float64(tile.peak[c])) if spike > 0.0 else 0.0
        tile.dot[c] = dot / (0.5 * rows.temperature.value)


@inline
def finish_rests(tile: Tile, size: int) -> None:
    """Turn sums relative to R into rests, relative to the peak."""
    for c in range(size):
        top, lost = two_sum(tile.rest[c] * UNLIFT, tile.lost_rest[c] * UNLIFT)
        tile.rest[c], tile.lost_rest[c] = two_quotient(top, lost, tile.above[c], tile.lost_above[c])


@kernel
def summarize(logits: Any, rows: Any, lines: Any, summary: Any) -> None:
    """Fill the summaries of rows, whatever their weight."""
    tile = tile_for(lines[0, 0])
    for group in range(logits.groups):
        for start in range(0, logits.width, lines.shape[1]):
            size = min(lines.shape[1], logits.width - start)
            summarize_tile(logits, rows, lines, tile, group, start, size)
            for c in range(size):
                i = group * logits.width + start + c
                summary.argmax[i], summary.peak[i], summary.rest[i] = tile.winner[c], tile.peak[c], tile.rest[c]
                summary.dot[i], summary.mass[i] = tile.dot[c], rows.mass[i]


@kernel
def losses_and_gradients(logits: Any, rows: Any, d_loss: Any, lines: Any, loss: Any, out: Any) -> None:
    """Fill the loss of each row and its gradient, times d_loss; `out` may be `logits` itself."""
    tile, factors = tile_for(lines[0, 0]), factors_for(lines[0, 0])
    for group in range(logits.groups):
        for start in range(0, logits.width, lines.shape[1]):
            size = min(lines.shape[1], logits.width - start)
            first = group * logits.width + start
            summarize_tile(logits, rows, lines, tile, group, start, size)
            finish_losses(rows, d_loss, tile, factors, first, size, loss)
            finish_gradients(rows, lines, tile, factors, group, start, first, size)
            for j in range(logits.n_classes):
                write_line(lines[j][:size], out.flat[place_of(out, group, j, start) :], out.row_stride)


@inline
def finish_losses(rows: Any, d_loss: Any, tile: Tile, factors: Factors, first: int, size: int, loss: Any) -> None:
    """Fill the losses of the rows of a tile, and the factors of their gradients."""
    for c in range(size):
        peak, rest, i = np.float64(tile.peak[c]), tile.rest[c], first + c
        value = row_loss(rows, i, peak, rest, tile.dot[c])
        loss[i] = value if rows.weight[i] != 0.0 else 0.0
        f, lost_f, factors.d[c] = gradient_factors(rows, i, d_loss[i], peak, (rest, tile.lost_rest[c]))
        factor, lost = two_quotient(f, lost_f, tile.above[c], tile.lost_above[c])
        factors.factor[c] = factor + lost
        factors.first[c], factors.second[c] = two_factors(tile.peak, factor + lost)
        factors.at_winner[c] = f + lost_f


@inline
def finish_gradients(
    rows: Any, lines: Any, tile: Tile, factors: Factors, group: int, start: int, first: int, size: int
) -> None:
    """Turn exponentials into gradients; clear rows of weight 0 and classes that do not exist."""
    find_wanted(rows, lines, tile, factors, group, start, first, size)
    for c in range(size):
        peak, rest, f = np.float64(tile.peak[c]), tile.rest[c], factors.at_winner[c]
        factors.at_winner[c] = gradient_at_winner(rows, first + c, (f, factors.d[c]), (peak, rest), factors.q_winner[c])
        factors.at_label[c] = factors.at_label[c] * UNLIFT * factors.factor[c] - factors.d[c] * factors.q_label[c]
    for j in range(lines.shape[0]):
        scale_line(lines[j][:size], rows, tile, factors, group, j, start)
    for c in range(size):
        label = rows.label[first + c]
        if label >= 0:
            lines[label, c] = factors.at_label[c]
        if math.isfinite(tile.peak[c]):
            lines[tile.winner[c], c] = factors.at_winner[c]
        if rows.weight[first + c] == 0.0:
            lines[:, c] = 0
    for j in range(rows.class_mask.size):
        if not rows.class_mask[j]:
            lines[j] = 0


@inline
def find_wanted(
    rows: Any, lines: Any, tile: Tile, factors: Factors, group: int, start: int, first: int, size: int
) -> None:
    """Fill in q at winners and labels, and the exponentials of labels."""
    for c in range(size):
        label, winner = rows.label[first + c], tile.winner[c]
        q = tile.keep[c] * probability_in(rows.dense, group, winner, start + c) + rows.floor
        q = class_weight_of(rows.class_weight, winner) * (q + (rows.keep if winner == label else 0.0))
        factors.q_winner[c] = q
        factors.q_label[c] = class_weight_of(rows.class_weight, max(label, 0)) * (rows.keep + rows.floor)
        factors.at_label[c] = lines[max(label, 0), c]


@fused
def scale_line(line: Any, rows: Any, tile: Tile, factors: Factors, group: int, j: int, start: int) -> None:
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
