"""How exponentials become gradients, and numbers get to where they belong."""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import class_weight_of, probability_of, rounded, times, value_of
from softmaxloss.core.kernels.bits import CACHE_LINE, encoded, stream_line
from softmaxloss.core.kernels.compilation import fused, inline
from softmaxloss.core.kernels.exponential import LIFT, UNLIFT

# Far from the largest number of either precision, and from the smallest normal one; what these are.
_MOST, _LEAST = 2.0**100, 2.0**-60
_LARGEST_SINGLE, _LARGEST_DOUBLE = (float(np.finfo(real).max) for real in (np.float32, np.float64))
_SMALLEST_SINGLE, _SMALLEST_DOUBLE = (float(np.finfo(real).tiny) for real in (np.float32, np.float64))


@inline
def two_factors(f: Any, below: Any, block: Any) -> tuple[float, float]:
    """Return numbers whose product is f * below / LIFT, such that a block times one, then the other, keeps its bits.

    The first is 1 unless the product is no normal number in the precision of the block, or above 2**100.
    """
    is_single = block.itemsize == 4
    smallest, largest = (_SMALLEST_SINGLE, _LARGEST_SINGLE) if is_single else (_SMALLEST_DOUBLE, _LARGEST_DOUBLE)
    # f * below may be no normal number of double precision
    lift = 1.0 if is_single or not abs(value_of(f)) < 1.0 else 1.0 / _LEAST
    factor = rounded(times(times(f, lift), below))
    size = abs(factor)
    if 0.0 < size < smallest * LIFT * lift:
        return UNLIFT * _LEAST, factor * (1.0 / _LEAST / lift)
    if size > largest * _MOST * LIFT:  # then exponentials that are not 0 are at least the smallest normal number
        return largest, factor * (UNLIFT / largest)
    if size > _MOST * LIFT:
        return _MOST, factor * (UNLIFT / _MOST)
    return 1.0, factor * (UNLIFT / lift)


@inline
def within(value: float, block: Any) -> Any:
    """Return a factor in the precision of a block; the largest number instead of inf, whose product with 0 is NaN."""
    largest = _LARGEST_SINGLE if block.itemsize == 4 else _LARGEST_DOUBLE
    return block.dtype.type(math.copysign(largest, value) if abs(value) > largest else value)


@fused
def scale_and_subtract(lifted: Any, tile: Any, factors: Any, c: int, rows: Any, i: int, start: int, block: Any) -> None:
    """Write factor * exp - d * q, with q but for what is at the label, given LIFT * exp times the first factor."""
    second, keep, floor = factors.second[c], factors.d[c] * tile.keep[c], factors.d[c] * rows.floor
    for j in range(block.size):
        q = class_weight_of(rows.class_weight, start + j) * (keep * probability_of(rows.dense, i, start + j) + floor)
        block[j] = encoded(lifted[j] * second - lifted.dtype.type(q), block[j])


@inline
def numbers_before_line(array: Any) -> int:
    """Return how many numbers of an array lie before the first that begins a cache line."""
    return (-array.ctypes.data % CACHE_LINE) // array.itemsize


@inline
def store(block: Any, factor: Any, out: Any, past_caches: bool) -> None:
    """Write numbers times a factor to where they belong, around the caches if asked to."""
    begin = end = 0
    if past_caches:
        line = CACHE_LINE // out.itemsize
        begin = min(out.size, numbers_before_line(out))
        end = begin + (out.size - begin) // line * line
        for j in range(begin, end, line):
            stream_line(block, factor, out, j)
    for first, last in ((0, begin), (end, out.size)):
        scale(block[first:last], factor, out[first:last])


@inline
def scale(block: Any, factor: Any, out: Any) -> None:
    """Write numbers times a factor in the format of their place."""
    for j in range(out.size):
        out[j] = encoded(block[j] * factor, out[j])
