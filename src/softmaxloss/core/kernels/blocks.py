"""What is done to a block of logits while it lies in the cache.

Logits are copied to a block of our own first: the compiler need not prove that arrays do not overlap, and the gradient
of the logits can take the logits' own place.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import (
    LANES,
    class_weight_of,
    clear,
    fold,
    half_gap,
    lane_sum,
    probability_of,
)
from softmaxloss.core.kernels.bits import (
    CACHE_LINE,
    decoded,
    encoded,
    local_array,
    number_of_key,
    order_key,
    prefetch,
    stream_line,
)
from softmaxloss.core.kernels.compilation import fused, inline
from softmaxloss.core.kernels.exponential import UNLIFT, Reference, Temperature, lifted_exp, power_series, reduced

# Far from the largest number of either precision.
_MOST = 2.0**100

# Classes of a block: 8 KiB of float32, 16 KiB of float64; a quarter to a half of a first-level cache.
BLOCK = 2048
# Classes between looks at what was found, or requests to the caches.
STEP = 256
block_for = local_array(BLOCK)


@inline
def load(logits: Any, class_mask: Any, block: Any, work: Any) -> Any:
    """Copy logits into the working block, -inf for classes that do not exist, and return the maximum.

    A NaN may be missing from it, but not from sums of exponentials. `work` has room for a quarter of a block.
    """
    q = block.size // 4
    load_quarters(
        (logits[:q], logits[q : 2 * q], logits[2 * q : 3 * q], logits[3 * q : 4 * q]),
        (block[:q], block[q : 2 * q], block[2 * q : 3 * q], block[3 * q : 4 * q]),
        work[:q],
    )
    for j in range(4 * q, block.size):
        block[j] = decoded(logits[j])
    if class_mask.size > 0:
        for j in range(block.size):
            block[j] = block[j] if class_mask[j] else -math.inf
        return highest(block)
    top = block[block.size - 1]
    for j in range(4 * q, block.size):
        top = block[j] if block[j] > top else top
    most = highest(work[:q]) if q > 0 else top
    return top if top > most else most


@inline
def load_quarters(logits: Any, block: Any, most: Any) -> None:
    """Copy the four quarters of a block, and write the maximum of four at a time: comparing floats to an array."""
    for lane in range(most.size):
        a, b, c, d = (
            decoded(logits[0][lane]),
            decoded(logits[1][lane]),
            decoded(logits[2][lane]),
            decoded(logits[3][lane]),
        )
        block[0][lane], block[1][lane], block[2][lane], block[3][lane] = a, b, c, d
        left = a if a > b else b
        right = c if c > d else d
        most[lane] = left if left > right else right


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
    """Return where a value stands first; 0 for NaN. Within a step there is no early exit, so it is vector code."""
    for start in range(0, block.size, STEP):
        first = first_of(block[start : start + STEP], value)
        if first < STEP:
            return start + first
    return 0


@inline
def first_of(part: Any, value: Any) -> Any:
    """Return where a value stands first, or STEP."""
    first = np.int32(STEP)
    for j in range(part.size):
        first = min(first, np.int32(j) if part[j] == value else np.int32(STEP))
    return first


@inline
def exponentials(block: Any, reference: Reference, temperature: Temperature, lanes: Any, out: Any, ahead: Any) -> None:
    """Write LIFT * exp((z - R) / T) of each logit to `out`, and add them to the folded lanes.

    Meanwhile the caches are asked for `ahead`, what is to be read next. The work is split in two loops, as a processor
    finds more to do at once in two short chains of dependent instructions than in a long one: 0.28 instead of 0.36 ns.
    """
    if reference.base != 0:
        for j in range(block.size):
            block[j] -= reference.base
    powers = block_for(block[0])
    line = CACHE_LINE // ahead.itemsize
    for start in range(0, block.size, STEP):
        for j in range(start, min(start + STEP, ahead.size), line):
            prefetch(ahead, j)
        reduce_all(block[start : start + STEP], reference, temperature, powers[start:])
    q = block.size // 4
    add_quarters(
        (block[:q], block[q : 2 * q], block[2 * q : 3 * q], block[3 * q : 4 * q]),
        (powers[:q], powers[q : 2 * q], powers[2 * q : 3 * q], powers[3 * q : 4 * q]),
        (out[:q], out[q : 2 * q], out[2 * q : 3 * q], out[3 * q : 4 * q]),
        lanes.run[:q],
    )
    fold(lanes.run[:q], lanes.total, lanes.lost)
    for j in range(4 * q, block.size):
        out[j] = power_series(block[j]) * powers[j]
    fold(out[4 * q : block.size], lanes.total, lanes.lost)


@inline
def reduce_all(block: Any, reference: Reference, temperature: Temperature, powers: Any) -> None:
    """Turn z - base into r, and fill in the powers of two."""
    for j in range(block.size):
        block[j], powers[j] = reduced(block[j], 0.0, reference, temperature)


@inline
def add_quarters(r: Any, powers: Any, out: Any, run: Any) -> None:
    """Write exponentials of the four quarters of a block, and their sums: each takes two additions in a row."""
    for lane in range(run.size):
        a = power_series(r[0][lane]) * powers[0][lane]
        b = power_series(r[1][lane]) * powers[1][lane]
        c = power_series(r[2][lane]) * powers[2][lane]
        d = power_series(r[3][lane]) * powers[3][lane]
        out[0][lane], out[1][lane], out[2][lane], out[3][lane] = a, b, c, d
        run[lane] = (a + b) + (c + d)


@inline
def entropy_moment(block: Any, peak: Any, reference: Reference, temperature: Temperature, lanes: Any) -> float:
    """Return the sum of x_j exp(-x_j) with x_j = (peak - z_j) / T, times exp((peak - R) / T).

    A class at -inf adds nothing.
    """
    reciprocal = block.dtype.type(temperature.value) ** -1
    clear(lanes.run)
    for start in range(0, block.size, LANES):
        line = block[start : start + LANES]
        for lane in range(line.size):
            exponential = lifted_exp(line[lane] - reference.base, 0.0, reference, temperature)
            gap = (peak - line[lane]) * reciprocal if exponential > 0 else line.dtype.type(0)
            lanes.run[lane] += exponential * gap
    return lane_sum(lanes.run) * UNLIFT


@fused
def spread_target(rows: Any, i: int, j: int, keep: float) -> Any:
    """Return q_j but for what stands at the label: r_j (keep P_j + floor), with keep = 0 for rows that have a label."""
    return class_weight_of(rows.class_weight, j) * (keep * probability_of(rows.dense, i, j) + rows.floor)


@fused
def spread_moments(
    block: Any, peak: Any, rows: Any, i: int, start: int, keep: float, lanes: Any
) -> tuple[float, float]:
    """Return sum_j q_j (z_j - peak) / 2 and sum_j q_j over a block of logits, with q as in spread_target."""
    clear(lanes.first)
    clear(lanes.second)
    for begin in range(0, block.size, LANES):
        line = block[begin : begin + LANES]
        for lane in range(line.size):
            q = spread_target(rows, i, start + begin + lane, keep)
            lanes.first[lane] += q * half_gap(np.float64(line[lane]), np.float64(peak)) if q > 0.0 else 0.0
            lanes.second[lane] += q
    return lane_sum(lanes.first), lane_sum(lanes.second)


@inline
def two_factors(block: Any, factor: float) -> tuple[Any, Any]:
    """Return numbers whose product is factor / LIFT, such that a block times one, then the other, keeps its bits."""
    real = block.dtype.type
    first = factor * UNLIFT
    small, large = abs(factor) < 1.0, abs(first) > _MOST
    size = _MOST if large else abs(first)  # no factor is inf, as inf times a probability of 0 is NaN
    second = min(abs(first) / _MOST, np.float64(np.finfo(block.dtype).max))
    return (
        real(UNLIFT if small else math.copysign(size, first)),
        real(factor if small else second if large else 1.0),
    )


@inline
def scale(lifted: Any, first: Any, second: Any, block: Any) -> None:
    """Write exponentials times two factors to a block."""
    for j in range(block.size):
        block[j] = (lifted[j] * first) * second


@fused
def scale_and_subtract(lifted: Any, tile: Any, factors: Any, c: int, rows: Any, i: int, start: int, block: Any) -> None:
    """Write factor * exp - d * q to a block, given LIFT * exp; q without what it has at the label."""
    first, second = factors.first[c], factors.second[c]
    keep, floor = factors.d[c] * tile.keep[c], factors.d[c] * rows.floor
    for j in range(block.size):
        q = class_weight_of(rows.class_weight, start + j) * (keep * probability_of(rows.dense, i, start + j) + floor)
        block[j] = (lifted[j] * first) * second - block.dtype.type(q)


@inline
def store(block: Any, out: Any, past_caches: bool) -> None:
    """Copy a working block to where it belongs, around the caches if asked to."""
    begin = end = 0
    if past_caches and block.itemsize == out.itemsize:
        line = CACHE_LINE // out.itemsize
        begin = min(out.size, (-out.ctypes.data % CACHE_LINE) // out.itemsize)
        end = begin + (out.size - begin) // line * line
        for j in range(begin, end, line):
            stream_line(block, out, j)
    copy(block[:begin], out[:begin])
    copy(block[end:], out[end:])


@inline
def copy(block: Any, out: Any) -> None:
    """Copy numbers into the format of their place."""
    for j in range(out.size):
        out[j] = encoded(block[j], out[j])
