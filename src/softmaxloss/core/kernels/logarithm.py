"""log(1 + x), as vector code."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import Carried, two_product, two_sum
from softmaxloss.core.kernels.bits import binary_exponent, power_of_two
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline
from softmaxloss.core.kernels.exponential import BIASED, LN2

# 2 / 21, 2 / 19, ..., 2 / 3
_ATANH = tuple(2.0 / k for k in range(21, 1, -2))
_LN2_HIGH = math.floor(math.log(2) * 2.0**40) / 2.0**40  # its product with every exponent is exact
_LN2_LOW = float(LN2 - Fraction(_LN2_HIGH))


def log_one_plus(x: float, like: Any) -> Any:
    """Return log(1 + x) for x >= 0, carried, to some 60 bits in double precision and 50 in single precision.

    With 1 + x = 2**k (1 + f) and s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - f**2 / 2 + s (f**2 / 2 + s**2 (2 / 3 +
    s**2 (2 / 5 + ...))).
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(log_one_plus, strict=False, jit_options=STEP_OPTIONS)
def _log_one_plus(x: float, like: Any) -> Callable[..., Any]:
    def plainly(x: float, like: Any) -> Any:
        u, error, k, f, s, series = _reduced_sum(x)
        return k * _LN2_HIGH + (f - s * (f - series) + (k * _LN2_LOW + error / u))

    def exactly(x: float, like: Any) -> Any:
        u, error, k, f, s, series = _reduced_sum(x)
        half_square, square_lost = two_product(0.5 * f, f)
        value, lost = two_sum(k * _LN2_HIGH, f)
        value, more = two_sum(value, -half_square)
        lost += more - square_lost + s * (half_square + series) + (k * _LN2_LOW + error / u)
        return Carried(*two_sum(value, lost))

    return exactly if like == types.float64 else plainly


@inline
def _reduced_sum(x: float) -> tuple[float, float, float, float, float, float]:
    """Return 1 + x, what rounding lost of it, k, f, s, and the series in s**2."""
    u, error = two_sum(1.0, x)
    k = binary_exponent(u)
    f = u * power_of_two(BIASED - k) - 1.0
    s = f / (2.0 + f)
    series = 0.0
    for coefficient in _ATANH:
        series = (series + coefficient) * (s * s)
    return u, error, k, f, s, series
