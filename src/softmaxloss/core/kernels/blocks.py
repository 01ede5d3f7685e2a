"""What is done to a block of logits while it lies in the cache.

Every step is a loop over one working array, in place: the compiler need not prove that two arrays do not overlap, and
the gradient of the logits can take the logits' own place.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import RUN, class_weight_of, half_gap, probability_of, two_sum
from softmaxloss.core.kernels.bits import number_of_key, order_key
from softmaxloss.core.kernels.compilation import inline, reduction
from softmaxloss.core.kernels.exponential import LIFT, UNLIFT, lifted_exp

# Classes of a block: 8 KiB of float32, 16 KiB of float64; a quarter to a half of a first-level cache.
BLOCK = 2048


@inline
def load(logits: Any, block: Any) -> None:
    """Copy logits into the working block, unless they are there already."""
    if logits.ctypes.data != block.ctypes.data:
        for j in range(block.size):
            block[j] = logits[j]


@inline
def highest(block: Any) -> Any:
    """Return the maximum, or NaN if there is one; integer comparisons become vector code, those of floats do not."""
    top = low = order_key(block[0])
    for j in range(block.size):
        key = order_key(block[j])
        top = max(top, key)
        low = min(low, key)
    return number_of_key(top) if low >= order_key(block.dtype.type(-math.inf)) else block.dtype.type(math.nan)


@inline
def first_index(block: Any, value: Any) -> int:
    """Return where a value stands first, without an early exit and so in vector code; 0 for NaN."""
    first = block.size
    for j in range(block.size):
        first = min(first, j if block[j] == value else block.size)
    return first if first < block.size else 0


@inline
def exponentials(block: Any, winner: int, peak: Any) -> float:
    """Turn each logit into LIFT * exp(z - peak), and return the sum of exp(z - peak) without the winner's 1."""
    if peak == -math.inf:
        block[:] = 0
        return 0.0
    block[winner] = -math.inf
    total, lost = 0.0, 0.0
    for start in range(0, block.size, RUN):
        total, error = two_sum(total, _exponentials_of_run(block[start : start + RUN], peak))
        lost += error
    block[winner] = LIFT
    return (total + lost) * UNLIFT


@reduction
def _exponentials_of_run(run: Any, peak: Any) -> float:
    total = run.dtype.type(0)
    for j in range(run.size):
        run[j] = lifted_exp(run[j], peak)
        total += run[j]
    return total


@inline
def spread_target(rows: Any, i: int, j: int, keep: float) -> Any:
    """Return q_j but for what stands at the label: r_j (keep P_j + floor), with keep = 0 for rows that have a label."""
    return class_weight_of(rows.class_weight, j) * (keep * probability_of(rows.dense, i, j) + rows.floor)


@inline
def spread_moments(block: Any, peak: Any, rows: Any, i: int, start: int, keep: float) -> tuple[float, float]:
    """Return sum_j q_j (z_j - peak) and sum_j q_j over a block of logits, with q as in spread_target."""
    dot, mass, lost = 0.0, 0.0, 0.0
    for begin in range(0, block.size, RUN):
        run_dot, run_mass = _moments_of_run(block[begin : begin + RUN], peak, rows, i, start + begin, keep)
        dot, error = two_sum(dot, run_dot)
        lost += error
        mass += run_mass
    return (dot + lost if dot > -math.inf else dot), mass


@reduction
def _moments_of_run(run: Any, peak: Any, rows: Any, i: int, start: int, keep: float) -> tuple[float, float]:
    dot, mass = 0.0, 0.0
    for j in range(run.size):
        q = spread_target(rows, i, start + j, keep)
        dot += q * half_gap(np.float64(run[j]), np.float64(peak)) if q > 0.0 else 0.0
        mass += q
    return 2.0 * dot, mass


@inline
def two_factors(block: Any, factor: float) -> tuple[Any, Any]:
    """Return numbers whose product is factor / LIFT, such that a block times one, then the other, keeps its bits."""
    if abs(factor) < 1.0:
        return block.dtype.type(UNLIFT), block.dtype.type(factor)
    return block.dtype.type(factor * UNLIFT), block.dtype.type(1)


@inline
def scale(block: Any, factor: float) -> None:
    """Turn LIFT * exp(z - peak) into factor * exp(z - peak)."""
    first, second = two_factors(block, factor)
    for j in range(block.size):
        block[j] = (block[j] * first) * second


@inline
def scale_and_subtract(block: Any, factor: float, rows: Any, i: int, start: int, keep: float, weight: float) -> None:
    """Turn LIFT * exp(z - peak) into factor * exp(z - peak) - weight * q, with q as in spread_target."""
    first, second = two_factors(block, factor)
    for j in range(block.size):
        q = spread_target(rows, i, start + j, keep)
        block[j] = (block[j] * first) * second - block.dtype.type(weight * q)
