"""log(1 + x) by itself, against exact values over its whole range. The docstring states the bits that hold."""

import re

import mpmath
import numba
import numpy as np
import pytest
from mpmath import mpf

from softmaxloss.kernels.numerics.double_double import high_of, low_of
from softmaxloss.kernels.numerics.logarithm import log_one_plus

TOP, BITS, SHORT_BITS = map(int, re.search(
    r"x <= 2\*\*(\d+), to (\d+) bits in double precision and (\d+) in single", log_one_plus.__doc__
).groups())  # fmt: skip
over_kinds = pytest.mark.parametrize(
    ("like", "bits"), [(np.float32(0), SHORT_BITS), (0.0, BITS)], ids=["single", "double"]
)


@numba.njit
def logarithms_into(out, x, like):
    for i in range(x.size):
        logarithm = log_one_plus(x[i], like)
        out[i, 0], out[i, 1] = high_of(logarithm), low_of(logarithm)


def logarithms(x, like):
    """Return the high and low parts of logarithms."""
    out = np.empty((x.size, 2))
    logarithms_into(out, x, like)
    return out


@over_kinds
@pytest.mark.parametrize(("low", "high"), [(-1022, -60), (-60, -8), (-8, 4), (4, 60), (60, TOP)])
def test_logarithms_of_all_sizes_have_the_bits_that_are_stated(like, bits, low, high):
    x = np.exp2(np.random.default_rng(0).uniform(low, high, 4000))
    with mpmath.workprec(160):
        for x_i, (value, rest) in zip(x, logarithms(x, like), strict=True):
            assert abs((mpf(value) + mpf(rest)) / mpmath.log1p(mpf(x_i)) - 1) <= mpf(2) ** -bits, x_i


@over_kinds
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this machine has no numbers of more than 53 bits")
def test_logarithms_around_the_edge_of_the_reduced_interval_have_the_bits_that_are_stated(like, bits):
    """There, at 1 + x = sqrt(2), the error of the series is largest."""
    x = np.random.default_rng(1).uniform(0.35, 0.45, 1_000_000)
    out, exact = logarithms(x, like).astype(np.longdouble), np.log1p(x.astype(np.longdouble))
    assert np.max(np.abs((out[:, 0] - exact + out[:, 1]) / exact)) <= 2.0**-bits


@over_kinds
def test_the_ends_of_the_range_have_the_bits_that_are_stated(like, bits):
    assert not logarithms(np.array([0.0]), like).any()
    for x in (2.0**TOP, 1.0, 2.0**-1022, np.sqrt(2) - 1, np.nextafter(np.sqrt(2) - 1, 0)):
        ((value, low),) = logarithms(np.array([x]), like)
        with mpmath.workprec(160):
            assert abs((mpf(value) + mpf(low)) / mpmath.log1p(mpf(float(x))) - 1) <= mpf(2) ** -bits, x
