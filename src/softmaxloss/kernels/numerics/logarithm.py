"""log(1 + x), as vector code."""

import math
from fractions import Fraction
from typing import Any

from numba import types

from softmaxloss.kernels.machine.compilation import by_type, fused
from softmaxloss.kernels.machine.intrinsics import binary_exponent, power_of_two
from softmaxloss.kernels.numerics.double_double import DoubleDouble, two_product, two_sum
from softmaxloss.kernels.numerics.exponential import BIASED, LN2
from softmaxloss.kernels.numerics.polynomial import Halves, halves, polynomial

# Minimax polynomials of (2 atanh(s) / s - 2) / s**2 in s**2 up to (3 - sqrt(8))**2, lowest power first.
# benchmarks/polynomials.py computes them. Their error is 2**-51.5 for rows of double precision, and for those of single
# precision 2**-44.3, which is 2**-50 of the logarithm.
_EXACT = halves(
    (
        0.666666666666667,
        0.39999999999898445,
        0.2857142862639929,
        0.2222221107283329,
        0.18182893219215238,
        0.15331596945985673,
        0.14617872832522316,
    )
)
_SHORT = halves(
    (
        0.6666666666666202,
        0.40000000011315995,
        0.28571424108288523,
        0.22222865163099176,
        0.18140080877921574,
        0.1662336501453691,
    )
)
_LN2_HIGH = math.floor(math.log(2) * 2.0**40) / 2.0**40  # its product with every exponent is exact
_LN2_LOW = float(LN2 - Fraction(_LN2_HIGH))


@by_type
def log_one_plus(x: float, like: Any) -> Any:
    """Return log(1 + x) for 0 <= x <= 2**1022, to 54 bits in double precision and 49 in single precision.

    With 1 + x = 2**k (1 + f) and s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - f**2 / 2 + s (f**2 / 2 + s**2 (2 / 3 +
    s**2 (2 / 5 + ...))).
    """

    def plainly(x: float, like: Any) -> Any:
        k, f, _, s = _reduced_sum(x)
        return k * math.log(2) + (f - s * (f - _series(s, _SHORT)))

    def exactly(x: float, like: Any) -> Any:
        k, f, low_f, s = _reduced_sum(x)
        half_square, square_low = two_product(0.5 * f, f)
        value, low = two_sum(k * _LN2_HIGH, f)
        value, more = two_sum(value, -half_square)
        low += more - square_low + s * (half_square + _series(s, _EXACT)) + (k * _LN2_LOW + low_f / (1.0 + f))
        return DoubleDouble(*two_sum(value, low))

    return exactly if like == types.float64 else plainly


@fused
def _reduced_sum(x: float) -> tuple[float, float, float, float]:
    """Return k, the high and low part of f, and s."""
    k = binary_exponent(1.0 + x)
    power = power_of_two(BIASED - k)
    f, low = two_sum(x * power, power - 1.0)  # both terms are exact
    return k, f, low, f / (2.0 + f)


@fused
def _series(s: float, coefficients: Halves) -> float:
    """Return s**2 (2 / 3 + s**2 (2 / 5 + ...))."""
    square = s * s
    return polynomial(coefficients, square, square * square) * square
