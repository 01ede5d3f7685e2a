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
FOLDED = 64  # 4 * 4 * 4: they are added up by quarters

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


class Carried(NamedTuple):
    """A number in double precision, and about what rounding lost of it.

    Rows of double precision are finished in such numbers, so that results are rounded about once. For rows of single
    precision, plain numbers of double precision do; the functions below take either, and exact factors or terms.
    """

    value: float
    lost: float


def _carries(number: Any) -> bool:
    return isinstance(number, types.NamedUniTuple)


def carried(value: float, lost: float, like: Any) -> Any:
    """Return a number as rows of the precision of `like` are finished in."""
    raise NotImplementedError  # compiled code has the versions below


@overload(carried, strict=False, jit_options=STEP_OPTIONS)
def _carried(value: float, lost: float, like: Any) -> Callable[..., Any]:
    if like == types.float64:
        return lambda value, lost, like: Carried(value, lost)
    return lambda value, lost, like: value


def value_of(a: Any) -> float:
    """Return a number but for what rounding lost of it."""
    raise NotImplementedError  # compiled code has the versions below


@overload(value_of, strict=False, jit_options=STEP_OPTIONS)
def _value_of(a: Any) -> Callable[..., Any]:
    return (lambda a: a.value) if _carries(a) else (lambda a: a)


def lost_of(a: Any) -> float:
    """Return what rounding lost of a number; 0 for a plain one."""
    raise NotImplementedError  # compiled code has the versions below


@overload(lost_of, strict=False, jit_options=STEP_OPTIONS)
def _lost_of(a: Any) -> Callable[..., Any]:
    return (lambda a: a.lost) if _carries(a) else (lambda a: 0.0)


def plus(a: Any, b: Any) -> Any:
    """Return a + b."""
    raise NotImplementedError  # compiled code has the versions below


@overload(plus, strict=False, jit_options=STEP_OPTIONS)
def _plus(a: Any, b: Any) -> Callable[..., Any]:
    def exactly(a: Any, b: Any) -> Any:
        total, error = two_sum(value_of(a), value_of(b))
        return Carried(total, error + (lost_of(a) + lost_of(b)))

    return exactly if _carries(a) or _carries(b) else lambda a, b: a + b


def times(a: Any, b: Any) -> Any:
    """Return a * b."""
    raise NotImplementedError  # compiled code has the versions below


@overload(times, strict=False, jit_options=STEP_OPTIONS)
def _times(a: Any, b: Any) -> Callable[..., Any]:
    def exactly(a: Any, b: Any) -> Any:
        product, error = two_product(value_of(a), value_of(b))
        return Carried(product, error + (lost_of(a) * value_of(b) + value_of(a) * lost_of(b)))

    return exactly if _carries(a) or _carries(b) else lambda a, b: a * b


def over(a: Any, b: Any) -> Any:
    """Return a / b."""
    raise NotImplementedError  # compiled code has the versions below


@overload(over, strict=False, jit_options=STEP_OPTIONS)
def _over(a: Any, b: Any) -> Callable[..., Any]:
    def exactly(a: Any, b: Any) -> Any:
        bottom = value_of(b)
        reciprocal = 1.0 / bottom
        quotient = value_of(a) * reciprocal
        error = multiply_add(-quotient, bottom, value_of(a)) + lost_of(a) - quotient * lost_of(b)
        return Carried(quotient, error * reciprocal)

    return exactly if _carries(a) or _carries(b) else lambda a, b: a / b


def per(a: Any, temperature: Any) -> Any:
    """Return a / T, for a plain number as a product, which is faster and exact enough."""
    raise NotImplementedError  # compiled code has the versions below


@overload(per, strict=False, jit_options=STEP_OPTIONS)
def _per(a: Any, temperature: Any) -> Callable[..., Any]:
    if _carries(a):
        return lambda a, temperature: over(a, temperature.value)
    return lambda a, temperature: a * temperature.double.reciprocal


def rounded(a: Any) -> float:
    """Return a number rounded; where what was lost is not to be had, as beside infinity, its value."""
    raise NotImplementedError  # compiled code has the versions below


@overload(rounded, strict=False, jit_options=STEP_OPTIONS)
def _rounded(a: Any) -> Callable[..., Any]:
    if _carries(a):
        return lambda a: a.value + a.lost if math.isfinite(a.lost) else a.value
    return lambda a: a


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


_lanes, folded_lanes = local_array(LANES), local_array(FOLDED)


@inline
def lanes_for(number: Any) -> Lanes:
    """Return lanes for sums of numbers like this one."""
    return Lanes(_lanes(number), _lanes(0.0), _lanes(0.0), folded_lanes(0.0), folded_lanes(0.0))


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


def sum_of(total: Any, lost: Any, like: Any) -> Any:
    """Return the sum of folded lanes, carried; -inf if one of them is -inf."""
    raise NotImplementedError  # compiled code has the versions below


@overload(sum_of, strict=False, jit_options=STEP_OPTIONS)
def _sum_of(total: Any, lost: Any, like: Any) -> Callable[..., Any]:
    return _sum_exactly if like == types.float64 else _sum_plainly


def _sum_exactly(total: Any, lost: Any, like: Any) -> Any:
    _add_quarters_exactly(total, lost, FOLDED // 4)
    _add_quarters_exactly(total, lost, FOLDED // 16)
    _add_quarters_exactly(total, lost, FOLDED // 64)
    return Carried(total[0], lost[0])


@inline
def _add_quarters_exactly(total: Any, lost: Any, n: int) -> None:
    for lane in range(n):
        a, lost_a = two_sum(total[lane], total[n + lane])
        b, lost_b = two_sum(total[2 * n + lane], total[3 * n + lane])
        total[lane], error = two_sum(a, b)
        before = (lost[lane] + lost[n + lane]) + (lost[2 * n + lane] + lost[3 * n + lane])
        lost[lane] = before + (lost_a + lost_b + error)


def _sum_plainly(total: Any, lost: Any, like: Any) -> Any:
    _add_quarters(total, FOLDED // 4)
    _add_quarters(total, FOLDED // 16)
    _add_quarters(total, FOLDED // 64)
    return total[0]


@inline
def _add_quarters(total: Any, n: int) -> None:
    for lane in range(n):
        total[lane] = (total[lane] + total[n + lane]) + (total[2 * n + lane] + total[3 * n + lane])


@inline
def lane_sum(run: Any) -> float:
    """Return the sum of lanes of one block."""
    folded, lost = folded_lanes(0.0), folded_lanes(0.0)
    clear(folded)
    clear(lost)
    fold(run, folded, lost)
    return rounded(sum_of(folded, lost, 0.0))


@inline
def half_gap(z: float, peak: float) -> float:
    """Return (z - peak) / 2, which is finite even where z - peak is too large; -inf for z = -inf under any peak."""
    return 0.5 * z - 0.5 * peak if z > -math.inf else z


@inline
def gap_times(q: float, z: float, peak: float, temperature: float) -> float:
    """Return q (z - peak) / T, which may be finite even where z - peak is not."""
    return q * half_gap(z, peak) / (0.5 * temperature)


@inline
def finished_dot(half_dot: Any, spike: float, z: float, peak: Any, temperature: Any) -> float:
    """Return 2 (half_dot + spike (z - peak) / 2) / T; -inf where a wanted class is at -inf."""
    half_peak = 0.5 * np.float64(peak)
    at_label = times(plus(carried(0.5 * z, 0.0, peak), -half_peak), spike)
    total = plus(half_dot, at_label) if spike > 0.0 else half_dot
    return 2.0 * rounded(per(total, temperature))


@inline
def of_row(values: Any, i: int) -> float:
    """Return the number of row i, of an array that has one for each row, or one for all."""
    return values[i] if values.size > 1 else values[0]


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
