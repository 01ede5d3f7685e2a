"""exp((z - R) / T) relative to a reference R near the peak, within 1.1 ulp, as vector code.

The usual exp(z - peak) is |z - peak| / 2 ulp off, as the difference is rounded. Here the reference is not the peak but

    R = base + m T ln 2

with an integer m, the nearest to a high logit: the peak, or one that the peak is not far above. With
z - base = n T ln 2 + r T, |r| <= ln(2) / 2, the exponential is 2**(n - m) e**r: r comes from z itself, and nothing of
size z - peak is ever rounded. How far the peak is above its reference is one number per row, which `below_peak` gives
to more than the precision of the logits. The base is 0, or that logit where it is so far from 0 that z - base is exact
for every z whose exponential is not 0.

Exponentials come times LIFT, so that terms below the smallest normal number keep all their bits: a hundred thousand of
them can add up to a normal number.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.arithmetic import Carried, over, two_product, two_sum
from softmaxloss.core.kernels.bits import power_of_two
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, fused, inline
from softmaxloss.core.kernels.polynomial import halves, polynomial

# Minimax polynomials of e**r on |r| <= ln(2)/2 without their 1 + r, lowest power first, from Remez exchange on the
# relative error: 3.1e-9 (0.03 ulp) in single precision, 3.7e-18 (0.02 ulp) in double.
_POLYNOMIAL = {
    np.float32: (
        0.49999993412501565687,
        0.16666520107819589424,
        0.041668394210893869329,
        0.0083687804111805336497,
        0.0013814467059326510579,
    ),
    np.float64: (
        0.5000000000000010721,
        0.16666666666666410234,
        0.041666666666529188524,
        0.0083333333334956237914,
        0.0013888888943922654965,
        0.00019841269504765382794,
        2.4801492762781810918e-5,
        2.75575873421640255e-6,
        2.7630378625210987254e-7,
        2.4999965359640574466e-8,
    ),
}
_SINGLE, _DOUBLE = (halves(tuple(map(real, terms))) for real, terms in _POLYNOMIAL.items())
_SINGLE_IN_DOUBLE = halves(_POLYNOMIAL[np.float32])
_LIFT_EXPONENT = 64
LIFT = 2.0**_LIFT_EXPONENT
UNLIFT = 1.0 / LIFT

_TAYLOR = halves(tuple(1 / math.factorial(k) for k in range(3, 17)))
BIASED = 1.5 * 2.0**52 + 1023  # what power_of_two wants added to an exponent in double precision
_LOWEST_SHIFT = 1022.0

# The high part of T ln 2 has so few bits that its product with every exponent n, of up to 10 or 12 bits, is exact.
_HIGH_BITS = {np.float32: 13, np.float64: 32}
LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009")
# Peaks farther than this many T from 0 are their own base. It is over twice the reach of exp, 131 or 752.
_FAR = {np.float32: 512.0, np.float64: 2048.0}
# Logits may rise this many T ln 2 above a reference: 2**(64 + 58) is far enough from overflow.
RISE = 58.0


class Scale(NamedTuple):
    """The constants of exp(x / T) in one precision: no logit is divided by T, which would round it."""

    log2_e: Any  # log2(e) / T
    high: Any  # T ln 2 = high + low
    low: Any
    reciprocal: Any  # 1 / T


class Temperature(NamedTuple):
    """What exp(x / T) needs to know of T."""

    value: float
    single: Scale
    double: Scale


@lru_cache(maxsize=64)
def temperature_of(value: float) -> Temperature:
    """Return the constants of a temperature."""
    t_ln2 = Fraction(value) * LN2
    scales = []
    for real, bits in _HIGH_BITS.items():
        unit = Fraction(2) ** (math.frexp(t_ln2)[1] - bits)
        high = math.floor(t_ln2 / unit) * unit
        scales.append(Scale(*(real(float(x)) for x in (1 / t_ln2, high, t_ln2 - high, 1 / Fraction(value)))))
    return Temperature(value, *scales)


def temperature_numbers(temperature: Temperature) -> list[float]:
    """Return what `temperature_from` makes a temperature of."""
    return [temperature.value, *map(float, temperature.single), *temperature.double]


@inline
def temperature_from(numbers: Any) -> Temperature:
    """Return a temperature in a kernel."""
    real = np.float32
    single = Scale(real(numbers[1]), real(numbers[2]), real(numbers[3]), real(numbers[4]))
    return Temperature(numbers[0], single, Scale(numbers[5], numbers[6], numbers[7], numbers[8]))


def scale_in(real: Any, temperature: Temperature) -> Scale:
    """Return the constants in the precision of a number."""
    raise NotImplementedError  # compiled code has the version below


@overload(scale_in, strict=False, jit_options=STEP_OPTIONS)
def _scale_in(real: Any, temperature: Any) -> Callable[..., Any]:
    if real == types.float32:
        return lambda real, temperature: temperature.single
    return lambda real, temperature: temperature.double


class Reference(NamedTuple):
    """What exponentials are relative to, in the precision of the logits."""

    base: Any
    rounder: Any  # adding it to an exponent n rounds, and leaves the biased n - m + 64 in the lowest bits
    lowest: Any  # z - base from which down exponentials are 0
    exponent: float  # m


def reference_of(peak: Any, temperature: Temperature) -> Reference:
    """Return the reference next to a peak; that of 0 where it is infinite or NaN."""
    raise NotImplementedError  # compiled code has the version below


@overload(reference_of, jit_options=STEP_OPTIONS)
def _reference_of(peak: Any, temperature: Any) -> Callable[..., Any]:
    real: type[np.floating[Any]] = np.float32 if peak == types.float32 else np.float64
    info = np.finfo(real)
    bias = 1.5 * 2.0**info.nmant + (1 - info.minexp) + _LIFT_EXPONENT
    last = info.minexp - 1 - _LIFT_EXPONENT  # the exponent whose power of two is 0
    far = _FAR[real]

    def implementation(peak: Any, temperature: Any) -> Any:
        top = peak if math.isfinite(peak) else real(0)
        base = top if abs(top) >= real(far * temperature.value) else real(0)
        x = np.float64(top) - np.float64(base)
        exponent = np.rint(x * temperature.double.log2_e)
        lowest = (exponent + last) * temperature.value * math.log(2)
        return Reference(base, real(bias - exponent), real(lowest), exponent)

    return implementation


def reduced(x: Any, reference: Reference, temperature: Temperature) -> tuple[Any, Any]:
    """Return r times T, and LIFT * 2**(n - m), for x = z - base; the power is 0 where exp is no normal number."""
    raise NotImplementedError  # compiled code has the version below


# Without `reassoc`, which would fold `x + rounder - rounder` to x.
_EXP_OPTIONS = {**STEP_OPTIONS, "fastmath": {"contract", "nsz", "arcp"}}


@overload(reduced, jit_options=_EXP_OPTIONS)
def _reduced(x: Any, reference: Any, temperature: Any) -> Callable[..., Any]:
    def implementation(x: Any, reference: Any, temperature: Any) -> Any:
        scale = scale_in(x, temperature)
        inside = reference.lowest if x < reference.lowest else x
        shifted = inside * scale.log2_e + reference.rounder
        n = shifted - reference.rounder
        return (inside - n * scale.high) - n * scale.low, power_of_two(shifted)

    return implementation


def exponential(r: Any, power: Any) -> Any:
    """Return power * e**r for |r| <= ln(2) / 2 and a power of two, or 0."""
    raise NotImplementedError  # compiled code has the version below


@overload(exponential, strict=False, jit_options=_EXP_OPTIONS)
def _exponential(r: Any, power: Any) -> Callable[..., Any]:
    terms = _SINGLE if r == types.float32 else _DOUBLE
    return lambda r, power: power * (polynomial(terms, r, r * r) * (r * r) + r) + power


@fused
def _short_exponential(r: float, power: float) -> float:
    """Return what `exponential` returns in single precision, but for its rounding."""
    return power * (polynomial(_SINGLE_IN_DOUBLE, r, r * r) * (r * r) + r) + power


@inline
def lifted_exp(x: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return LIFT * exp((z - R) / T) for x = z - base; 0 below the normal numbers."""
    r, power = reduced(x, reference, temperature)
    return exponential(r * scale_in(x, temperature).reciprocal, power)


@inline
def times_exp(factor: float, z: float, peak: float, temperature: Temperature) -> Any:
    """Return factor * exp((z - peak) / T) for z <= peak, which may be a normal number where exp is none."""
    gap, lost = two_sum(z, -peak)
    r, power = reduced(gap, reference_of(0.0, temperature), temperature)
    lifted = exponential((r + (lost if gap > -math.inf else 0.0)) * temperature.double.reciprocal, power)
    return lifted * (factor * UNLIFT) if abs(factor) > 1.0 else lifted * factor * UNLIFT


@inline
def rises_above(peak: Any, reference: Reference, temperature: Temperature) -> bool:
    """Return whether a peak is so high that it needs another reference."""
    x = np.float64(peak) - np.float64(reference.base)
    return x * temperature.double.log2_e - reference.exponent > RISE


def above_reference(peak: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return exp((peak - R) / T), carried, for a finite peak that may have this reference."""
    raise NotImplementedError  # compiled code has the versions below


@overload(above_reference, strict=False, jit_options=STEP_OPTIONS)
def _above_reference(peak: Any, reference: Any, temperature: Any) -> Callable[..., Any]:
    def plainly(peak: Any, reference: Any, temperature: Any) -> Any:
        shift, u, lost = _reduced_peak(peak, reference, temperature)
        return _short_exponential((u + lost) * temperature.double.reciprocal, _power_unless_tiny(shift))

    return (
        plainly
        if peak == types.float32
        else lambda peak, reference, temperature: _exactly_above(peak, reference, temperature)
    )


def below_peak(peak: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return exp((R - peak) / T), carried, for a finite peak that may have this reference."""
    raise NotImplementedError  # compiled code has the versions below


@overload(below_peak, strict=False, jit_options=STEP_OPTIONS)
def _below_peak(peak: Any, reference: Any, temperature: Any) -> Callable[..., Any]:
    def plainly(peak: Any, reference: Any, temperature: Any) -> Any:
        shift, u, lost = _reduced_peak(peak, reference, temperature)
        return _short_exponential((u + lost) * -temperature.double.reciprocal, _power_unless_tiny(-shift))

    return plainly if peak == types.float32 else _exactly_below


def below_own_peak(peak: Any, reference: Reference, temperature: Temperature) -> Any:
    """Return exp((R - peak) / T), carried, for a finite peak whose own reference this is."""
    raise NotImplementedError  # compiled code has the versions below


@overload(below_own_peak, strict=False, jit_options=STEP_OPTIONS)
def _below_own_peak(peak: Any, reference: Any, temperature: Any) -> Callable[..., Any]:
    def plainly(peak: Any, reference: Any, temperature: Any) -> Any:
        u, lost = _remainder(np.float64(peak) - np.float64(reference.base), reference.exponent, temperature)
        return _short_exponential((u + lost) * -temperature.double.reciprocal, 1.0)

    return plainly if peak == types.float32 else _exactly_below


def _exactly_below(peak: Any, reference: Any, temperature: Any) -> Any:
    return over(1.0, _exactly_above(peak, reference, temperature))


@inline
def _exactly_above(peak: float, reference: Reference, temperature: Temperature) -> Carried:
    """Return exp((peak - R) / T) as a number and what rounding lost of it."""
    shift, high, low = _reduced_peak(peak, reference, temperature)
    u, lost = over(Carried(*two_sum(high, low)), temperature.value)
    square, square_lost = two_product(u, u)
    tail = polynomial(_TAYLOR, u, square)
    # 1 + u + u**2 / 2 + tail, to some 60 bits
    value, error = two_sum(1.0, u)
    value, square_error = two_sum(value, 0.5 * square)
    value, lost = two_sum(value, error + square_error + 0.5 * square_lost + lost * (1.0 + u) + u * square * tail)
    power = _power_unless_tiny(shift)
    return Carried(value * power, lost * power)


@fused
def _reduced_peak(peak: Any, reference: Reference, temperature: Temperature) -> tuple[float, float, float]:
    """Return n - m and two terms of peak - base - n T ln 2; of peaks far below all powers of two, for one nearer."""
    scale = temperature.double
    x = np.float64(peak) - np.float64(reference.base)
    lowest = (reference.exponent - 2.0 * _LOWEST_SHIFT) * scale.high
    x = lowest if x < lowest else x  # n * high is exact
    n = np.rint(x * scale.log2_e)
    return n - reference.exponent, *_remainder(x, n, temperature)


@fused
def _remainder(x: float, n: float, temperature: Temperature) -> tuple[float, float]:
    """Return two terms of x - n T ln 2."""
    return x - n * temperature.double.high, -(n * temperature.double.low)


@inline
def _power_unless_tiny(shift: float) -> Any:
    """Return a power of two, or 0 where that is no normal number."""
    return power_of_two(shift + BIASED) if shift >= -_LOWEST_SHIFT else 0.0
