"""Memory that is used again: arrays that exist never share it, and repeated calls cause hardly any page faults."""

import gc
import platform
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import softmaxloss as sl
from scripts import run
from softmaxloss.core import memory
from softmaxloss.core.memory import (
    CACHE_LINE,
    FEWEST_BYTES,
    MOST_BYTES,
    MOST_KEPT_BYTES,
    reused_copy,
    reused_empty,
)

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


def test_a_thread_keeps_a_limited_number_of_bytes():
    place, number = [], MOST_KEPT_BYTES // MOST_BYTES

    def allocate():
        tracemalloc.start()
        arrays = [reused_empty((MOST_BYTES // 8,), DOUBLE) for _ in range(3 * number)]
        places = {address(array) for array in arrays}
        del arrays
        place.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        again = [reused_empty((MOST_BYTES // 8,), DOUBLE) for _ in range(number - 1)]
        place.append(all(address(array) in places for array in again))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert place[0] < MOST_KEPT_BYTES + FEWEST_BYTES
    assert place[1]


def test_a_call_inside_a_call_gets_other_memory():
    """As a signal handler would, another call begins where memory has been found but not yet been taken."""
    inner = []

    class Interrupting(list):
        def __delitem__(self, i):
            if not inner:
                inner.append(None)
                inner.append(reused_empty((LARGE,), DOUBLE))
            super().__delitem__(i)

    reused_empty((LARGE,), DOUBLE)
    memory._thread.kept = Interrupting(memory._thread.kept)
    outer = reused_empty((LARGE,), DOUBLE)
    assert not np.may_share_memory(outer, inner[1])


@given(st.integers(0, 3), st.integers(0, LARGE), st.sampled_from([np.int8, np.uint64, np.float64]))
@settings(deadline=None, max_examples=20)
def test_a_copy_is_flat_and_apart(rows, columns, dtype):
    array = np.arange(rows * columns).reshape(columns, rows).astype(dtype).T
    copy = reused_copy(array, DOUBLE)
    np.testing.assert_array_equal(copy, array.astype(float).ravel())
    assert not np.may_share_memory(copy, array)


def test_labels_and_weights_of_the_caller_stay_as_they_are():
    labels, weight = np.arange(LARGE) % 3, np.ones(LARGE)
    sl.cross_entropy(np.zeros((LARGE, 3)), labels, sample_weight=weight, ignore_index=2)
    np.testing.assert_array_equal(labels, np.arange(LARGE) % 3)
    assert (weight == 1).all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how memory is given back depends on the C library")
@pytest.mark.parametrize(
    ("n_classes", "options"),
    [
        (10, ""),
        (10, "ignore_index=3"),
        (10, "sample_weight=weight, class_weight=np.ones(10)"),
        (10, "class_weight=np.ones(10), label_smoothing=0.1"),
        (100, "targets=soft"),
        (200, "targets=soft"),
    ],
)
def test_calls_of_one_shape_cause_hardly_any_page_faults(n_classes, options):
    """The script makes the C library give back arrays of 128 KiB or more as soon as they are freed."""
    script = f"""
        import ctypes, resource
        ctypes.CDLL(None).mallopt(-3, 1 << 17)
        logits, labels = rng.standard_normal((32768, {n_classes})), rng.integers(0, {n_classes}, 32768)
        out, weight, soft = np.empty_like(logits), np.full(32768, 0.5), np.full(logits.shape, 1 / {n_classes})
        options = {{"targets": labels}} | dict({options})
        for call in range(5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            sl.cross_entropy_and_grad(logits, out=out, **options)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    assert int(run(script, SOFTMAXLOSS_NUM_THREADS="1")) < 20
