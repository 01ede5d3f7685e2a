"""Small pieces of arithmetic that several kernels share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline

# A sum over a block of classes is taken in so many lanes, each of which adds at most 4 terms plainly; the lanes are
# added up with two_sum. So the order of all additions is fixed here, not by the compiler or the width of its vectors.
LANES = 512

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
    """Return the rounded product and exactly what rounding lost (Dekker)."""
    product = a * b
    a_high, a_low = halves(a)
    b_high, b_low = halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@inline
def halves(a: float) -> tuple[float, float]:
    """Return two numbers of half the bits whose sum is a (Veltkamp)."""
    scaled = 134217729.0 * a  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high


@inline
def two_quotient(top: float, top_lost: float, bottom: float, bottom_lost: float) -> tuple[float, float]:
    """Return (top + top_lost) / (bottom + bottom_lost), rounded, and about what rounding lost."""
    quotient = top / bottom
    back, back_lost = two_product(quotient, bottom)
    lost = ((top - back) - back_lost + top_lost - quotient * bottom_lost) / bottom
    return quotient, lost if math.isfinite(lost) else 0.0


class Lanes(NamedTuple):
    """Room for the lanes of three sums, one of them in the dtype of the logits, and for adding up one of them."""

    run: Any
    first: Any
    second: Any
    total: Any
    lost: Any


def room_for_lanes(dtype: Any, n_classes: int) -> Lanes:
    """Return lanes for sums over so many classes."""
    n = min(LANES, n_classes)
    return Lanes(np.empty(n, dtype), *(np.empty(n) for _ in range(4)))


@inline
def clear(lanes: Any) -> None:
    """Set lanes to 0."""
    for lane in range(lanes.size):
        lanes[lane] = 0


def lane_sum(run: Any, lanes: Any) -> float:
    """Return the sum of lanes in double precision, added up by halves; -inf if one is -inf.

    For sums over logits of double precision what rounding loses is added up as well.
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(lane_sum, strict=False, jit_options=STEP_OPTIONS)
def _lane_sum(run: Any, lanes: Any) -> Callable[..., Any]:
    return _exact_lane_sum if lanes.types[0].dtype == types.float64 else _plain_lane_sum


def _plain_lane_sum(run: Any, lanes: Any) -> Any:
    total, n = lanes.total, run.size
    half = (n + 1) // 2
    for lane in range(n - half):
        total[lane] = np.float64(run[lane]) + np.float64(run[half + lane])
    if n % 2 == 1:
        total[half - 1] = run[half - 1]
    n = half
    while n > 1:
        half = (n + 1) // 2
        for lane in range(n - half):
            total[lane] += total[half + lane]
        n = half
    return total[0]


def _exact_lane_sum(run: Any, lanes: Any) -> Any:
    total, lost, n = lanes.total, lanes.lost, run.size
    for lane in range(n):
        total[lane], lost[lane] = run[lane], 0.0
    while n > 1:
        half = (n + 1) // 2
        for lane in range(n - half):
            total[lane], error = two_sum(total[lane], total[half + lane])
            lost[lane] += lost[half + lane] + error
        n = half
    return total[0] + lost[0] if total[0] > -math.inf else total[0]


@inline
def half_gap(z: float, peak: float) -> float:
    """Return (z - peak) / 2, which is finite even where z - peak is too large; -inf for z = -inf under any peak."""
    return 0.5 * z - 0.5 * peak if z > -math.inf else z


@inline
def gap_times(q: float, z: float, peak: float, temperature: float) -> float:
    """Return q (z - peak) / T, which may be finite even where z - peak is not."""
    return q * half_gap(z, peak) / (0.5 * temperature)


def class_weight_of(class_weight: Any, j: int) -> Any:
    """Return r_j, which is 1 where no class weights are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(class_weight_of, strict=False, jit_options=STEP_OPTIONS)
def _class_weight_of(class_weight: Any, j: int) -> Callable[..., Any]:
    if isinstance(class_weight, types.NoneType):
        return lambda class_weight, j: 1.0
    return lambda class_weight, j: class_weight[_UNSIGNED(j)]


def probability_of(dense: Any, i: int, j: int) -> Any:
    """Return P_ij, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_of, strict=False, jit_options=STEP_OPTIONS)
def _probability_of(dense: Any, i: int, j: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, i, j: 0.0
    return lambda dense, i, j: dense[_UNSIGNED(i), _UNSIGNED(j)]
