"""What it means that two results agree."""

import numpy as np


def assert_same_bits(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if got.tobytes() != want.tobytes():
        np.testing.assert_array_equal(got, want)  # says where
        raise AssertionError("equal, but a zero has another sign or a NaN another payload")


def assert_close(got, want, precision):
    """Compare up to `precision` relative to the largest finite number in `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    scale = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=0, atol=precision * scale)
