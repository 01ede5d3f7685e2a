"""What is done to a block of logits while it lies in the cache."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

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
    local_array,
    number_of_key,
    order_key,
    prefetch,
)
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline
from softmaxloss.core.kernels.exponential import (
    UNLIFT,
    Reference,
    Temperature,
    exponential,
    lifted_exp,
    reduced,
    scale_in,
)

# Classes of a block: 8 KiB of float32, 16 KiB of float64; a quarter to a half of a first-level cache.
BLOCK = 2048
# Classes of a step, the part of a block that is computed at once, or between looks at what was found.
STEP = 256
# Numbers of a vector, on most processors. A step's quarters are computed side by side, each of whole vectors.
_VECTOR = 8
_FOUR_VECTORS = 4 * _VECTOR
block_for, step_for = local_array(BLOCK), local_array(STEP)


def load(logits: Any, class_mask: Any, block: Any, room: Any) -> tuple[Any, Any]:
    """Return logits in the precision they are computed in, -inf for classes that do not exist, and their maximum.

    They are a copy in the working block, unless they can be read as they lie. A NaN may be missing from the maximum,
    but not from sums of exponentials.
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(load, strict=False, jit_options=STEP_OPTIONS)
def _load(logits: Any, class_mask: Any, block: Any, room: Any) -> Callable[..., Any]:
    def unless_masked(logits: Any, class_mask: Any, block: Any, room: Any) -> Any:
        z = logits
        if class_mask.size > 0:
            z = block[: logits.size]
            copy_masked(logits, class_mask, z)
        return z, peak_of(z, room)

    def always(logits: Any, class_mask: Any, block: Any, room: Any) -> Any:
        z = block[: logits.size]
        copy_masked(logits, class_mask, z)
        return z, peak_of(z, room)

    return unless_masked if logits.dtype == block.dtype else always


@inline
def copy_masked(logits: Any, class_mask: Any, block: Any) -> None:
    """Copy logits, -inf for classes that do not exist."""
    for j in range(block.size):
        block[j] = decoded(logits[j])
    for j in range(class_mask.size):
        block[j] = block[j] if class_mask[j] else -math.inf


@inline
def peak_of(z: Any, room: Any) -> Any:
    """Return the maximum; a NaN may be missing. `room` has some for a quarter of the logits."""
    q = -(-z.size // _FOUR_VECTORS) * _VECTOR
    if 3 * q > z.size:
        return highest(z)
    highest_of_four((z[:q], z[q : 2 * q], z[2 * q : 3 * q], z[z.size - q :]), room[:q])
    return highest(room[:q])


@inline
def highest_of_four(z: Any, most: Any) -> None:
    """Write the maximum of four at a time: comparing floats to an array, unlike to a number, becomes vector code."""
    for lane in range(most.size):
        a, b, c, d = z[0][lane], z[1][lane], z[2][lane], z[3][lane]
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
def exponentials(
    z: Any, winner: int, reference: Reference, temperature: Temperature, lanes: Any, out: Any, ahead: Any
) -> None:
    """Write LIFT * exp((z - R) / T) of each logit to `out`, 0 at the winner, and add them to the folded lanes.

    Meanwhile the caches are asked for `ahead`, what is to be read next. The work is split in two loops, as a processor
    finds more to do at once in two short chains of dependent instructions than in a long one: 0.28 instead of 0.36 ns.
    What is left beyond whole steps comes first, as whole vectors, the first of which may reach into the step before:
    what these write there is written once more. One by one, what is left of 1000 classes took a tenth of the time.
    """
    r, powers = step_for(out[0]), step_for(out[0])
    whole_steps, line = z.size // STEP, CACHE_LINE // ahead.itemsize
    left = z.size - whole_steps * STEP
    n = min(z.size, -(-left // _FOUR_VECTORS) * _FOUR_VECTORS)
    begin, repeated = z.size - n, n - left
    for step in range(0 if left > 0 else 1, 1 + whole_steps):
        if step > 0:
            begin, n, repeated = (step - 1) * STEP, STEP, 0
        for j in range(begin, min(begin + n, ahead.size), line):
            prefetch(ahead, j)
        x, place = z[begin : begin + n], out[begin : begin + n]
        if reference.base != 0:
            subtract(x, reference.base, place)
            x = place
        reduce_all(x, reference, temperature, r, powers)
        if temperature.value != 1.0:
            multiply(r[:n], scale_in(x[0], temperature).reciprocal)
        powers[:repeated] = 0
        if begin <= winner < begin + n:
            powers[winner - begin] = 0
        q, part = n // _FOUR_VECTORS * _VECTOR, out[begin : begin + n]
        add_quarters(
            (r[:q], r[q : 2 * q], r[2 * q : 3 * q], r[3 * q : 4 * q]),
            (powers[:q], powers[q : 2 * q], powers[2 * q : 3 * q], powers[3 * q : 4 * q]),
            (part[:q], part[q : 2 * q], part[2 * q : 3 * q], part[3 * q : 4 * q]),
            lanes.run[:q],
        )
        fold(lanes.run[:q], lanes.total, lanes.lost)
        for j in range(4 * q, n):
            part[j] = exponential(r[j], powers[j])
        fold(part[4 * q : n], lanes.total, lanes.lost)


@inline
def subtract(z: Any, base: Any, out: Any) -> None:
    """Write the differences to a base, which is nearly always 0."""
    for j in range(z.size):
        out[j] = z[j] - base


@inline
def multiply(values: Any, factor: Any) -> None:
    """Multiply numbers in place."""
    for j in range(values.size):
        values[j] *= factor


@inline
def reduce_all(z: Any, reference: Reference, temperature: Temperature, r: Any, powers: Any) -> None:
    """Fill in r, still times T, and the powers of two, given z - base."""
    for j in range(z.size):
        r[j], powers[j] = reduced(z[j], reference, temperature)


@inline
def add_quarters(r: Any, powers: Any, out: Any, run: Any) -> None:
    """Write exponentials of the four quarters of a block, and their sums: each takes two additions in a row."""
    for lane in range(run.size):
        a = exponential(r[0][lane], powers[0][lane])
        b = exponential(r[1][lane], powers[1][lane])
        c = exponential(r[2][lane], powers[2][lane])
        d = exponential(r[3][lane], powers[3][lane])
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
            term = lifted_exp(line[lane] - reference.base, reference, temperature)
            gap = (peak - line[lane]) * reciprocal if term > 0 else line.dtype.type(0)
            lanes.run[lane] += term * gap
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
