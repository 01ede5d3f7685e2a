"""The entry points that go class by class, many rows side by side: for arrays whose rows are neighbours in memory.

Each loop runs over a line, one class of some rows, and so becomes vector code however few classes there are. Lines
are worked on in a place of their own, so that the compiler need not prove that arrays do not overlap, and the gradient
may take the place of the logits. Nothing is allocated: `tile` is room_for_a_tile.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import class_weight_of, half_gap, two_sum
from softmaxloss.core.kernels.blocks import two_factors
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline, kernel
from softmaxloss.core.kernels.exponential import UNLIFT, Temperature, lifted_exp, times_exp
from softmaxloss.core.summary import gradient_at_winner, gradient_factors, row_loss

# Rows of a tile: what is kept of each, some 80 bytes, stays in a first-level cache, its logits in a second-level one.
MOST_ROWS = 128
FEWEST_ROWS = 16
TILE_ELEMENTS = 1 << 14
# Classes whose terms are added plainly before their sum joins the compensated total.
RUN = 4


class Tile(NamedTuple):
    """What is kept of rows that are computed side by side."""

    line: Any  # one class of the rows, in work
    peak: Any
    winner: Any
    label_logit: Any
    keep: Any  # 0 for rows that have a label
    run: Any  # sum of exponentials over a run of classes, without the winner
    run_dot: Any
    rest: Any  # sum over all runs, and what rounding lost of it
    lost_rest: Any
    dot: Any
    lost_dot: Any
    f: Any  # those of gradient_factors, and the two factors that multiply by f
    d: Any
    first: Any
    second: Any


def room_for_a_tile(logits: Any) -> Tile:
    """Return what the kernels need to work in."""
    rows = min(MOST_ROWS, max(FEWEST_ROWS, TILE_ELEMENTS // max(logits.n_classes, 1)))
    same, double = logits.flat.dtype, np.float64
    dtypes = [same, same, np.int32, double, double, same, *[double] * 7, same, same]
    return Tile(*(np.empty(rows, dtype) for dtype in dtypes))


@inline
def place_of(array: Any, group: int, j: int, start: int) -> int:
    """Return where class j of row `start` of a group stands in the flat array."""
    return group * array.group_stride + j * array.class_stride + start


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
def copy(source: Any, destination: Any) -> None:
    """Copy a line."""
    for c in range(destination.size):
        destination[c] = source[c]


@inline
def take_higher(line: Any, j: int, peak: Any, winner: Any) -> None:
    """Put class j in the place of lower winners; NaN is above all."""
    for c in range(line.size):
        higher = (line[c] > peak[c]) | (line[c] != line[c])
        peak[c] = line[c] if higher else peak[c]
        winner[c] = j if higher else winner[c]


@inline
def add_exponentials(line: Any, j: int, peak: Any, winner: Any, total: Any, temperature: Temperature) -> None:
    """Turn each logit into LIFT * exp((z - peak) / T), and add it to the total but at the winner."""
    for c in range(line.size):
        line[c] = lifted_exp(line[c], peak[c], temperature)
        total[c] += line[c] if winner[c] != j else line.dtype.type(0)


@fused
def add_gaps(line: Any, peak: Any, rows: Any, keep: Any, group: int, j: int, start: int, total: Any) -> None:
    """Add q (z - peak) / 2 to the total."""
    r = class_weight_of(rows.class_weight, j)
    for c in range(line.size):
        q = r * (keep[c] * probability_in(rows.dense, group, j, start + c) + rows.floor)
        total[c] += q * half_gap(np.float64(line[c]), np.float64(peak[c])) if q > 0.0 else 0.0


@inline
def add_run(size: int, run: Any, total: Any, lost: Any) -> None:
    """Add the sums of a run to the compensated totals."""
    for c in range(size):
        total[c], error = two_sum(total[c], np.float64(run[c]))
        lost[c] += error
        run[c] = 0


@inline
def has_spread(rows: Any) -> bool:
    """Return whether targets have other entries than those of labels."""
    return rows.floor > 0.0 or rows.dense is not None


@inline
def summarize_tile(logits: Any, rows: Any, tile: Any, group: int, start: int, size: int, exponentials: Any) -> None:
    """Summarise `size` rows of a group into peak, winner, rest and dot; `exponentials` gets LIFT * exp."""
    find_winners(logits, rows, tile, group, start, size)
    tile.run[:], tile.run_dot[:] = 0, 0.0
    tile.rest[:], tile.lost_rest[:], tile.dot[:], tile.lost_dot[:] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, logits.n_classes, RUN):
        for j in range(begin, min(begin + RUN, logits.n_classes)):
            add_class(logits, rows, tile, group, j, start, size, exponentials)
        add_run(size, tile.run, tile.rest, tile.lost_rest)
        if has_spread(rows):
            add_run(size, tile.run_dot, tile.dot, tile.lost_dot)
    for c in range(size):
        label = rows.label[group * logits.width + start + c]
        tile.rest[c] = (tile.rest[c] + tile.lost_rest[c]) * UNLIFT if tile.peak[c] > -math.inf else 0.0
        tile.dot[c] += tile.lost_dot[c] if tile.dot[c] > -math.inf else 0.0
        spike = rows.keep * class_weight_of(rows.class_weight, label) if label >= 0 else 0.0
        tile.dot[c] += spike * half_gap(tile.label_logit[c], np.float64(tile.peak[c])) if spike > 0.0 else 0.0
        tile.dot[c] /= 0.5 * rows.temperature.value


@inline
def find_winners(logits: Any, rows: Any, tile: Any, group: int, start: int, size: int) -> None:
    """Find the highest logit of each row, its class, and the logit of the label, before any is overwritten."""
    tile.peak[:], tile.winner[:] = -math.inf, 0
    for j in range(logits.n_classes):
        if exists(rows.class_mask, j):
            at = place_of(logits, group, j, start)
            take_higher(logits.flat[at : at + size], j, tile.peak, tile.winner)
    for c in range(size):
        label = rows.label[group * logits.width + start + c]
        tile.keep[c] = 0.0 if label >= 0 else rows.keep
        tile.label_logit[c] = logits.flat[place_of(logits, group, label, start + c)] if label >= 0 else 0.0


@inline
def add_class(logits: Any, rows: Any, tile: Any, group: int, j: int, start: int, size: int, exponentials: Any) -> None:
    """Add what class j contributes to rest and dot."""
    line, to = tile.line[:size], place_of(exponentials, group, j, start)
    if not exists(rows.class_mask, j):
        exponentials.flat[to : to + size] = 0
        return
    at = place_of(logits, group, j, start)
    copy(logits.flat[at : at + size], line)
    if has_spread(rows):
        add_gaps(line, tile.peak, rows, tile.keep, group, j, start, tile.run_dot)
    add_exponentials(line, j, tile.peak, tile.winner, tile.run, rows.temperature)
    copy(line, exponentials.flat[to : to + size])


@kernel
def summarize(logits: Any, rows: Any, tile: Any, scratch: Any, summary: Any) -> None:
    """Fill the summaries of rows, whatever their weight; in `scratch` all classes are one line."""
    for group in range(logits.groups):
        for start in range(0, logits.width, tile.line.size):
            size = min(tile.line.size, logits.width - start)
            summarize_tile(logits, rows, tile, group, start, size, scratch)
            for c in range(size):
                i = group * logits.width + start + c
                summary.argmax[i], summary.peak[i], summary.rest[i] = tile.winner[c], tile.peak[c], tile.rest[c]
                summary.dot[i], summary.mass[i] = tile.dot[c], rows.mass[i]


@kernel
def losses_and_gradients(logits: Any, rows: Any, d_loss: Any, tile: Any, loss: Any, out: Any) -> None:
    """Fill the loss of each row and its gradient, times d_loss; `out` may be `logits` itself."""
    for group in range(logits.groups):
        for start in range(0, logits.width, tile.line.size):
            size = min(tile.line.size, logits.width - start)
            summarize_tile(logits, rows, tile, group, start, size, out)
            finish_losses(rows, d_loss, tile, group * logits.width + start, size, loss)
            for j in range(logits.n_classes):
                if exists(rows.class_mask, j):
                    scale_line(out, rows, tile, group, j, start, size)
            finish_gradients(out, rows, tile, group, start, size)


@inline
def finish_losses(rows: Any, d_loss: Any, tile: Any, i: int, size: int, loss: Any) -> None:
    """Fill the losses of the rows of a tile, and the factors of their gradients."""
    for c in range(size):
        loss[i + c] = 0.0
        peak, rest = np.float64(tile.peak[c]), tile.rest[c]
        if rows.weight[i + c] != 0.0:
            loss[i + c] = row_loss(rows, i + c, peak, rest, tile.dot[c])
        tile.f[c], tile.d[c] = gradient_factors(rows, i + c, d_loss[i + c], peak, rest)
        tile.first[c], tile.second[c] = two_factors(tile.line, tile.f[c])


@fused
def scale_line(out: Any, rows: Any, tile: Any, group: int, j: int, start: int, size: int) -> None:
    """Turn LIFT * exp of class j into factor * exp - d_z * q."""
    line = tile.line[:size]
    at = place_of(out, group, j, start)
    copy(out.flat[at : at + size], line)
    if has_spread(rows):
        r = class_weight_of(rows.class_weight, j)
        for c in range(size):
            p = probability_in(rows.dense, group, j, start + c)
            q = r * (tile.d[c] * tile.keep[c] * p + tile.d[c] * rows.floor)
            line[c] = (line[c] * tile.first[c]) * tile.second[c] - line.dtype.type(q)
    else:
        for c in range(size):
            line[c] = (line[c] * tile.first[c]) * tile.second[c]
    copy(line, out.flat[at : at + size])


@inline
def finish_gradients(out: Any, rows: Any, tile: Any, group: int, start: int, size: int) -> None:
    """Put the gradients of labels and winners in their places; clear rows of weight 0."""
    for c in range(size):
        i = group * out.width + start + c
        if rows.weight[i] == 0.0:
            for j in range(out.n_classes):
                out.flat[place_of(out, group, j, start + c)] = 0
            continue
        peak, rest, f, d = np.float64(tile.peak[c]), tile.rest[c], tile.f[c], tile.d[c]
        if not math.isfinite(peak):
            continue
        label, winner = rows.label[i], tile.winner[c]
        if label >= 0:
            q = class_weight_of(rows.class_weight, label) * (rows.keep + rows.floor)
            gradient = times_exp(f, tile.label_logit[c], peak, rows.temperature) - d * q
            out.flat[place_of(out, group, label, start + c)] = gradient
        q = tile.keep[c] * probability_in(rows.dense, group, winner, start + c) + rows.floor
        q = class_weight_of(rows.class_weight, winner) * (q + (rows.keep if winner == label else 0.0))
        out.flat[place_of(out, group, winner, start + c)] = gradient_at_winner(rows, i, (f, d), (peak, rest), q)
