"""Threads that share work: failures, what is kept alive, what they may not see, and the end of the interpreter."""

import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

import softmaxloss as sl
from softmaxloss import reference
from softmaxloss.core import threads


@pytest.fixture(autouse=True)
def two_threads():
    before = sl.get_num_threads()
    sl.set_num_threads(2)
    yield
    sl.set_num_threads(before)


def in_two_threads(of_caller, of_helper):
    """Share work that is one function in this thread, and another in the helper, which is inside before that begins."""
    caller, joined = threading.current_thread(), threading.Event()

    def work():
        if threading.current_thread() is caller:
            assert joined.wait(60)
            of_caller()
        else:
            joined.set()
            of_helper()

    threads.share(work, 2)


@pytest.mark.parametrize("at_start", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_helpers_replace_subnormal_numbers_by_0_if_the_caller_does(at_start, later):
    torch = pytest.importorskip("torch")
    numbers = {}

    def divide(who):
        numbers[who] = float((np.array([1e-300]) / 1e20)[0])

    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("PyTorch cannot change this here")
        torch.set_flush_denormal(at_start)
        sl.set_num_threads(1)
        sl.set_num_threads(2)
        in_two_threads(lambda: None, lambda: None)  # a new helper starts
        torch.set_flush_denormal(later)
        in_two_threads(lambda: divide("caller"), lambda: divide("helper"))
    finally:
        torch.set_flush_denormal(False)
    assert numbers == dict.fromkeys(["caller", "helper"], 0.0 if later else 1e-320)


def fail():
    raise ZeroDivisionError


def test_a_failure_in_a_helper_is_raised_in_the_caller_and_the_helper_goes_on_helping():
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            in_two_threads(lambda: None, fail)


def test_a_failure_of_the_caller_is_raised_when_the_helper_has_left():
    left = []

    def slowly():
        time.sleep(0.2)
        left.append(True)

    with pytest.raises(ZeroDivisionError):
        in_two_threads(fail, slowly)
    assert left == [True]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not let threads choose processors")
def test_a_helper_leaves_the_processor_of_the_caller_unless_it_is_the_only_one(monkeypatch):
    processors = os.sched_getaffinity(0)
    here = min(processors)
    monkeypatch.setattr(threads, "_processor", lambda: here)
    for allowed in ({here}, processors):
        sl.set_num_threads(2)  # with a new helper, which may run where this thread may
        os.sched_setaffinity(0, allowed)
        try:
            in_two_threads(lambda: None, lambda: None)
            (helper,) = threads._pool._helpers
            while helper.processor != here:  # it says so some time after a job
                time.sleep(0.001)
            in_two_threads(lambda: None, lambda: None)
        finally:
            os.sched_setaffinity(0, processors)
        assert os.sched_getaffinity(helper.native_id) == (allowed - {here} or allowed)


def test_after_a_failure_no_further_item_is_begun():
    begun = []

    def work(item):
        begun.append(item)
        fail()

    with pytest.raises(ZeroDivisionError):
        threads.for_each(work, range(100))
    assert len(begun) <= 2


def test_work_inside_shared_work_asks_nobody_else():
    sl.set_num_threads(3)

    def work():
        seen = set()
        threads.for_each(lambda _: (time.sleep(0.01), seen.add(threading.current_thread())), range(20))
        assert seen == {threading.current_thread()}

    in_two_threads(lambda: None, lambda: None)  # loads what a helper needs to leave
    in_two_threads(work, lambda: None)
    in_two_threads(lambda: None, work)
    sl.hessian_diagonal(np.random.default_rng(0).normal(size=(3000, 300)), np.zeros(3000, int))
    assert threads._pool._asked.qsize() <= 1


def test_a_job_that_is_closed_is_neither_begun_nor_kept_alive():
    begun = []

    def work():
        begun.append(True)

    alive, job = weakref.ref(work), threads._Job(work)
    job.close()
    del work
    assert alive() is None
    job.join()
    assert begun == []


def test_a_job_that_was_closed_before_a_helper_came_keeps_no_helper_from_the_next_job():
    pool = threads._Pool()
    pool._helpers = [threads._Helper(pool._asked)]  # it does not run
    late, open_one, another = (threads._Job(lambda: None) for _ in range(3))
    pool.start(late, 1)
    late.close()
    pool.start(open_one, 1)
    pool.start(another, 1)  # the only helper is asked already
    assert pool._asked.get_nowait() is open_one
    assert pool._asked.empty()


def test_nothing_is_kept_alive_when_a_call_has_returned():
    x, t = np.random.default_rng(0).normal(size=(600, 1000)), np.zeros(600, int)
    for n_rows in (599, 600) * 50:
        sl.cross_entropy(x, t[: len(x)])
        x.resize((n_rows, 1000))  # refused while anything else refers to x


def test_labels_that_lie_where_the_gradient_goes_are_read_before_that():
    n_rows, n_classes = 300, 20
    memory = np.zeros(n_rows * n_classes)
    labels = memory.view(np.int64)[1000 : 1000 + n_rows]
    labels[:] = np.arange(n_rows) % n_classes
    logits, right = np.random.default_rng(0).normal(size=(n_rows, n_classes)), labels.copy()
    loss, gradient = sl.cross_entropy_and_grad(logits, labels, out=memory.reshape(n_rows, n_classes))
    right_loss, right_gradient = reference.cross_entropy_and_grad(logits, right)
    assert loss == pytest.approx(right_loss, rel=1e-14)
    np.testing.assert_allclose(gradient, right_gradient, atol=1e-17, rtol=1e-12)


class Parameter:
    """A number that can be changed."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)


@pytest.mark.parametrize("make", [Parameter, np.array], ids=["object", "array"])
def test_an_option_that_was_changed_counts_as_it_is_now(make):
    temperature, logits = make(1.0), [[0.3, 2.9, 4.0]]
    assert sl.cross_entropy(logits, [2], temperature=temperature) == sl.cross_entropy(logits, [2])
    if make is Parameter:
        temperature.value = 3.0
    else:
        temperature[()] = 3.0
    assert sl.cross_entropy(logits, [2], temperature=temperature) == sl.cross_entropy(logits, [2], temperature=3.0)


@pytest.mark.parametrize("n_classes", [7, 200, 2051])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_is_found_wherever_it_stands(dtype, n_classes):
    logits = np.random.default_rng(0).normal(size=(n_classes, n_classes)).astype(dtype)
    logits[np.arange(n_classes), np.arange(n_classes)] = np.nan
    assert np.isnan(sl.logsumexp(logits)).all()
    loss, gradient = sl.cross_entropy_and_grad(logits, np.zeros(n_classes, int), reduction="none")
    assert np.isnan(loss).all()
    assert np.isnan(gradient).all()


def test_the_first_threads_may_be_asked_for_while_the_interpreter_ends():
    script = """
        import sys
        import numpy as np
        import softmaxloss as sl

        x, t = np.zeros((2000, 300)), np.zeros(2000, int)
        sl.set_num_threads(1)
        sl.cross_entropy_and_grad(x, t)
        sl.set_num_threads(2)

        class Late:
            call = staticmethod(sl.cross_entropy_and_grad)

            def __del__(self, x=x, t=t):
                print(round(self.call(x, t)[0], 6))

        sys.modules["late"] = Late()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("5.703782\n", 0), done.stderr
