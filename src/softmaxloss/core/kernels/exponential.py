"""exp(z - peak) within one ulp, in a form that the compiler turns into vector code.

It comes times LIFT, so that terms below the smallest normal number keep all their bits: a hundred thousand of them can
add up to a normal number.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.bits import power_of_two
from softmaxloss.core.kernels.compilation import STEP_OPTIONS

# Minimax polynomials of e^r on |r| <= ln(2)/2, highest power first, from Remez exchange on the relative error with
# the last two coefficients held at 1: 3.1e-9 (0.03 ulp) in single precision, 3.7e-18 (0.02 ulp) in double.
_POLYNOMIAL = {
    np.float32: (
        0.0013814467059326510579,
        0.0083687804111805336497,
        0.041668394210893869329,
        0.16666520107819589424,
        0.49999993412501565687,
        1.0,
        1.0,
    ),
    np.float64: (
        2.4999965359640574466e-8,
        2.7630378625210987254e-7,
        2.75575873421640255e-6,
        2.4801492762781810918e-5,
        0.00019841269504765382794,
        0.0013888888943922654965,
        0.0083333333334956237914,
        0.041666666666529188524,
        0.16666666666666410234,
        0.5000000000000010721,
        1.0,
        1.0,
    ),
}
# The high part of ln 2 has so few bits that n * high is exact for every exponent n.
_LN2_HIGH_BITS = {np.float32: 15, np.float64: 32}
_LN2_BEYOND_DOUBLE = 2.3190468138462996e-17

_LIFT_EXPONENT = 64
LIFT = 2.0**_LIFT_EXPONENT
UNLIFT = 1.0 / LIFT


def lifted_exp(z: Any, peak: Any) -> Any:
    """Return LIFT * exp(z - peak) for z <= peak, of the difference before rounding; 0 below the normal numbers."""
    raise NotImplementedError  # compiled code has the version below


# Without `reassoc`, which would fold `x + rounder - rounder` to x and the lost part of the difference to 0.
@overload(lifted_exp, jit_options={**STEP_OPTIONS, "fastmath": {"contract", "nsz", "arcp"}})
def _lifted_exp(z: Any, peak: Any) -> Callable[..., Any]:
    real: type[np.floating[Any]] = np.float32 if z == types.float32 else np.float64
    info = np.finfo(real)
    high_unit = 2.0 ** -_LN2_HIGH_BITS[real]
    high = math.floor(math.log(2) / high_unit) * high_unit
    ln2_high = real(high)
    ln2_low = real(math.log(2) - high + _LN2_BEYOND_DOUBLE)
    log2_e = real(1 / math.log(2))
    rounder = real(1.5 * 2.0**info.nmant)  # adding it rounds to an integer, left in the lowest bits
    lowest = np.nextafter(real(math.log(info.tiny) - _LIFT_EXPONENT * math.log(2)), real(0))
    zero = real(0)
    lift = real(_LIFT_EXPONENT)
    polynomial = tuple(real(coefficient) for coefficient in _POLYNOMIAL[real])

    def implementation(z: Any, peak: Any) -> Any:
        difference = z - peak
        # Knuth's TwoSum: z - peak = difference + lost exactly. Without it the result is |difference|/2 ulp off.
        part = difference - z
        lost = (z - (difference - part)) - (peak + part)
        # z - peak = n ln 2 + r with |r| <= ln(2)/2, so exp(z - peak) = 2**n e**r
        shifted = difference * log2_e + rounder
        n = shifted - rounder
        r = (difference - n * ln2_high) - n * ln2_low + lost
        value = zero
        for coefficient in polynomial:
            value = value * r + coefficient
        return zero if difference < lowest else value * power_of_two(shifted + lift)

    return implementation
