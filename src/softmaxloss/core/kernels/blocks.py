"""What is done to a block of logits while it lies in the cache.

Every step is a loop over one working array, in place: the compiler need not prove that two arrays do not overlap, and
the gradient of the logits can take the logits' own place.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import (
    LANES,
    class_weight_of,
    clear,
    half_gap,
    lane_sum,
    probability_of,
)
from softmaxloss.core.kernels.bits import number_of_key, order_key
from softmaxloss.core.kernels.compilation import fused, inline
from softmaxloss.core.kernels.exponential import LIFT, UNLIFT, Temperature, lifted_exp

# Far from the largest number of either precision.
_MOST = 2.0**100

# Classes of a block: 8 KiB of float32, 16 KiB of float64; a quarter to a half of a first-level cache.
BLOCK = 2048


@inline
def load(logits: Any, class_mask: Any, block: Any) -> None:
    """Copy logits into the working block, unless they are there already; classes that do not exist get -inf."""
    if logits.ctypes.data != block.ctypes.data:
        for j in range(block.size):
            block[j] = logits[j]
    for j in range(class_mask.size):
        block[j] = block[j] if class_mask[j] else -math.inf


@inline
def clear_masked(row: Any, class_mask: Any) -> None:
    """Set a row to 0 where classes do not exist."""
    for j in range(class_mask.size):
        row[j] = row[j] if class_mask[j] else 0


@inline
def count_masked(class_mask: Any, stop: int) -> int:
    """Count the classes before `stop` that do not exist."""
    count = 0
    for j in range(min(stop, class_mask.size)):
        count += not class_mask[j]
    return count


@inline
def count_before(block: Any, logit: Any, place: int) -> int:
    """Count the logits that rank before one: the higher ones, and the equal ones that stand before its place."""
    count = 0
    for j in range(block.size):
        count += block[j] > logit or (block[j] == logit and j < place)
    return count


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
def exponentials(block: Any, winner: int, peak: Any, temperature: Temperature, lanes: Any) -> float:
    """Turn each logit into LIFT * exp((z - peak) / T), and return the sum of the exp without the winner's 1."""
    if peak == -math.inf:
        block[:] = 0
        return 0.0
    block[winner] = -math.inf
    clear(lanes.run)
    for start in range(0, block.size, LANES):
        line = block[start : start + LANES]
        for lane in range(line.size):
            line[lane] = lifted_exp(line[lane], peak, temperature)
            lanes.run[lane] += line[lane]
    block[winner] = LIFT
    return lane_sum(lanes.run, lanes) * UNLIFT


@inline
def entropy_moment(block: Any, peak: Any, temperature: Temperature, lanes: Any) -> float:
    """Return the sum of -x_j exp(x_j) with x_j = (z_j - peak) / T; a class at -inf adds nothing."""
    reciprocal = block.dtype.type(temperature.reciprocal)
    clear(lanes.run)
    for start in range(0, block.size, LANES):
        line = block[start : start + LANES]
        for lane in range(line.size):
            exponential = lifted_exp(line[lane], peak, temperature)
            lanes.run[lane] += (
                exponential * ((peak - line[lane]) * reciprocal) if exponential > 0 else line.dtype.type(0)
            )
    return lane_sum(lanes.run, lanes) * UNLIFT


@fused
def spread_target(rows: Any, i: int, j: int, keep: float) -> Any:
    """Return q_j but for what stands at the label: r_j (keep P_j + floor), with keep = 0 for rows that have a label."""
    return class_weight_of(rows.class_weight, j) * (keep * probability_of(rows.dense, i, j) + rows.floor)


@fused
def spread_moments(
    block: Any, peak: Any, rows: Any, i: int, start: int, keep: float, lanes: Any
) -> tuple[float, float]:
    """Return sum_j q_j (z_j - peak) / T and sum_j q_j over a block of logits, with q as in spread_target."""
    clear(lanes.first)
    clear(lanes.second)
    for begin in range(0, block.size, LANES):
        line = block[begin : begin + LANES]
        for lane in range(line.size):
            q = spread_target(rows, i, start + begin + lane, keep)
            lanes.first[lane] += q * half_gap(np.float64(line[lane]), np.float64(peak)) if q > 0.0 else 0.0
            lanes.second[lane] += q
    dot = lane_sum(lanes.first, lanes) / (0.5 * rows.temperature.value)
    return dot, lane_sum(lanes.second, lanes)


@inline
def two_factors(block: Any, factor: float) -> tuple[Any, Any]:
    """Return numbers whose product is factor / LIFT, such that a block times one, then the other, keeps its bits."""
    real = block.dtype.type
    if abs(factor) < 1.0:
        return real(UNLIFT), real(factor)
    first, second = factor * UNLIFT, 1.0
    if abs(first) > _MOST:  # no factor is inf, as inf times a probability of 0 is NaN
        first, second = math.copysign(_MOST, first), abs(first) / _MOST
    largest = np.nextafter(real(math.inf), real(0))
    return real(first), min(real(second), largest)


@inline
def scale(block: Any, factor: float) -> None:
    """Turn LIFT * exp((z - peak) / T) into factor * exp((z - peak) / T)."""
    first, second = two_factors(block, factor)
    for j in range(block.size):
        block[j] = (block[j] * first) * second


@fused
def scale_and_subtract(block: Any, factor: float, rows: Any, i: int, start: int, keep: float, floor: float) -> None:
    """Turn LIFT * exp into factor * exp - r_j (keep P_j + floor)."""
    first, second = two_factors(block, factor)
    for j in range(block.size):
        q = class_weight_of(rows.class_weight, start + j) * (keep * probability_of(rows.dense, i, start + j) + floor)
        block[j] = (block[j] * first) * second - block.dtype.type(q)
