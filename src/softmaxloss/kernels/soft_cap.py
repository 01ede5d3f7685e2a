"""The entry points that cap logits, c tanh(x / c), and apply the slope of the cap, 1 / cosh(x / c)**2.

Both compute in double precision. With e = exp(-2 |x| / c), tanh(|x| / c) is (1 - e) / (1 + e), and the slope is
4 e / (1 + e)**2. An error of one ulp in a capped logit z is an error of about |z| ulp in exp(z). So for logits of
double precision, double-doubles keep the rounding errors of x / c, 1 - e and (1 - e) / (1 + e).
"""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import decoded
from softmaxloss.kernels.machine.intrinsics import multiply_add
from softmaxloss.kernels.numerics.double_double import double_double, low_of, over, plus, rounded, times, two_sum
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    Reference,
    Temperature,
    exponential,
    less_one,
    reduced,
    reference_of,
    temperature_of,
)

_FAR = 1024.0  # e is 0 for any |x| / c from this one on, so its rounding error, which may be NaN, is not needed


@kernel
def cap(logits: Any, softcap: float, out: Any) -> None:
    """Write capped logits to `out`; both arrays are flat."""
    one = temperature_of(1.0)
    zero = reference_of(0.0, one)
    for i in range(logits.size):
        x = decoded(logits[i])
        r, power = _reduced_e(x, softcap, zero, one)
        high, low = two_sum(power * less_one(r), power - 1.0)
        less = double_double(high, low, x)  # e - 1
        minus_tanh = over(less, plus(less, 2.0))  # of |x| / c
        out[i] = math.copysign(rounded(times(minus_tanh, softcap)), x)


@kernel
def multiply_by_slope(logits: Any, softcap: float, gradient: Any) -> None:
    """Turn a gradient with respect to capped logits into one with respect to the logits.

    A gradient of 0 stays 0, even where the logit is NaN.
    """
    one = temperature_of(1.0)
    zero = reference_of(0.0, one)
    for i in range(logits.size):
        e = exponential(*_reduced_e(decoded(logits[i]), softcap, zero, one))
        slope = 4.0 * e / ((1.0 + e) * (1.0 + e))
        gradient[i] = gradient[i] * slope if gradient[i] != 0.0 else gradient[i]


@inline
def _reduced_e(x: Any, softcap: float, zero: Reference, one: Temperature) -> tuple[float, float]:
    """Return r and a power of two such that e = exp(-2 |x| / softcap) is power * exp(r)."""
    size = np.float64(abs(x))
    quotient = size / softcap
    error = multiply_add(-quotient, softcap, size) / softcap if quotient < _FAR else 0.0
    r, power = reduced(-2.0 * quotient, zero, one)
    return r - 2.0 * low_of(double_double(quotient, error, x)), power * UNSCALE
