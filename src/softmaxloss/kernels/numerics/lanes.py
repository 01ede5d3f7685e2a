"""Sums over many classes, whose additions have one fixed order, whatever the width of the processor's vectors.

A block of classes is summed in lanes, each of which adds at most 4 terms plainly. These lanes are folded into fewer
lanes of double precision, which collect all blocks of a row and are added up with two_sum.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from softmaxloss.kernels.machine.compilation import by_type, inline
from softmaxloss.kernels.machine.intrinsics import stack_array
from softmaxloss.kernels.numerics.double_double import DoubleDouble, rounded, two_sum

LANES = 512
FOLDED = 64  # 4 * 4 * 4: they are added up by quarters
lanes_of, folded_lanes = stack_array(LANES), stack_array(FOLDED)


class Lanes(NamedTuple):
    """Scratch for sums: arrays whose entries, the lanes, are partial sums."""

    run: Any  # LANES sums in the dtype of the logits
    first: Any  # LANES sums in double precision, as in `second`
    second: Any
    total: Any  # FOLDED sums in double precision, to which `fold` adds those of a block
    low: Any  # and what they lost by rounding


@inline
def lanes_for(number: Any) -> Lanes:
    """Return lanes for sums of numbers like this one."""
    return Lanes(lanes_of(number), lanes_of(0.0), lanes_of(0.0), folded_lanes(0.0), folded_lanes(0.0))


@inline
def clear(lanes: Any) -> None:
    """Set lanes to 0."""
    for lane in range(lanes.size):
        lanes[lane] = 0


@by_type
def fold(run: Any, total: Any, low: Any) -> Any:
    """Add lanes to fewer double-double lanes; lanes of single precision do not need `low`."""

    def exactly(run: Any, total: Any, low: Any) -> None:
        for start in range(0, run.size, total.size):
            part = run[start : start + total.size]
            for lane in range(part.size):
                total[lane], error = two_sum(total[lane], part[lane])
                low[lane] += error

    def plainly(run: Any, total: Any, low: Any) -> None:
        for start in range(0, run.size, total.size):
            part = run[start : start + total.size]
            for lane in range(part.size):
                total[lane] += np.float64(part[lane])

    return exactly if run.dtype == types.float64 else plainly


@by_type
def sum_of(total: Any, low: Any, like: Any) -> Any:
    """Return the sum of all lanes, a double-double for rows of double precision; inf if one lane is inf."""

    def exactly(total: Any, low: Any, like: Any) -> Any:
        _add_quarters_exactly(total, low, FOLDED // 4)
        _add_quarters_exactly(total, low, FOLDED // 16)
        _add_quarters_exactly(total, low, FOLDED // 64)
        return DoubleDouble(total[0], low[0])

    def plainly(total: Any, low: Any, like: Any) -> Any:
        _add_quarters(total, FOLDED // 4)
        _add_quarters(total, FOLDED // 16)
        _add_quarters(total, FOLDED // 64)
        return total[0]

    return exactly if like == types.float64 else plainly


@inline
def _add_quarters_exactly(total: Any, low: Any, n: int) -> None:
    for lane in range(n):
        a, low_a = two_sum(total[lane], total[n + lane])
        b, low_b = two_sum(total[2 * n + lane], total[3 * n + lane])
        total[lane], error = two_sum(a, b)
        before = (low[lane] + low[n + lane]) + (low[2 * n + lane] + low[3 * n + lane])
        low[lane] = before + (low_a + low_b + error)


@inline
def _add_quarters(total: Any, n: int) -> None:
    for lane in range(n):
        total[lane] = (total[lane] + total[n + lane]) + (total[2 * n + lane] + total[3 * n + lane])


@inline
def lane_sum(run: Any) -> float:
    """Return the sum of lanes of one block."""
    folded, low = folded_lanes(0.0), folded_lanes(0.0)
    clear(folded)
    clear(low)
    fold(run, folded, low)
    return rounded(sum_of(folded, low, 0.0))
