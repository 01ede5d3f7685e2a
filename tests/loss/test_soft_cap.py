"""The kernels of the soft cap, against arithmetic of 60 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from softmaxloss.kernels import soft_cap

SMALLEST = np.finfo(float).tiny
logits = st.floats(-1e300, 1e300, allow_subnormal=False) | st.floats(-1e4, 1e4, allow_subnormal=False)
caps = st.floats(1e-3, 1e6)


def capped(x, cap):
    """Return the capped logits, as the kernel computes them."""
    x = np.atleast_1d(x)
    x.setflags(write=False)
    out = np.empty(x.size)
    soft_cap.cap(x, cap, out)
    return out


def slope_at(x, cap):
    """Return the slope of the cap, as the kernel multiplies a gradient of ones by it."""
    x = np.atleast_1d(x)
    x.setflags(write=False)
    gradient = np.ones(x.size)
    soft_cap.multiply_by_slope(x, cap, gradient)
    return gradient


@given(x=logits, cap=caps)
def test_capped_logits_keep_all_digits(x, cap):
    assume(x == 0 or abs(x) / cap >= SMALLEST)  # a smaller quotient has fewer digits
    with mpmath.workdps(60):
        right = mpmath.mpf(cap) * mpmath.tanh(mpmath.mpf(x) / mpmath.mpf(cap))
        (got,) = capped(x, cap)
        assert abs(mpmath.mpf(float(got)) - right) <= 4 * np.spacing(abs(float(right)))
    assert abs(got) <= cap
    assert capped(-x, cap) == -got


@given(x=logits, cap=caps)
def test_the_slope_keeps_its_digits_where_it_is_small(x, cap):
    """The quotient x / cap is rounded: that alone is an error of 2 |x| / cap units of rounding."""
    with mpmath.workdps(60):
        right = 1 / mpmath.cosh(mpmath.mpf(x) / mpmath.mpf(cap)) ** 2
        (got,) = slope_at(x, cap)
        error = abs(mpmath.mpf(float(got)) - right)
        assert error <= right * 2**-52 * (3 + 2 * abs(x) / cap) or right < 4 * SMALLEST


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
