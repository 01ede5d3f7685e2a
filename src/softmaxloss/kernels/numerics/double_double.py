"""Double-double numbers: the unevaluated sum of two float64, for results that must be rounded only about once.

Kernels finish rows of double precision in double-doubles, and rows of single precision in plain float64. The functions
here take either.
"""

import math
from typing import Any, NamedTuple

from numba import types

from softmaxloss.kernels.machine.compilation import by_type, inline
from softmaxloss.kernels.machine.intrinsics import multiply_add


class DoubleDouble(NamedTuple):
    """The number high + low, where low is about the rounding error of high."""

    high: float
    low: float


@inline
def two_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum and its exact rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@inline
def two_product(a: float, b: float) -> tuple[float, float]:
    """Return the rounded product and its exact rounding error."""
    product = a * b
    return product, multiply_add(a, b, -product)


def is_double_double(number: Any) -> bool:
    """Return whether a Numba type is that of a double-double."""
    return isinstance(number, types.NamedUniTuple)


@by_type
def double_double(high: float, low: float, like: Any) -> Any:
    """Return a double-double if rows of the precision of `like` are finished in such, else `high`."""
    if like == types.float64:
        return lambda high, low, like: DoubleDouble(high, low)
    return lambda high, low, like: high


@by_type
def high_of(a: Any) -> Any:
    """Return the high part of a double-double, or a plain number itself."""
    return (lambda a: a.high) if is_double_double(a) else (lambda a: a)


@by_type
def low_of(a: Any) -> Any:
    """Return the low part of a double-double; 0 for a plain number."""
    return (lambda a: a.low) if is_double_double(a) else (lambda a: 0.0)


@by_type
def plus(a: Any, b: Any) -> Any:
    """Return a + b."""

    def exactly(a: Any, b: Any) -> Any:
        total, error = two_sum(high_of(a), high_of(b))
        return DoubleDouble(total, error + (low_of(a) + low_of(b)))

    return exactly if is_double_double(a) or is_double_double(b) else lambda a, b: a + b


@by_type
def times(a: Any, b: Any) -> Any:
    """Return a * b."""

    def exactly(a: Any, b: Any) -> Any:
        product, error = two_product(high_of(a), high_of(b))
        return DoubleDouble(product, error + (low_of(a) * high_of(b) + high_of(a) * low_of(b)))

    return exactly if is_double_double(a) or is_double_double(b) else lambda a, b: a * b


@by_type
def over(a: Any, b: Any) -> Any:
    """Return a / b."""

    def exactly(a: Any, b: Any) -> Any:
        bottom = high_of(b)
        reciprocal = 1.0 / bottom
        quotient = high_of(a) * reciprocal
        error = multiply_add(-quotient, bottom, high_of(a)) + low_of(a) - quotient * low_of(b)
        return DoubleDouble(quotient, error * reciprocal)

    return exactly if is_double_double(a) or is_double_double(b) else lambda a, b: a / b


@by_type
def rounded(a: Any) -> Any:
    """Return a number rounded to float64. The low part is NaN beside infinity; then the high part is the result."""

    def total(a: Any) -> float:
        return a.high + a.low if math.isfinite(a.low) else a.high

    return total if is_double_double(a) else lambda a: a
