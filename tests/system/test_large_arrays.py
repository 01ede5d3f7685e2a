"""Arrays of more than 2**31 elements, which a 32-bit index does not reach.

They hold zeros but for a few logits, and memory of zeros is not occupied before it is written to.
"""

from pathlib import Path

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close

pytestmark = pytest.mark.thorough
GIB = 1 << 30


def available_memory():
    """Return how many bytes can be had without swapping, 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


@pytest.fixture(autouse=True)
def _enough_memory():
    available = available_memory()
    if available < 12 * GIB:
        pytest.skip(f"needs 12 GiB of memory, of which {available / GIB:.1f} GiB are known to be available")


def expected(values, n_classes):
    """Return the loss and the gradients of the classes that are not 0, of which the first is the label."""
    weights = np.exp(np.asarray(values, np.float64))
    total = weights.sum() + n_classes - len(values)
    p = weights / total
    return np.log(total) - values[0], p - [1, *[0] * (len(values) - 1)]


def test_rows_beyond_two_to_the_31_elements_of_half_precision_are_right_even_in_place():
    n_rows, n_classes = (1 << 19) + 8, 1 << 12
    logits = np.zeros((n_rows, n_classes), np.float16)
    assert logits.size > 2**31
    logits[-1, -1], logits[-1, 5] = 3, 8
    logits[-2, -1] = 10
    labels = np.full(n_rows, n_classes - 1)
    right = [expected(values, n_classes) for values in ([3, 8], [10], [0])]

    loss = sl.cross_entropy(logits, labels, reduction="none")
    assert_close(loss[[-1, -2, -3]], [row[0] for row in right], 1e-6)
    assert_close(loss[:-2], np.full(n_rows - 2, np.log(n_classes)), 1e-6)

    same_loss, out = sl.cross_entropy_and_grad(logits, labels, reduction="none", out=logits)
    assert out is logits
    np.testing.assert_array_equal(same_loss, loss)
    assert_close(logits[-1, [-1, 5]], right[0][1], 1e-3)
    assert_close(logits[-2, [-1]], right[1][1], 1e-3)
    for row in (0, n_rows // 2, n_rows - 3):
        assert_close(logits[row, :-1], np.full(n_classes - 1, 1 / n_classes), 1e-3)
        assert_close(logits[row, -1], 1 / n_classes - 1, 1e-3)


def test_rows_side_by_side_beyond_two_to_the_31_elements_are_right():
    """Single precision: the kernel itself goes over the whole array, no part of which is copied."""
    n_rows, n_classes = (1 << 21) + (1 << 16), 1 << 10
    logits = np.zeros((n_classes, n_rows), np.float32)
    assert (n_classes - 1) * n_rows > 2**31
    logits[-1, -1], logits[5, -1] = 3, 8
    logits[-1, 0] = 10
    labels = np.full(n_rows, n_classes - 1)
    loss = sl.cross_entropy(logits, labels, axis=0, reduction="none")
    right = [expected(values, n_classes)[0] for values in ([3, 8], [10])]
    assert_close(loss[[-1, 0]], right, 1e-6)
    assert_close(loss[1:-1], np.full(n_rows - 2, np.log(n_classes)), 1e-6)
