"""Threads that compute together.

Kernels are serial. They run without the GIL, in threads of our own. Which thread takes which rows varies, but no result
depends on it. Numba's `prange` is not used: of its threading layers, one dies in a forked child, and another aborts the
process when two Python threads call it at once.

The file has over 300 lines, because helpers must also survive forks, failures, Ctrl-C and the end of the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import checks
from softmaxloss.core.dtypes import INTEGER
from softmaxloss.core.float_environment import float_environment, take_over
from softmaxloss.core.hosts import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from softmaxloss.core.hosts import Host

T = TypeVar("T")
R = TypeVar("R")
Counter = NDArray[np.int64]  # its only entry counts the rows that threads have taken
_NOTHING = object()
_SECONDS_OF_SLEEP = 1e-4
_busy = threading.local()  # `here` is True in threads that take part in shared work


class _Pool:
    """The helper threads. They start when first needed, and start again in a forked child."""

    def __init__(self) -> None:
        self._threads: int | None = None
        self.forget()

    @property
    def threads(self) -> int:
        if self._threads is None:
            self._threads = _default_threads()
        return self._threads

    def forget(self) -> None:
        """Forget the helpers: in a forked child they do not exist."""
        self._lock = threading.Lock()
        self._helpers: list[_Helper] = []
        self._asked = SimpleQueue[_Job | None]()

    def resize(self, threads: int) -> None:
        with self._lock:
            helpers, asked = self._helpers, self._asked
            self._helpers, self._asked, self._threads = [], SimpleQueue(), threads
        for _ in helpers:
            asked.put(None)

    def start(self, job: _Job, helpers: int) -> None:
        """Ask this many helpers to join. Fewer or none join if no thread can be started or if all are busy."""
        if sys.is_finalizing():
            return  # a thread started now would never begin
        with self._lock:
            with contextlib.suppress(RuntimeError):
                while len(self._helpers) < helpers:
                    helper = _Helper(self._asked)
                    helper.start()
                    self._helpers.append(helper)
            here = _processor()
            for helper in self._helpers:
                if helper.processor == here >= 0:
                    helper.leave(here)
            waiting = self._waiting()
            waiting += [job] * (min(helpers, len(self._helpers)) - len(waiting))
            for each in waiting:
                self._asked.put(each)

    def _waiting(self) -> list[_Job]:
        """Empty the queue, and return the jobs in it that are still open. No helper has taken them yet."""
        jobs = []
        with contextlib.suppress(Empty):
            while True:
                jobs.append(self._asked.get_nowait())
        return [job for job in jobs if job and job.is_open()]


class _Helper(threading.Thread):
    """A thread that joins one job after the other."""

    def __init__(self, asked: SimpleQueue[_Job | None]) -> None:
        super().__init__(name="softmaxloss", daemon=True)
        self._asked = asked
        self.processor = -1  # the processor that it last ran on
        self._allowed: set[int] = set()  # the processors that it might run on when it began

    def run(self) -> None:
        _busy.here = True
        if hasattr(os, "sched_getaffinity"):
            self._allowed = os.sched_getaffinity(0)
        while job := self._asked.get():
            job.join()
            del job
            self.processor = _processor()

    def leave(self, processor: int) -> None:
        """Run on other processors than this one, where the calling thread runs, if there are others.

        Linux often wakes a helper on the processor of the calling thread, although another processor is idle. The two
        threads would then take turns for many calls.
        """
        others = self._allowed - {processor}
        if others and self.native_id and self.is_alive():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self.native_id, others)


def _find_processor() -> Callable[[], int]:
    """Return a function that returns the number of the processor it runs on, or -1 if the system does not tell."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(AttributeError, OSError):
            return ctypes.CDLL(None).sched_getcpu
    return lambda: -1


_processor = _find_processor()


class _Job:
    """Work that helpers may join until the job is closed. A closed job refers to no array any more."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.failures: list[BaseException] = []
        self._work: Callable[[], None] | None = work
        self._lock = threading.Lock()
        self._joined, self._left = 0, np.zeros(1, np.int64)

    def is_open(self) -> bool:
        return self._work is not None

    def join(self) -> None:
        with self._lock:
            if (work := self._work) is None:
                return  # too late
            self._joined += 1
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - raised again in the calling thread
            self.failures.append(failure)
        del work
        _progress().leave(self._left)

    def close(self) -> None:
        """Let no other helper join, and return when all have left.

        For a while the calling thread waits awake, without the GIL. If it slept, Linux would wake it on the processor
        of the helper that it waits for. The two would then share this processor for many calls, although another one
        is idle.
        """
        with self._lock:
            self._work = None
        while self._joined > 0 and not _progress().reaches(self._left, self._joined):
            time.sleep(_SECONDS_OF_SLEEP)


def _progress() -> ModuleType:
    """Return the kernels by which threads wait for each other, imported late: `set_num_threads` does not need them."""
    from softmaxloss.kernels.machine import shares  # noqa: PLC0415

    return shares


def _default_threads() -> int:
    wish = os.environ.get("SOFTMAXLOSS_NUM_THREADS", "").strip()
    if not wish:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, math.ceil(min(processors, _quota())))
    if not wish.isdecimal() or int(wish) < 1:
        message = f"the environment variable SOFTMAXLOSS_NUM_THREADS must be a positive integer, got {wish!r}"
        raise ValueError(f"{message}; unset it to use all processors")
    return int(wish)


def _quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many processors Linux lets the control groups (version 2) of this process use, as in a container."""
    quotas = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        group = groups / own.read_text().rpartition("0::/")[2].strip()
        for folder in (group, *group.parents):
            if folder.is_relative_to(groups) and (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
                quotas.append(math.inf if quota == "max" else int(quota) / int(period))
    return min(quotas)


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def set_num_threads(n: int) -> None:
    """Set the number of threads that compute, the calling thread included; results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. The start value is that of the environment variable SOFTMAXLOSS_NUM_THREADS. If it is not set, the
        start value is the number of processors that this process may use. Its affinity limits this number; in a
        container, its control group (version 2) limits it too.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.

    Examples
    --------
    >>> import softmaxloss
    >>> before = softmaxloss.get_num_threads()
    >>> softmaxloss.set_num_threads(1)
    >>> softmaxloss.get_num_threads()
    1
    >>> softmaxloss.set_num_threads(before)
    """
    _pool.resize(checks.count("n", n))


def get_num_threads() -> int:
    """Return the number of threads that compute, the calling thread included."""
    return _pool.threads


def none_taken() -> Counter:
    """Return a counter that kernels take rows from."""
    return np.zeros(1, INTEGER)


def call_every_kernel_of_threads() -> None:
    """Call the kernels by which threads wait for each other. Shared work calls them only if a helper starts in time."""
    left = none_taken()
    _progress().leave(left)
    _progress().reaches(left, 1)


def share(work: Callable[[], None], most: int, begun: Counter | None = None) -> None:
    """Call work() in this thread and in helpers, in `most` threads at most, and return when all calls have returned.

    Helpers take over the floating-point environment of this thread. So results do not depend on who computes what.

    If `begun`, an array of one number, is given, helpers wait until work() in this thread has made this number
    positive. They go away if that takes long. So kernels are compiled in this thread, where Ctrl-C can interrupt: it
    could not interrupt a helper. If `share` is called within shared work, no helper is asked.
    """
    if most == 1 or getattr(_busy, "here", False):
        work()
        return
    lender = host()
    lent = 0 if lender is None else lender.threads()
    if lent > most:
        lent = 0  # with a smaller team OpenMP would end its other threads, and start new ones later
    threads = min(lent or _pool.threads, most)
    if threads <= 1:
        work()
        return

    environment = float_environment()

    def help_out() -> None:
        if begun is None or _progress().reaches(begun, 1):
            take_over(environment)
            work()

    if lender is not None and lent:
        _share_with(lender, work, help_out)
        return
    job, _busy.here = _Job(help_out), True
    try:
        _pool.start(job, threads - 1)
        work()
    finally:
        _busy.here = False
        job.close()
    if job.failures:
        raise job.failures[0]


def _share_with(lender: Host, work: Callable[[], None], help_out: Callable[[], None]) -> None:
    """Call work() in this thread, and help_out() in the other threads that the library lends."""
    caller, failures, done = threading.get_ident(), [], []

    def take_part() -> None:
        here = threading.get_ident() == caller
        before, environment = getattr(_busy, "here", False), float_environment()
        _busy.here = True
        try:
            (work if here else help_out)()
        except BaseException as failure:  # noqa: BLE001 - raised again in the calling thread
            failures.append(failure)
        finally:
            _busy.here = before
            take_over(environment)
        done.append(here)

    lender.run(take_part)
    if failures:
        try:
            raise failures[0]
        finally:
            failures.clear()  # else the failure and this frame would keep each other alive
    if True not in done:  # interrupted before it began: the library swallowed the exception
        raise KeyboardInterrupt


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within a with statement this thread asks no helper, for example because the caller keeps all processors busy."""
    before, _busy.here = getattr(_busy, "here", False), True
    try:
        yield
    finally:
        _busy.here = before


def for_each(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call work(item) for all items, in any order and thread; after a failure no thread takes another item."""
    todo, lock = iter(items), threading.Lock()

    def take() -> None:
        try:
            while True:
                with lock:
                    item = next(todo, _NOTHING)
                if item is _NOTHING:
                    return
                work(item)  # type: ignore[arg-type]
        except BaseException:
            with lock:
                list(todo)
            raise

    share(take, len(items))


def results_of_each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return work(item) for all items, in their order; threads call it as in `for_each`."""
    results: dict[int, R] = {}

    def keep(i: int) -> None:
        results[i] = work(items[i])

    for_each(keep, range(len(items)))
    return [results[i] for i in range(len(items))]
