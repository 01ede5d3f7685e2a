"""How exponentials become gradients, and numbers get to where they belong."""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import class_weight_of, probability_of
from softmaxloss.core.kernels.bits import CACHE_LINE, encoded, stream_line
from softmaxloss.core.kernels.compilation import fused, inline
from softmaxloss.core.kernels.exponential import UNLIFT

# Far from the largest number of either precision, and from the smallest normal one; what these are.
_MOST, _LEAST = 2.0**100, 2.0**-60
_LARGEST_SINGLE, _LARGEST_DOUBLE = (float(np.finfo(real).max) for real in (np.float32, np.float64))
_SMALLEST_SINGLE, _SMALLEST_DOUBLE = (float(np.finfo(real).tiny) for real in (np.float32, np.float64))


@inline
def two_factors(block: Any, factor: float) -> tuple[Any, Any]:
    """Return numbers whose product is factor / LIFT, such that a block times one, then the other, keeps its bits.

    The first is 1 unless factor / LIFT is far from 1.
    """
    real, is_single = block.dtype.type, block.itemsize == 4
    value, size = factor * UNLIFT, abs(factor) * UNLIFT
    small = size < (_SMALLEST_SINGLE if is_single else _SMALLEST_DOUBLE)  # a factor may be, its product not
    large = size > _MOST
    rest = min(size / _MOST, _LARGEST_SINGLE if is_single else _LARGEST_DOUBLE)  # inf times a probability of 0 is NaN
    return (
        real(UNLIFT * _LEAST if small else _MOST if large else 1.0),
        real(factor / _LEAST if small else math.copysign(rest, factor) if large else value),
    )


@fused
def scale_and_subtract(lifted: Any, tile: Any, factors: Any, c: int, rows: Any, i: int, start: int, block: Any) -> None:
    """Write factor * exp - d * q, with q but for what is at the label, given LIFT * exp times the first factor."""
    second, keep, floor = factors.second[c], factors.d[c] * tile.keep[c], factors.d[c] * rows.floor
    for j in range(block.size):
        q = class_weight_of(rows.class_weight, start + j) * (keep * probability_of(rows.dense, i, start + j) + floor)
        block[j] = encoded(lifted[j] * second - lifted.dtype.type(q), block[j])


@inline
def store(block: Any, factor: Any, out: Any, past_caches: bool) -> None:
    """Write numbers times a factor to where they belong, around the caches if asked to."""
    begin = end = 0
    if past_caches:
        line = CACHE_LINE // out.itemsize
        begin = min(out.size, (-out.ctypes.data % CACHE_LINE) // out.itemsize)
        end = begin + (out.size - begin) // line * line
        for j in range(begin, end, line):
            stream_line(block, factor, out, j)
    scale(block[:begin], factor, out[:begin])
    scale(block[end:], factor, out[end:])


@inline
def scale(block: Any, factor: Any, out: Any) -> None:
    """Write numbers times a factor in the format of their place."""
    for j in range(out.size):
        out[j] = encoded(block[j] * factor, out[j])
