"""Threads, forked and spawned processes, and shutdown: the same bits everywhere, and no hang."""

import multiprocessing
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from scripts import PREAMBLE, run
from softmaxloss.core.threads import _quota
from thorough import thorough


@pytest.fixture(scope="module")
def right_digest():
    return run("print(digest())", SOFTMAXLOSS_NUM_THREADS="1")


def test_every_number_of_threads_gives_the_same_bits(right_digest):
    script = """
        seen = set()
        for n in (1, 2, 3, 8, 1):
            sl.set_num_threads(n)
            assert sl.get_num_threads() == n
            seen.add(digest())
            seen.add(digest("mean"))
        print(*sorted(seen))
    """
    seen = run(script).split()
    assert len(seen) == 2
    assert right_digest in seen


def test_the_environment_sets_the_number_of_threads():
    assert run("print(sl.get_num_threads())", SOFTMAXLOSS_NUM_THREADS="3") == "3"


@pytest.mark.parametrize(
    ("quotas", "processors"),
    [({"": "max 100000"}, np.inf), ({"a": "150000 100000"}, 1.5), ({"a": "max 5", "": "2 4"}, 0.5)],
)
def test_the_quota_of_a_control_group_counts_and_those_of_the_groups_around_it(quotas, processors, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    for folder, quota in quotas.items():
        (tmp_path / folder / "cpu.max").write_text(f"{quota}\n")
    assert _quota(tmp_path, tmp_path / "own") == processors
    assert _quota(tmp_path / "none", tmp_path / "none") == np.inf


def test_a_wrong_number_of_threads_in_the_environment_is_named():
    with pytest.raises(AssertionError, match=r"ValueError.*SOFTMAXLOSS_NUM_THREADS.*'many'"):
        run("sl.get_num_threads()", SOFTMAXLOSS_NUM_THREADS="many")


def test_every_chunking_of_the_rows_gives_the_same_bits():
    script = """
        loss, d_logits = results()
        for size in (1, 7, 1000, 2999):
            for start in range(0, 3000 if size > 1 else 20, size):
                rows = slice(start, start + size)
                part_loss, part_d_logits = results(rows)
                assert part_loss.tobytes() == loss[rows].tobytes(), (size, start)
                assert part_d_logits.tobytes() == d_logits[rows].tobytes(), (size, start)
        print("same")
    """
    assert run(script) == "same"


def test_neighbour_rows_do_not_change_a_row():
    script = """
        loss, d_logits = results()
        untouched = np.arange(3000) % 3 == 0
        for value in (np.nan, np.inf, -np.inf, 3e38, 0.0):
            logits[~untouched] = value
            new_loss, new_d_logits = results()
            assert new_loss[untouched].tobytes() == loss[untouched].tobytes(), value
            assert new_d_logits[untouched].tobytes() == d_logits[untouched].tobytes(), value
        print("same")
    """
    assert run(script) == "same"


def test_sixteen_python_threads_at_once_agree_bit_for_bit(right_digest):
    script = """
        from concurrent.futures import ThreadPoolExecutor
        together = threading.Barrier(16)
        def work(_):
            together.wait()
            return {digest() for _ in range(3)}
        with ThreadPoolExecutor(16) as pool:
            print(*set().union(*pool.map(work, range(16))))
    """
    assert run(script) == right_digest


def test_sixteen_python_threads_that_call_all_functions_at_once_agree_bit_for_bit():
    """Each starts with another problem, and they load the kernels at the same time."""
    script = """
        from concurrent.futures import ThreadPoolExecutor
        from everything import everything, fingerprint, make_problem
        kinds = [(np.float32, -1), (np.float64, -1), (np.float32, 1), (np.float64, 1)]
        problems = [make_problem(*kind, batch=(2, 160)) for kind in kinds]
        together = threading.Barrier(16)
        def work(i):
            together.wait()
            return {n % 4: fingerprint(everything(problems[n % 4])) for n in (i, i + 1)}
        with ThreadPoolExecutor(16) as pool:
            at_once = list(pool.map(work, range(16)))
        alone = [fingerprint(everything(problem)) for problem in problems]
        print(all(seen[n] == alone[n] for seen in at_once for n in seen))
    """
    assert run(script) == "True"


def test_threads_may_change_the_number_of_threads_while_others_compute(right_digest):
    script = """
        seen, stop = set(), threading.Event()
        def work():
            while not stop.is_set():
                seen.add(digest())
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers: worker.start()
        for n in (1, 4, 2, 3) * 4:
            sl.set_num_threads(n)
            seen.add(digest())
        stop.set()
        for worker in workers: worker.join()
        print(*seen)
    """
    assert run(script) == right_digest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_after_the_parent_computed_gives_the_same_bits(right_digest):
    script = """
        print(digest(), flush=True)
        assert threading.active_count() > 1  # the parent has helpers, which the child will miss
        for _ in range(3):
            child = os.fork()
            if child == 0:
                print(digest(), flush=True)
                os._exit(threading.active_count() == 1)  # 0 if the child has made helpers of its own
            assert os.waitpid(child, 0)[1] == 0
        print(digest())
    """
    assert run(script).split() == [right_digest] * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_computes_does_not_hang(right_digest):
    script = """
        stop = threading.Event()
        def work():
            while not stop.is_set():
                digest()
        worker = threading.Thread(target=work)
        digest()
        worker.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                print(digest(), flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        worker.join()
    """
    assert run(script).split() == [right_digest] * 10


@pytest.mark.parametrize("method", ["fork", "spawn", thorough("forkserver")])
def test_worker_processes_give_the_same_bits(method, right_digest, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    script = f"""
        if __name__ == "__main__":
            digest()
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                print(*pool.map(digest, ["none"] * 4))
    """
    path = tmp_path / "script.py"
    path.write_text(PREAMBLE + textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [right_digest] * 4


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_workers_give_the_same_bits(backend):
    """In processes the arrays arrive as read-only maps of files that joblib has written."""
    script = f"""
        import joblib
        from everything import everything, fingerprint, make_problem
        def work(problem):
            return type(problem.logits).__name__, fingerprint(everything(problem))
        problems = [make_problem(np.float32, axis, batch=(2, 160)) for axis in (-1, 1)]
        right = [fingerprint(everything(problem)) for problem in problems]
        parallel = joblib.Parallel(2, backend="{backend}")
        kinds, got = zip(*parallel(joblib.delayed(work)(problem) for problem in problems * 3))
        print(list(got) == right * 3, *sorted(set(kinds)))
    """
    assert run(script) == ("True memmap" if backend == "loky" else "True ndarray")


def test_use_during_interpreter_shutdown_does_not_hang_or_crash(right_digest):
    script = """
        import atexit, time
        digest()
        atexit.register(lambda: print(digest(), flush=True))
        def late():
            time.sleep(0.2)  # by now the main thread has ended and waits for this one
            print(digest(), flush=True)
        threading.Thread(target=late).start()
    """
    assert run(script).split() == [right_digest] * 2


def test_a_daemon_thread_that_computes_at_exit_does_not_hang_or_crash():
    script = """
        import time
        digest()
        def forever():
            while True:
                digest()
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.3)
        print("end")
    """
    assert run(script) == "end"


def test_first_use_during_interpreter_shutdown_does_not_hang_or_crash(right_digest):
    script = """
        import atexit
        import scipy  # new versions cannot be imported so late, and Numba imports it
        atexit.register(lambda: print(digest(), flush=True))
    """
    assert run(script) == right_digest


def test_where_threads_cannot_be_started_results_are_whole(right_digest):
    script = """
        digest()
        sl.set_num_threads(8)
        started, start = [], threading.Thread.start
        def start_two(thread):
            started.append(thread)
            if len(started) > 2:
                raise RuntimeError("can't start new thread")
            start(thread)
        threading.Thread.start = start_two
        digests = {digest() for _ in range(20)}
        threading.Thread.start = start
        print(*digests)
    """
    assert run(script) == right_digest


def test_a_failure_in_a_helper_thread_reaches_the_caller():
    script = """
        from softmaxloss.core.threads import for_each
        def fail(item):
            if threading.current_thread() is not threading.main_thread() or item > 10:
                raise KeyError(item)
        try:
            for_each(fail, range(100))
        except KeyError:
            print("raised")
    """
    assert run(script) == "raised"
