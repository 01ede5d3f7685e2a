"""Operations on a block of logits while it lies in the cache."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.machine.compilation import by_type, fused, inline
from softmaxloss.kernels.machine.half import decoded
from softmaxloss.kernels.machine.intrinsics import (
    CACHE_LINE,
    higher,
    prefetch,
    stack_array,
)
from softmaxloss.kernels.numerics.exponential import (
    Reference,
    Temperature,
    constants_in,
    exponential,
    reduced,
)
from softmaxloss.kernels.numerics.lanes import LANES, clear, fold, lane_sum
from softmaxloss.kernels.row import class_weight_of, half_gap, q_of, q_of_class

# Classes of a block: 8 KiB of float32, 16 KiB of float64; a quarter to a half of a first-level cache.
BLOCK = 2048
# Classes of a strip, the part of a block that is computed at once.
STRIP = 256
# Numbers in a vector, on most processors. The quarters of a strip are whole vectors, computed side by side.
_VECTOR = 8
_FOUR_VECTORS = 4 * _VECTOR
# The sum of all gaps of a block, times this number, does not overflow.
_SMALL = 0.5 / BLOCK
block_for, strip_for = stack_array(BLOCK), stack_array(STRIP)


@by_type
def load(logits: Any, class_mask: Any, block: Any) -> Any:
    """Return two things: logits in the precision they are computed in, with -inf for masked classes, and their maximum.

    They are copied to the block unless they can be read in place. The maximum may ignore a NaN, but sums of
    exponentials do not.
    """

    def copied(logits: Any, class_mask: Any, block: Any) -> Any:
        z = block[: logits.size]
        _copy_masked(logits, class_mask, z)
        return z, highest(z)

    def copied_if_masked(logits: Any, class_mask: Any, block: Any) -> Any:
        z = logits
        if class_mask.size > 0:
            z = block[: logits.size]
            _copy_masked(logits, class_mask, z)
        return z, highest(z)

    return copied_if_masked if logits.dtype == block.dtype else copied


@inline
def _copy_masked(logits: Any, class_mask: Any, block: Any) -> None:
    """Copy logits, -inf for classes that do not exist."""
    for j in range(block.size):
        block[j] = decoded(logits[j])
    for j in range(class_mask.size):
        block[j] = block[j] if class_mask[j] else -math.inf


@inline
def clear_masked(out: Any, class_mask: Any) -> None:
    """Set the gradient to 0 where classes do not exist."""
    for j in range(class_mask.size):
        out[j] = out[j] if class_mask[j] else 0


@inline
def highest(z: Any) -> Any:
    """Return the maximum, which may ignore a NaN."""
    top = z.dtype.type(-math.inf)
    for j in range(z.size):
        top = higher(top, z[j])
    return top


@inline
def highest_negated(z: Any) -> Any:
    """Return the maximum of -z, which may ignore a NaN."""
    top = z.dtype.type(-math.inf)
    for j in range(z.size):
        top = higher(top, -z[j])
    return top


@inline
def count_nan(z: Any) -> int:
    """Count the logits that are NaN."""
    count = 0
    for j in range(z.size):
        count += z[j] != z[j]
    return count


@inline
def first_index(block: Any, value: Any) -> Any:
    """Return the first index of a value that is in the block. Without an early end, it is vector code."""
    first = np.int32(block.size)
    for j in range(block.size):
        first = min(first, np.int32(j) if block[j] == value else np.int32(block.size))
    return first


@inline
def exponentials(
    z: Any, target: int, reference: Reference, temperature: Temperature, lanes: Any, out: Any, ahead: Any
) -> None:
    """Write SCALE * exp((z - R) / T) of each logit to `out`, 0 at the target, and add them to the lanes.

    Meanwhile it prefetches `ahead`, the logits to be read next. The work is split into two loops, as a processor
    overlaps two short chains of dependent instructions better than a long one: 0.28 instead of 0.36 ns a class. The
    last classes, beyond whole strips, are computed first, as whole vectors. These may reach back into the last strip,
    where they add nothing and are overwritten later. One by one, the last classes took a tenth of the whole time of a
    row of 1000 classes.
    """
    r, powers = strip_for(out[0]), strip_for(out[0])
    whole_strips, per_line = z.size // STRIP, CACHE_LINE // ahead.itemsize
    left = z.size - whole_strips * STRIP
    n = min(z.size, -(-left // _FOUR_VECTORS) * _FOUR_VECTORS)
    begin, repeated = z.size - n, n - left
    for strip in range(0 if left > 0 else 1, 1 + whole_strips):
        if strip > 0:
            begin, n, repeated = (strip - 1) * STRIP, STRIP, 0
        for j in range(begin, min(begin + n, ahead.size), per_line):
            prefetch(ahead, j)
        x, place = z[begin : begin + n], out[begin : begin + n]
        if reference.base != 0:
            _subtract(x, reference.base, place)
            x = place
        _reduce(x, reference, temperature, r, powers)
        if temperature.value != 1.0:
            multiply(r[:n], constants_in(x[0], temperature).reciprocal)
        powers[:repeated] = 0
        if begin <= target < begin + n:
            powers[target - begin] = 0
        q, part = n // _FOUR_VECTORS * _VECTOR, out[begin : begin + n]
        _add_quarters(
            (r[:q], r[q : 2 * q], r[2 * q : 3 * q], r[3 * q : 4 * q]),
            (powers[:q], powers[q : 2 * q], powers[2 * q : 3 * q], powers[3 * q : 4 * q]),
            (part[:q], part[q : 2 * q], part[2 * q : 3 * q], part[3 * q : 4 * q]),
            lanes.run[:q],
        )
        fold(lanes.run[:q], lanes.total, lanes.low)
        for j in range(4 * q, n):
            part[j] = exponential(r[j], powers[j])
        fold(part[4 * q : n], lanes.total, lanes.low)


@inline
def _subtract(z: Any, base: Any, out: Any) -> None:
    """Write z - base to `out`; the base is nearly always 0."""
    for j in range(z.size):
        out[j] = z[j] - base


@inline
def multiply(values: Any, factor: Any) -> None:
    """Multiply numbers in place."""
    for j in range(values.size):
        values[j] *= factor


@inline
def _reduce(z: Any, reference: Reference, temperature: Temperature, r: Any, powers: Any) -> None:
    """Fill in r * T and the powers of two, given z - base: see `reduced`."""
    for j in range(z.size):
        r[j], powers[j] = reduced(z[j], reference, temperature)


@inline
def _add_quarters(r: Any, powers: Any, out: Any, run: Any) -> None:
    """Write exponentials of the four quarters of a strip, and the sum of each four."""
    for lane in range(run.size):
        a = exponential(r[0][lane], powers[0][lane])
        b = exponential(r[1][lane], powers[1][lane])
        c = exponential(r[2][lane], powers[2][lane])
        d = exponential(r[3][lane], powers[3][lane])
        out[0][lane], out[1][lane], out[2][lane], out[3][lane] = a, b, c, d
        run[lane] = (a + b) + (c + d)


@inline
def moments(
    z: Any, peak: Any, rows: Any, i: int, start: int, label: int, target: int, lanes: Any, needs_mass: bool
) -> tuple[float, float]:
    """Return sum_j q_j (peak - z_j) / 2, and sum_j q_j if it is needed, over a block of logits without the target."""
    finite_peak, left = np.float64(peak) if peak > -math.inf else 0.0, z.size
    if start <= target < start + z.size:
        left = target - start
    clear(lanes.first)
    if rows.dense is None and rows.class_weight.size == 0:
        for part in (z[:left], z[left + 1 :]):
            _add_small_gaps(part, finite_peak * _SMALL, lanes.first)
        q = q_of(rows, 1.0, 0.0)  # of all classes but the target
        return (0.5 / _SMALL * q) * lane_sum(lanes.first), q * (z.size - (left < z.size))
    clear(lanes.second)
    for begin, end in ((np.int64(0), left), (left + 1, z.size)):
        _add_moments(z[begin:end], 0.5 * finite_peak, rows, i, start + begin, lanes, needs_mass)
    if rows.dense is None and start <= label < start + z.size and label != target:
        r = class_weight_of(rows.class_weight, label)
        more = q_of(rows, r, 1.0) - q_of(rows, r, 0.0)
        lanes.first[0] += more * half_gap(np.float64(z[label - start]), finite_peak) if more > 0.0 else 0.0
        lanes.second[0] += more
    return lane_sum(lanes.first), lane_sum(lanes.second) if needs_mass else 0.0


@fused
def _add_small_gaps(z: Any, small_peak: float, lanes: Any) -> None:
    """Add _SMALL * (peak - z). For z = -inf this is inf."""
    for begin in range(0, z.size, LANES):
        part = z[begin : begin + LANES]
        for lane in range(part.size):
            lanes[lane] += small_peak - _SMALL * np.float64(part[lane])


@fused
def _add_moments(z: Any, half_peak: float, rows: Any, i: int, first: int, lanes: Any, needs_mass: bool) -> None:
    """Add q (peak - z) / 2 and q of classes from `first` on. A label has P = 0 here: `moments` corrects that."""
    for begin in range(0, z.size, LANES):
        part = z[begin : begin + LANES]
        for lane in range(part.size):
            q = q_of_class(rows, i, first + begin + lane, -1)
            lanes.first[lane] += q * (half_peak - 0.5 * np.float64(part[lane])) if q > 0.0 else 0.0
            if needs_mass:
                lanes.second[lane] += q
