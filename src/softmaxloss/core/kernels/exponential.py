"""exp((z - peak) / T) within one ulp at T = 1, in a form that the compiler turns into vector code.

It comes times LIFT, so that terms below the smallest normal number keep all their bits: a hundred thousand of them can
add up to a normal number.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.bits import power_of_two
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline

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
_LIFT_EXPONENT = 64
LIFT = 2.0**_LIFT_EXPONENT
UNLIFT = 1.0 / LIFT


# The high part of T ln 2 has so few bits that its product with every exponent is exact.
_HIGH_BITS = {np.float32: 15, np.float64: 32}
_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009")


class Temperature(NamedTuple):
    """What exp(x / T) needs to know of T; _single and _double are the precisions it is computed in.

    No logit is divided by T, which would round it: T scales the constants instead.
    """

    value: float
    reciprocal: float
    log2_e: float  # log2(e) / T
    high_single: float  # T ln 2 = high + low
    low_single: float
    high_double: float
    low_double: float


@lru_cache(maxsize=64)
def temperature_of(value: float) -> Temperature:
    """Return the constants of a temperature."""
    t_ln2 = Fraction(value) * _LN2
    parts = []
    for bits in _HIGH_BITS.values():
        unit = Fraction(2) ** (math.frexp(t_ln2)[1] - bits)
        high = math.floor(t_ln2 / unit) * unit
        parts += [float(high), float(t_ln2 - high)]
    return Temperature(value, float(1 / Fraction(value)), float(1 / t_ln2), *parts)


def lifted_exp(z: Any, peak: Any, temperature: Temperature) -> Any:
    """Return LIFT * exp((z - peak) / T) for z <= peak, of the exact difference; 0 below the normal numbers."""
    raise NotImplementedError  # compiled code has the version below


# Without `reassoc`, which would fold `x + rounder - rounder` to x and the lost part of the difference to 0.
@overload(lifted_exp, jit_options={**STEP_OPTIONS, "fastmath": {"contract", "nsz", "arcp"}})
def _lifted_exp(z: Any, peak: Any, temperature: Any) -> Callable[..., Any]:
    real: type[np.floating[Any]] = np.float32 if z == types.float32 else np.float64
    single = real is np.float32
    info = np.finfo(real)
    rounder = real(1.5 * 2.0**info.nmant)  # adding it rounds to an integer, left in the lowest bits
    lowest = math.log(info.tiny) - _LIFT_EXPONENT * math.log(2)
    zero = real(0)
    lift = real(_LIFT_EXPONENT)
    polynomial = tuple(real(coefficient) for coefficient in _POLYNOMIAL[real])

    def implementation(z: Any, peak: Any, temperature: Any) -> Any:
        high = real(temperature.high_single if single else temperature.high_double)
        low = real(temperature.low_single if single else temperature.low_double)
        difference = z - peak
        # Knuth's TwoSum: z - peak = difference + lost exactly. Without it the result is |difference|/2 ulp off.
        part = difference - z
        lost = (z - (difference - part)) - (peak + part)
        # z - peak = n T ln 2 + r T with |r| <= ln(2)/2, so exp((z - peak) / T) = 2**n e**r
        shifted = difference * real(temperature.log2_e) + rounder
        n = shifted - rounder
        r = ((difference - n * high) - n * low + lost) * real(temperature.reciprocal)
        value = zero
        for coefficient in polynomial:
            value = value * r + coefficient
        return zero if difference < real(lowest * temperature.value) else value * power_of_two(shifted + lift)

    return implementation


@inline
def times_exp(factor: float, z: float, peak: float, temperature: Temperature) -> Any:
    """Return factor * exp((z - peak) / T) of one class, which may be a normal number where exp is none."""
    lifted = lifted_exp(z, peak, temperature)
    return lifted * (factor * UNLIFT) if abs(factor) > 1.0 else lifted * factor * UNLIFT
