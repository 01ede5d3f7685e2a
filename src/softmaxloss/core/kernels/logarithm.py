"""log(1 + x), as vector code."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import Carried, two_product, two_sum
from softmaxloss.core.kernels.bits import binary_exponent, power_of_two
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused
from softmaxloss.core.kernels.exponential import BIASED, LN2
from softmaxloss.core.kernels.polynomial import Halves, halves, polynomial

# Minimax polynomials of (2 atanh(s) / s - 2) / s**2 in s**2 up to (3 - sqrt(8))**2, lowest power first, from Remez
# exchange: 2**-51.5 for rows of double precision, and 2**-44.3, 2**-50 of the logarithm, for those of single precision.
_EXACT = halves(
    (
        0.66666666666666697291,
        0.39999999999898444664,
        0.28571428626399281477,
        0.22222211072835128426,
        0.18182893219087538548,
        0.1533159695010694412,
        0.14617872783015873593,
    )
)
_SHORT = halves(
    (
        0.66666666666662019397,
        0.40000000011315992063,
        0.28571424108289054309,
        0.22222865163059835733,
        0.18140080879115401992,
        0.16623365001871447481,
    )
)
_LN2_HIGH = math.floor(math.log(2) * 2.0**40) / 2.0**40  # its product with every exponent is exact
_LN2_LOW = float(LN2 - Fraction(_LN2_HIGH))


def log_one_plus(x: float, like: Any) -> Any:
    """Return log(1 + x) for x >= 0, carried, to 55 bits in double precision and 50 in single precision.

    With 1 + x = 2**k (1 + f) and s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - f**2 / 2 + s (f**2 / 2 + s**2 (2 / 3 +
    s**2 (2 / 5 + ...))).
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(log_one_plus, strict=False, jit_options=STEP_OPTIONS)
def _log_one_plus(x: float, like: Any) -> Callable[..., Any]:
    def plainly(x: float, like: Any) -> Any:
        k, f, _, s = _reduced_sum(x)
        return k * math.log(2) + (f - s * (f - _series(s, _SHORT)))

    def exactly(x: float, like: Any) -> Any:
        k, f, lost_f, s = _reduced_sum(x)
        half_square, square_lost = two_product(0.5 * f, f)
        value, lost = two_sum(k * _LN2_HIGH, f)
        value, more = two_sum(value, -half_square)
        lost += more - square_lost + s * (half_square + _series(s, _EXACT)) + (k * _LN2_LOW + lost_f / (1.0 + f))
        return Carried(*two_sum(value, lost))

    return exactly if like == types.float64 else plainly


@fused
def _reduced_sum(x: float) -> tuple[float, float, float, float]:
    """Return k, f, what rounding lost of f, and s."""
    k = binary_exponent(1.0 + x)
    power = power_of_two(BIASED - k)
    f, lost = two_sum(x * power, power - 1.0)  # of exact numbers
    return k, f, lost, f / (2.0 + f)


@fused
def _series(s: float, coefficients: Halves) -> float:
    """Return s**2 (2 / 3 + s**2 (2 / 5 + ...))."""
    square = s * s
    return polynomial(coefficients, square, square * square) * square
