"""Memory that is used again: arrays that exist never share it, and calls cause no page faults."""

import gc
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import run
from softmaxloss.core.memory import CACHE_LINE, FEWEST_BYTES, MOST_BYTES, MOST_KEPT, reused_copy, reused_empty

DOUBLE = np.dtype(np.float64)
LARGE = FEWEST_BYTES // 8


def address(array):
    return array.__array_interface__["data"][0]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 5, LARGE // 2, LARGE, 3 * LARGE])), max_size=60))
@settings(deadline=None)
def test_arrays_that_exist_keep_their_numbers(steps):
    """Ten places hold an array or only a view of one. An array that shared memory would overwrite its numbers."""
    held = {}
    for number, (place, size) in enumerate(steps):
        held.pop(place, None)
        array = reused_empty((size, 2), DOUBLE)
        array[...] = number
        held[place] = number, (array[size // 2 :, 1] if number % 2 else array)
        for i, values in held.values():
            assert (values == i).all()


def test_memory_is_used_again_only_when_no_view_is_left():
    array = reused_empty((LARGE,), DOUBLE)
    place, view = address(array), array[5:].reshape(-1, 1).T
    assert place % CACHE_LINE == 0
    del array
    gc.collect()
    other = reused_empty((LARGE,), DOUBLE)
    assert not np.may_share_memory(view, other)
    del view
    assert address(reused_empty((LARGE,), DOUBLE)) == place


@pytest.mark.parametrize("size", [LARGE - 1, MOST_BYTES // 8 + 1])
def test_small_and_huge_arrays_own_their_memory(size):
    assert reused_empty((size,), DOUBLE).flags.owndata


def test_a_thread_keeps_a_few_arrays():
    known = []

    def allocate():
        arrays = [reused_empty((LARGE,), DOUBLE) for _ in range(3 * MOST_KEPT)]
        places = {address(array) for array in arrays}
        del arrays
        again = [reused_empty((LARGE,), DOUBLE) for _ in range(3 * MOST_KEPT)]
        known.append(sum(address(array) in places for array in again[:MOST_KEPT]))
        known.append(sum(np.may_share_memory(a, b) for a in again for b in here))

    here = [reused_empty((LARGE,), DOUBLE) for _ in range(MOST_KEPT)]
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert known == [MOST_KEPT, 0]


@given(st.integers(0, 3), st.integers(0, LARGE), st.sampled_from([np.int8, np.uint64, np.int64]))
@settings(deadline=None, max_examples=20)
def test_a_copy_is_flat_and_apart(rows, columns, dtype):
    array = np.arange(rows * columns).reshape(columns, rows).astype(dtype).T
    copy = reused_copy(array, DOUBLE)
    np.testing.assert_array_equal(copy, array.astype(float).ravel())
    assert not np.may_share_memory(copy, array)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how memory is given back depends on the C library")
@pytest.mark.parametrize("options", ["", "ignore_index=3", "class_weight=np.ones(10)", "sample_weight=weight"])
def test_calls_of_one_shape_cause_no_page_faults(options):
    """The C library is told to give back each array of 128 KiB as soon as it is freed."""
    script = f"""
        import ctypes, resource
        ctypes.CDLL(None).mallopt(-3, 1 << 17)
        logits, labels = rng.standard_normal((65536, 10), dtype=np.float32), rng.integers(0, 10, 65536)
        out, weight = np.empty_like(logits), np.full(65536, 0.5)
        for call in range(5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            sl.cross_entropy_and_grad(logits, labels, out=out, {options})
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    assert int(run(script, SOFTMAXLOSS_NUM_THREADS="1")) < 20
