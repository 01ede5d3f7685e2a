"""Sums over some neighbouring classes of a row, found block by block, and what those of two sets of classes make."""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.core.kernels.arithmetic import carried, clear, half_gap, plus, rounded, sum_of, two_sum
from softmaxloss.core.kernels.blocks import BLOCK, exponentials, first_index, highest, load, spread_moments
from softmaxloss.core.kernels.compilation import inline
from softmaxloss.core.kernels.exponential import LIFT, Reference, above_reference, reference_of, rises_above
from softmaxloss.core.kernels.tiles import has_spread

# The sums of longer rows are made up of those of slices of so many classes, which threads may share: see slices.py.
SLICE = 1 << 15


@inline
def highest_of_row(logits: Any, class_mask: Any, block: Any, work: Any) -> Any:
    """Return the highest logit of a row, or NaN."""
    top = block.dtype.type(-math.inf)
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        z, _ = load(logits[start:stop], class_mask[start:stop], block, work)
        peak = highest(z)
        top = peak if peak > top or math.isnan(peak) else top
        if math.isnan(top):
            break
    return top


class Sums(NamedTuple):
    """What a sweep over some neighbouring classes of a row finds."""

    argmax: int
    peak: Any  # in the precision of the logits
    reference: Reference
    rose: bool  # a logit is so high above the reference that the sweep ended there
    total: Any  # of LIFT * exp((z - R) / T) but for the winner's, carried
    dot: float  # half of T times the sum of q (z - peak) / T, but for the label
    lost_dot: float
    mass: float  # sum of q, but for the label


@inline
def no_sums(lowest: Any, reference: Reference, rose: bool) -> Sums:
    """Return the sums of no classes, or of a sweep that ended; `lowest` is -inf."""
    return Sums(0, lowest, reference, rose, carried(0.0, 0.0, lowest), 0.0, 0.0, 0.0)


@inline
def sweep(
    logits: Any,
    block: Any,
    work: Any,
    lanes: Any,
    rows: Any,
    i: int,
    keep: float,
    given: Any,
    is_given: bool,
    begin: int,
    end: int,
) -> Sums:
    """Go over classes `begin` to `end` of row i block by block: exponentials but for the winner's go to `work`.

    They are relative to the given reference, or else to that of the first block that is not all -inf.
    """
    row, class_mask, t, lowest = logits[i], rows.class_mask, rows.temperature, block.dtype.type(-math.inf)
    argmax, peak, reference, ousted, dot, lost_dot, mass = begin, lowest, given, 0.0, 0.0, 0.0, 0.0
    clear(lanes.total)
    clear(lanes.lost)
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        z, top = load(row[start:stop], class_mask[start:stop], block, lanes.run)
        out = work[start % work.size :][: stop - start]
        if peak == lowest and not is_given:
            reference = reference_of(top, t)
        if math.isnan(top) or rises_above(top, reference, t):
            return no_sums(lowest, reference, True)
        if top > peak:
            if peak > lowest:
                above = rounded(above_reference(peak, reference, t))
                ousted += above
                work[argmax % work.size] = above * LIFT
                dot, error = two_sum(dot, mass * half_gap(np.float64(peak), np.float64(top)))
                lost_dot += error
            argmax, peak = start + first_index(z, top), top
        if has_spread(rows):
            block_dot, block_mass = spread_moments(z, peak, rows, i, start, keep, lanes)
            dot, error = two_sum(dot, block_dot)
            lost_dot += error
            mass += block_mass
        winner = argmax - start if peak > lowest else -1
        next_row, next_start = (i, stop) if stop < row.size else (min(i + 1, logits.shape[0] - 1), 0)
        ahead = logits[next_row][next_start : next_start + BLOCK]
        exponentials(z, winner, reference, t, lanes, out, ahead)
    total = plus(sum_of(lanes.total, lanes.lost, lowest), ousted * LIFT)
    return Sums(argmax, peak, reference, False, total, dot, lost_dot, mass)


@inline
def together(a: Sums, b: Sums, temperature: Any) -> Sums:
    """Return the sums over two sets of classes, a before b, with one reference: one winner becomes ordinary."""
    high, low = (b, a) if b.peak > a.peak else (a, b)
    total = plus(a.total, b.total)
    dot, lost_dot = two_sum(a.dot, b.dot)
    if low.peak > -math.inf:
        total = plus(total, rounded(above_reference(low.peak, b.reference, temperature)) * LIFT)
        dot, error = two_sum(dot, low.mass * half_gap(np.float64(low.peak), np.float64(high.peak)))
        lost_dot += error
    lost_dot += a.lost_dot + b.lost_dot
    return Sums(high.argmax, high.peak, b.reference, a.rose or b.rose, total, dot, lost_dot, a.mass + b.mass)


@inline
def put_back(work: Any, sums: Sums, temperature: Any) -> None:
    """Put in the exponential of a winner that has become an ordinary class."""
    if sums.peak > -math.inf:
        work[sums.argmax % work.size] = rounded(above_reference(sums.peak, sums.reference, temperature)) * LIFT
