"""The kernels of the soft cap, against arithmetic of 60 digits."""

from functools import partial

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softmaxloss.core.dtypes import as_bits
from softmaxloss.kernels import soft_cap

SMALLEST = np.finfo(float).tiny
logits = st.floats(-1e300, 1e300, allow_subnormal=False) | st.floats(-1e4, 1e4, allow_subnormal=False)
caps = st.floats(1e-3, 1e6)
same_each_time = settings(deadline=None, derandomize=True, database=None)  # the first call compiles


def ones_after(kernel, x, cap):
    """Return what a kernel makes of ones: the capped logits, or the slope of the cap."""
    x, out = np.atleast_1d(x), np.ones(np.size(x))
    x.setflags(write=False)
    kernel(x, cap, out)
    return out


capped, slope_at = partial(ones_after, soft_cap.cap), partial(ones_after, soft_cap.multiply_by_slope)


@same_each_time
@given(x=logits, cap=caps)
def test_capped_logits_are_within_4_ulp_also_near_0(x, cap):
    assume(x == 0 or abs(x) / cap >= SMALLEST)  # a smaller quotient has fewer digits
    with mpmath.workdps(60):
        right = mpmath.mpf(cap) * mpmath.tanh(mpmath.mpf(x) / mpmath.mpf(cap))
        (got,) = capped(x, cap)
        assert abs(mpmath.mpf(float(got)) - right) <= 4 * np.spacing(abs(float(right)))
    assert abs(got) <= cap
    assert capped(-x, cap) == -got


@same_each_time
@given(x=logits, cap=caps)
def test_the_slope_keeps_its_digits_where_it_is_small(x, cap):
    """The rounding error of x / cap would be magnified by 2 |x| / cap, so the kernel corrects it."""
    with mpmath.workdps(60):
        right = 1 / mpmath.cosh(mpmath.mpf(x) / mpmath.mpf(cap)) ** 2
        (got,) = slope_at(x, cap)
        error = abs(mpmath.mpf(float(got)) - right)
        assert error <= right * 2**-52 * 4 + 4 * SMALLEST


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_float32_and_half_precision_are_capped_like_float64(stored):
    x = (100 * np.random.default_rng(0).standard_normal(1000)).astype(stored)
    np.testing.assert_allclose(capped(as_bits(x), 30.0), capped(x.astype(float), 30.0), rtol=1e-15)
    np.testing.assert_allclose(slope_at(as_bits(x), 30.0), slope_at(x.astype(float), 30.0), rtol=1e-14)


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_infinite_logits_become_the_cap_and_nan_stays_nan(cap):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0])
    np.testing.assert_array_equal(capped(x, cap), [cap, -cap, np.nan, 0.0, -0.0])
    np.testing.assert_array_equal(np.signbit(capped(x, cap))[3:], [False, True])
    np.testing.assert_array_equal(slope_at(x, cap), [0.0, 0.0, np.nan, 1.0, 1.0])


def test_a_gradient_of_0_stays_0_beside_nan():
    gradient, x = np.array([0.0, 2.0]), np.array([np.nan, 0.0])
    x.setflags(write=False)
    soft_cap.multiply_by_slope(x, 30.0, gradient)
    np.testing.assert_array_equal(gradient, [0.0, 2.0])
