"""exp((z - R) / T) for a reference R near the peak: within 1.1 ulp for T = 1, within 1.6 ulp for any other T.

The loops that call it become vector code. Both bounds add up all roundings; the largest errors found are 0.98 and 1.38
ulp. With T, the constant 1 / T and the product with it are rounded, too.

The usual exp(z - peak) is |z - peak| / 2 ulp off, as the difference is rounded. Here the reference is not the peak but

    R = base + m T ln 2

where the integer m puts R next to a high logit: the peak, or one that is not far below the peak. With
z - base = n T ln 2 + r T, |r| <= ln(2) / 2, the exponential is 2**(n - m) e**r: r comes from z itself, and nothing of
size z - peak is ever rounded. `below_peak` gives one number per row, exp((R - peak) / T), to more than the precision of
the logits. The base is 0, or the high logit itself if that is so far from 0 that z - base is exact for every z whose
exponential is not 0.

Exponentials come times SCALE, so that terms below the smallest normal number keep all their bits: a hundred thousand of
them can add up to a normal number.
"""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numba import types

from softmaxloss.kernels.machine.compilation import STEP_OPTIONS, by_type, fused, inline
from softmaxloss.kernels.machine.intrinsics import power_of_two
from softmaxloss.kernels.numerics.double_double import DoubleDouble, is_double_double, over, two_product, two_sum
from softmaxloss.kernels.numerics.polynomial import halves, polynomial

# Minimax polynomials of e**r on |r| <= ln(2)/2 without their 1 + r, lowest power first. benchmarks/polynomials.py
# computes them. Their relative error is 3.1e-9 (0.03 ulp) in single precision, and 3.7e-18 (0.02 ulp) in double.
_POLYNOMIAL = {
    np.float32: (
        0.49999993412490396,
        0.16666520107835442,
        0.04166839421327338,
        0.008368780409678797,
        0.0013814466936969616,
    ),
    np.float64: (
        0.5000000000000011,
        0.1666666666666641,
        0.04166666666652919,
        0.008333333333495627,
        0.0013888888943922727,
        0.0001984126950475658,
        2.480149276269887e-05,
        2.7557587350426204e-06,
        2.7630378655914114e-07,
        2.4999962640567124e-08,
    ),
}
_SINGLE, _DOUBLE = (halves(tuple(map(real, terms))) for real, terms in _POLYNOMIAL.items())
_SINGLE_IN_DOUBLE = halves(_POLYNOMIAL[np.float32])
_SCALE_EXPONENT = 64
SCALE = 2.0**_SCALE_EXPONENT
UNSCALE = 1.0 / SCALE

_TAYLOR = halves(tuple(1 / math.factorial(k) for k in range(3, 17)))
BIASED = 1.5 * 2.0**52 + 1023  # added to an exponent for power_of_two in double precision
_LOWEST_SHIFT = 1022.0

# T ln 2 = high + low, where the high part has so few bits that its product with every exponent n, of up to 10 or 12
# bits, is exact: 13 of 53 in single precision, 32 in double. Splitting by Veltkamp's method takes these factors.
_SPLIT_SINGLE, _SPLIT_DOUBLE = 2.0**40 + 1, 2.0**21 + 1
LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009")
_LN2, _LN2_LOW = float(LN2), float(LN2 - Fraction(float(LN2)))
# Beyond this distance from 0, in units of T, the peak itself is the base: over twice the reach of exp, 131 or 752.
_FAR = {np.float32: 512.0, np.float64: 2048.0}
# Logits may rise this far above a reference, in units of T ln 2: 2**(64 + 58) is far enough from overflow.
RISE = 58.0


class Constants(NamedTuple):
    """The constants of exp(x / T) in one precision: no logit is divided by T, which would round it."""

    log2_e: Any  # log2(e) / T
    high: Any  # T ln 2 = high + low
    low: Any
    reciprocal: Any  # 1 / T


class Temperature(NamedTuple):
    """T and the constants of exp(x / T) in both precisions."""

    value: float
    single: Constants
    double: Constants


@inline
def temperature_of(value: float) -> Temperature:
    """Return the constants of a temperature."""
    t_ln2, low = two_product(value, _LN2)
    low += value * _LN2_LOW
    single, real = t_ln2 * _SPLIT_SINGLE - (t_ln2 * _SPLIT_SINGLE - t_ln2), np.float32
    double = t_ln2 * _SPLIT_DOUBLE - (t_ln2 * _SPLIT_DOUBLE - t_ln2)
    log2_e, reciprocal = 1.0 / t_ln2, 1.0 / value
    return Temperature(
        value,
        Constants(real(log2_e), real(single), real((t_ln2 - single) + low), real(reciprocal)),
        Constants(log2_e, double, (t_ln2 - double) + low, reciprocal),
    )


@by_type
def constants_in(real: Any, temperature: Temperature) -> Any:
    """Return the constants in the precision of a number."""
    if real == types.float32:
        return lambda real, temperature: temperature.single
    return lambda real, temperature: temperature.double


@by_type
def over_temperature(a: Any, temperature: Temperature) -> Any:
    """Return a / T. A plain number is multiplied by 1 / T, which is faster and exact enough."""
    if is_double_double(a):
        return lambda a, temperature: over(a, temperature.value)
    return lambda a, temperature: a * temperature.double.reciprocal


class Reference(NamedTuple):
    """What exponentials are relative to, in the precision of the logits."""

    base: Any
    rounder: Any  # adding it rounds an exponent to n, and leaves n - m + 64, biased, in the lowest bits
    lowest: Any  # exponentials are 0 where z - base is at most this
    exponent: float  # m


@by_type
def reference_of(peak: Any, temperature: Temperature) -> Any:
    """Return the reference next to a peak, or next to 0 if the peak is infinite or NaN."""
    real: type[np.floating[Any]] = np.float32 if peak == types.float32 else np.float64
    info = np.finfo(real)
    bias = 1.5 * 2.0**info.nmant + (1 - info.minexp) + _SCALE_EXPONENT
    last = info.minexp - 1 - _SCALE_EXPONENT  # the exponent whose power of two is 0
    far = _FAR[real]

    def implementation(peak: Any, temperature: Any) -> Any:
        top = peak if math.isfinite(peak) else real(0)
        base = top if abs(top) >= real(far * temperature.value) else real(0)
        x = np.float64(top) - np.float64(base)
        exponent = np.rint(x * temperature.double.log2_e)
        lowest = (exponent + last) * temperature.value * math.log(2)
        return Reference(base, real(bias - exponent), real(lowest), exponent)

    return implementation


# Without `reassoc`, which would fold `x + rounder - rounder` to x.
_EXP_OPTIONS = {**STEP_OPTIONS, "fastmath": {"contract", "nsz", "arcp"}}


@by_type(jit_options=_EXP_OPTIONS)
def reduced(x: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return r times T, and SCALE * 2**(n - m), for x = z - base; the power is 0 where exp is no normal number."""

    def implementation(x: Any, reference: Any, temperature: Any) -> Any:
        constants = constants_in(x, temperature)
        inside = reference.lowest if x < reference.lowest else x
        shifted = inside * constants.log2_e + reference.rounder
        n = shifted - reference.rounder
        return (inside - n * constants.high) - n * constants.low, power_of_two(shifted)

    return implementation


@by_type(jit_options=_EXP_OPTIONS)
def less_one(r: Any) -> Any:
    """Return e**r - 1 for |r| <= ln(2) / 2."""
    terms = _SINGLE if r == types.float32 else _DOUBLE
    return lambda r: polynomial(terms, r, r * r) * (r * r) + r


@by_type(jit_options=_EXP_OPTIONS)
def exponential(r: Any, power: Any) -> Any:
    """Return power * e**r for |r| <= ln(2) / 2, where power is a power of two or 0."""
    return lambda r, power: power * less_one(r) + power


@fused
def _short_exponential(r: float, power: float) -> float:
    """Return `exponential` of single precision before it is rounded to float32: it is right to 28 bits."""
    return power * (polynomial(_SINGLE_IN_DOUBLE, r, r * r) * (r * r) + r) + power


@inline
def scaled_exp(x: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return SCALE * exp((z - R) / T) for x = z - base; 0 below the normal numbers."""
    r, power = reduced(x, reference, temperature)
    return exponential(r * constants_in(x, temperature).reciprocal, power)


@inline
def times_exp(factor: float, z: float, peak: float, temperature: Temperature) -> Any:
    """Return factor * exp((z - peak) / T) for z <= peak; it may be a normal number where exp is none."""
    gap, low = two_sum(z, -peak)
    r, power = reduced(gap, reference_of(0.0, temperature), temperature)
    scaled = exponential((r + (low if gap > -math.inf else 0.0)) * temperature.double.reciprocal, power)
    return scaled * (factor * UNSCALE) if abs(factor) > 1.0 else scaled * factor * UNSCALE


@inline
def rises_above(peak: Any, reference: Reference, temperature: Temperature) -> bool:
    """Return whether a peak is so high that it needs another reference."""
    x = np.float64(peak) - np.float64(reference.base)
    return x * temperature.double.log2_e - reference.exponent > RISE


@by_type
def below_peak(peak: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return exp((R - peak) / T) for a finite peak in a row of this reference; a double-double in double precision."""

    def plainly(peak: Any, reference: Any, temperature: Any) -> Any:
        shift, u, low = _reduced_peak(peak, reference, temperature)
        return _short_exponential((u + low) * -temperature.double.reciprocal, _power_unless_tiny(-shift))

    return plainly if peak == types.float32 else _exactly_below


@by_type
def below_own_peak(peak: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return the same for the finite peak that the reference was made from."""

    def plainly(peak: Any, reference: Any, temperature: Any) -> Any:
        u, low = _remainder(np.float64(peak) - np.float64(reference.base), reference.exponent, temperature)
        return _short_exponential((u + low) * -temperature.double.reciprocal, 1.0)

    return plainly if peak == types.float32 else _exactly_below


def _exactly_below(peak: Any, reference: Any, temperature: Any) -> Any:
    return over(1.0, _exactly_above(peak, reference, temperature))


@inline
def _exactly_above(peak: float, reference: Reference, temperature: Temperature) -> DoubleDouble:
    """Return exp((peak - R) / T) as a double-double."""
    shift, high, low = _reduced_peak(peak, reference, temperature)
    u, low = over(DoubleDouble(*two_sum(high, low)), temperature.value)
    square, square_low = two_product(u, u)
    tail = polynomial(_TAYLOR, u, square)
    # 1 + u + u**2 / 2 + tail, to 56 bits
    value, error = two_sum(1.0, u)
    value, square_error = two_sum(value, 0.5 * square)
    value, low = two_sum(value, error + square_error + 0.5 * square_low + low * (1.0 + u) + u * square * tail)
    power = _power_unless_tiny(shift)
    return DoubleDouble(value * power, low * power)


@fused
def _reduced_peak(peak: Any, reference: Reference, temperature: Temperature) -> tuple[float, float, float]:
    """Return n - m and two terms of peak - base - n T ln 2; a peak below all powers of two is first moved nearer."""
    constants = temperature.double
    x = np.float64(peak) - np.float64(reference.base)
    lowest = (reference.exponent - 2.0 * _LOWEST_SHIFT) * constants.high
    x = lowest if x < lowest else x  # n * high is exact
    n = np.rint(x * constants.log2_e)
    return n - reference.exponent, *_remainder(x, n, temperature)


@fused
def _remainder(x: float, n: float, temperature: Temperature) -> tuple[float, float]:
    """Return two terms of x - n T ln 2."""
    return x - n * temperature.double.high, -(n * temperature.double.low)


@inline
def _power_unless_tiny(shift: float) -> Any:
    """Return a power of two, or 0 where that is no normal number."""
    return power_of_two(shift + BIASED) if shift >= -_LOWEST_SHIFT else 0.0
