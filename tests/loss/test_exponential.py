"""The exponential by itself, against exact values over its whole range. The docstrings state the bounds that hold."""

import re
from itertools import product

import mpmath
import numba
import numpy as np
import pytest
from mpmath import mpf

from softmaxloss.kernels.numerics import exponential
from softmaxloss.kernels.numerics.double_double import high_of, low_of
from softmaxloss.kernels.numerics.exponential import (
    RISE,
    below_own_peak,
    below_peak,
    reference_of,
    scaled_exp,
    temperature_of,
)

SCALE = 64  # results come times 2**SCALE
LIMIT, LIMIT_WITH_TEMPERATURE = map(float, re.findall(r"([\d.]+) ulp", exponential.__doc__.splitlines()[0]))
DOUBLE_DOUBLE_BITS, SHORT_BITS = 56, 28  # as comments in exponential.py say
TEMPERATURES = (1.0, 0.7, 3.0, 1.8, 4.0 - 1e-4, 0.007024, 1e3, 1e-20, 1e20)
PEAKS = (0.0, -0.1, 1.3, 88.0, -700.0, 1e4, -1e6)  # in units of T; those from 512, or 2048, on are their own base
# exponents n of 2**n e**r from where exp is 0 to where a peak needs another reference
EXPONENTS = {np.float32: (-192, int(RISE)), np.float64: (-1088, int(RISE))}
over_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.njit
def exponentials_into(out, logits, peak, value):
    temperature = temperature_of(value)
    reference = reference_of(peak, temperature)
    for i in range(logits.size):
        out[i] = scaled_exp(logits[i] - reference.base, reference, temperature)
    return reference.base, reference.exponent


@numba.njit
def factors_into(out, peaks, top, value):
    temperature = temperature_of(value)
    reference = reference_of(top, temperature)
    for i in range(peaks.size):
        below = below_peak(peaks[i], reference, temperature)
        own = below_own_peak(peaks[i], reference_of(peaks[i], temperature), temperature)
        out[i, 0], out[i, 1] = high_of(below), low_of(below)
        out[i, 2], out[i, 3] = high_of(own), low_of(own)
    return reference.base, reference.exponent


@numba.njit
def own_references_into(out, peaks, value):
    for i in range(peaks.size):
        reference = reference_of(peaks[i], temperature_of(value))
        out[i, 0], out[i, 1] = reference.base, reference.exponent


def exponentials(logits, peak, temperature):
    """Return exponentials, and the base and the exponent m of their reference."""
    out = np.empty_like(logits)
    return out, *exponentials_into(out, logits, logits.dtype.type(peak), temperature)


def every(stride, low, high):
    """Return each of so many float32 between two positive numbers, and their negatives."""
    first, last = np.array([low, high], np.float32).view(np.uint32)
    numbers = np.arange(first, last, stride, dtype=np.uint32).view(np.float32)
    return np.concatenate([numbers, -numbers])


def worst_in_ulp(got, exact):
    """Return the largest error in units of the last place of exact values, given as float64 or long double."""
    info = np.finfo(got.dtype)
    binade = np.maximum(np.frexp(exact)[1] - 1, info.minexp)
    return float(np.max(np.abs(got.astype(exact.dtype) - exact) / np.exp2((binade - info.nmant).astype(exact.dtype))))


def exact_exp(z, base, m, temperature):
    with mpmath.workprec(160):
        return mpmath.exp((mpf(float(z)) - mpf(float(base))) / mpf(temperature)) * mpf(2) ** -int(m)


def test_every_float32_in_the_outer_half_of_the_reduced_interval_is_within_the_bound():
    r = every(1, 0.25, np.log(2) / 2)
    got, base, m = exponentials(r, 0.0, 1.0)
    assert (base, m) == (0, 0)
    assert worst_in_ulp(got, np.exp(r.astype(np.float64)) * 2.0**SCALE) <= LIMIT


def test_float32_of_all_sizes_are_within_the_bound():
    """From the smallest on, to each whose exponential is a normal number and to those that need another reference."""
    x = np.concatenate([every(211, 2.0**-126, 40.2), -every(23, 1.0, 131.0)])
    x = x[(x < RISE * np.log(2)) & (x > -131.0)]
    got, _, _ = exponentials(x, 0.0, 1.0)
    assert worst_in_ulp(got, np.exp(x.astype(np.float64)) * 2.0**SCALE) <= LIMIT


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this machine has no numbers of more than 53 bits")
def test_float64_all_over_the_reduced_interval_are_within_the_bound():
    half = np.log(2) / 2
    r = np.concatenate([np.linspace(-half, half, 1_000_003), np.random.default_rng(0).uniform(-half, half, 1_000_000)])
    got, _, _ = exponentials(r, 0.0, 1.0)
    assert worst_in_ulp(got, np.exp(r.astype(np.longdouble)) * np.longdouble(2) ** SCALE) <= LIMIT


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_float32_under_all_temperatures_and_references_are_within_the_bound(temperature):
    rng = np.random.default_rng(1)
    limit = LIMIT if temperature == 1.0 else LIMIT_WITH_TEMPERATURE
    for peak in PEAKS:
        n, r = rng.integers(*EXPONENTS[np.float32], 200_000), rng.uniform(-0.3466, 0.3466, 200_000)
        z = (temperature * (peak + n * np.log(2) + r)).astype(np.float32)
        got, base, m = exponentials(z, temperature * peak, temperature)
        exact = np.exp((z.astype(np.float64) - base) / temperature) * 2.0 ** (SCALE - m)
        small = exact < np.finfo(np.float32).smallest_normal
        assert worst_in_ulp(got[~small], exact[~small]) <= limit
        assert np.all((got[small] == 0) | (got[small] > 0.7 * np.finfo(np.float32).smallest_normal))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_float64_under_all_temperatures_and_references_are_within_the_bound(temperature):
    rng = np.random.default_rng(2)
    limit = LIMIT if temperature == 1.0 else LIMIT_WITH_TEMPERATURE
    for peak in PEAKS:
        n, r = rng.integers(*EXPONENTS[np.float64], 500), rng.uniform(-0.3466, 0.3466, 500)
        z = temperature * (peak + n * np.log(2) + r)
        got, base, m = exponentials(z, temperature * peak, temperature)
        for z_i, got_i in zip(z, got, strict=True):
            exact = exact_exp(z_i, base, m - SCALE, temperature)
            if exact < mpf(2) ** -1022:
                assert got_i == 0 or got_i > 0.7 * 2.0**-1022
            else:
                ulp = mpf(2) ** (mpmath.frexp(exact)[1] - 53)
                assert abs(mpf(float(got_i)) - exact) <= limit * ulp, (z_i, peak)


@over_dtypes
def test_far_below_the_peak_the_exponential_is_0(dtype):
    for temperature, peak in product((1.0, 0.7, 1e3), PEAKS):
        below = temperature * (peak - np.array([900.0, 1e5, 1e30, np.inf]))
        assert not exponentials(below.astype(dtype), temperature * peak, temperature)[0].any()


@over_dtypes
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_factors_between_a_peak_and_a_reference_have_the_bits_that_are_stated(dtype, temperature):
    rng = np.random.default_rng(3)
    limit = mpf(2) ** -(SHORT_BITS if dtype == np.float32 else DOUBLE_DOUBLE_BITS)
    for top in PEAKS:
        peaks = (temperature * (top + rng.uniform(-600.0, RISE * np.log(2), 100))).astype(dtype)
        out, own = np.empty((100, 4)), np.empty((100, 2))
        base, m = factors_into(out, peaks, dtype(temperature * top), temperature)
        own_references_into(own, peaks, temperature)
        for peak, (below, below_low, near, near_low), (own_base, own_m) in zip(peaks, out, own, strict=True):
            exact, exact_own = exact_exp(peak, base, m, temperature), exact_exp(peak, own_base, own_m, temperature)
            with mpmath.workprec(160):
                assert abs((mpf(below) + mpf(below_low)) * exact - 1) <= limit
                assert abs((mpf(near) + mpf(near_low)) * exact_own - 1) <= limit
