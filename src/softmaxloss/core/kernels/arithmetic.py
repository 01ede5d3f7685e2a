"""Small pieces of arithmetic that several kernels share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.bits import local_array, multiply_add
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline

# A sum over a block of classes is taken in so many lanes, each of which adds at most 4 terms plainly. The lanes are
# folded into fewer, which last over all blocks, and those are added up with two_sum. So the order of all additions is
# fixed here, not by the compiler or the width of its vectors.
LANES = 512
FOLDED = 64

# An index that cannot be negative needs no wrapping around, which would turn vector loads into gathers.
_UNSIGNED = np.uint64


@inline
def two_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum and exactly what rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@inline
def two_product(a: float, b: float) -> tuple[float, float]:
    """Return the rounded product and exactly what rounding lost."""
    product = a * b
    return product, multiply_add(a, b, -product)


@inline
def two_quotient(top: float, top_lost: float, bottom: float, bottom_lost: float) -> tuple[float, float]:
    """Return (top + top_lost) / (bottom + bottom_lost), rounded, and about what rounding lost, by a single division."""
    reciprocal = 1.0 / bottom
    quotient = top * reciprocal
    error = (multiply_add(-quotient, bottom, top) + top_lost - quotient * bottom_lost) * reciprocal
    total = quotient + error
    return (total, (quotient - total) + error) if math.isfinite(error) else (quotient, 0.0)


def number_in(logits: Any) -> Any:
    """Return a number, whichever, of the precision that logits are computed in."""
    raise NotImplementedError  # compiled code has the version below


@overload(number_in, strict=False, jit_options=STEP_OPTIONS)
def _number_in(logits: Any) -> Callable[..., Any]:
    real: type[np.floating[Any]] = np.float64 if logits.dtype == types.float64 else np.float32
    return lambda logits: real(0)


class Lanes(NamedTuple):
    """Room for sums: lanes in the dtype of the logits and two in double precision, and what they are folded into."""

    run: Any
    first: Any
    second: Any
    total: Any
    lost: Any


_lanes, _folded = local_array(LANES), local_array(FOLDED)


@inline
def lanes_for(number: Any) -> Lanes:
    """Return lanes for sums of numbers like this one."""
    return Lanes(_lanes(number), _lanes(0.0), _lanes(0.0), _folded(0.0), _folded(0.0))


@inline
def clear(lanes: Any) -> None:
    """Set lanes to 0."""
    for lane in range(lanes.size):
        lanes[lane] = 0


def fold(run: Any, total: Any, lost: Any) -> None:
    """Add lanes to fewer in double precision, of which each is a total and what rounding lost of it.

    Of lanes in single precision nothing is lost that matters.
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(fold, strict=False, jit_options=STEP_OPTIONS)
def _fold(run: Any, total: Any, lost: Any) -> Callable[..., Any]:
    return _fold_exactly if run.dtype == types.float64 else _fold_plainly


def _fold_plainly(run: Any, total: Any, lost: Any) -> None:
    for start in range(0, run.size, total.size):
        part = run[start : start + total.size]
        for lane in range(part.size):
            total[lane] += np.float64(part[lane])


def _fold_exactly(run: Any, total: Any, lost: Any) -> None:
    for start in range(0, run.size, total.size):
        part = run[start : start + total.size]
        for lane in range(part.size):
            total[lane], error = two_sum(total[lane], part[lane])
            lost[lane] += error


@inline
def sum_of(total: Any, lost: Any) -> tuple[float, float]:
    """Return the sum of folded lanes, rounded, and what rounding lost of it; -inf if one of them is -inf."""
    n = total.size
    while n > 1:
        half = (n + 1) // 2
        for lane in range(n - half):
            total[lane], error = two_sum(total[lane], total[half + lane])
            lost[lane] += lost[half + lane] + error
        n = half
    return two_sum(total[0], lost[0]) if math.isfinite(total[0]) else (total[0], 0.0)


@inline
def lane_sum(run: Any) -> float:
    """Return the sum of lanes of one block."""
    folded, lost = _folded(0.0), _folded(0.0)
    clear(folded)
    clear(lost)
    fold(run, folded, lost)
    total, error = sum_of(folded, lost)
    return total + error


@inline
def half_gap(z: float, peak: float) -> float:
    """Return (z - peak) / 2, which is finite even where z - peak is too large; -inf for z = -inf under any peak."""
    return 0.5 * z - 0.5 * peak if z > -math.inf else z


@inline
def gap_times(q: float, z: float, peak: float, temperature: float) -> float:
    """Return q (z - peak) / T, which may be finite even where z - peak is not."""
    return q * half_gap(z, peak) / (0.5 * temperature)


@inline
def finished_dot(dot: float, lost: float, spike: float, z: float, peak: float, temperature: Any) -> float:
    """Return 2 (dot + lost + spike (z - peak) / 2) / T, rounded about once; -inf where a wanted class is at -inf."""
    gap, gap_lost = two_sum(0.5 * z, -0.5 * peak)
    term, term_lost = two_product(spike, gap)
    total, error = two_sum(dot, term if spike > 0.0 else 0.0)
    error += lost + (term_lost + spike * gap_lost if spike > 0.0 else 0.0)
    quotient, _ = two_quotient(total, error, 0.5 * temperature.value, 0.0)
    plain = total / (0.5 * temperature.value)
    return quotient if math.isfinite(error) else plain


@inline
def class_weight_of(class_weight: Any, j: int) -> float:
    """Return r_j, which is 1 where no class weights are given."""
    return class_weight[_UNSIGNED(j)] if class_weight.size > 0 else 1.0


def probability_of(dense: Any, i: int, j: int) -> Any:
    """Return P_ij, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_of, strict=False, jit_options=STEP_OPTIONS)
def _probability_of(dense: Any, i: int, j: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, i, j: 0.0
    return lambda dense, i, j: dense[_UNSIGNED(i), _UNSIGNED(j)]
