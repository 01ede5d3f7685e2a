"""Work over threads.

Kernels are serial and run without the GIL, here in threads of our own. Which thread takes which rows is left to chance,
and no result depends on it. Numba's `prange` is not used: its layers die in a forked child or abort when two Python
threads call them at once.
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
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

T = TypeVar("T")
_NOTHING = object()
_SECONDS_OF_SLEEP = 1e-4
_busy = threading.local()  # `here` is True in threads that take part in shared work


class _Pool:
    """The helper threads beside the calling one; made when first asked for, made anew in a forked child."""

    def __init__(self) -> None:
        self._threads: int | None = None
        self.forget()

    @property
    def threads(self) -> int:
        if self._threads is None:
            self._threads = _default_threads()
        return self._threads

    def forget(self) -> None:
        """Drop the helpers without a word: in a forked child they do not exist."""
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
        """Ask so many helpers to join; where no thread can be had, or while all are busy, fewer do, or none."""
        if sys.is_finalizing():
            return  # a thread started now would never begin
        with self._lock:
            with contextlib.suppress(RuntimeError):
                while len(self._helpers) < helpers:
                    helper = _Helper(self._asked)
                    threading.Thread(target=helper.serve, name="softmaxloss", daemon=True).start()
                    self._helpers.append(helper)
            here = _processor()
            for helper in self._helpers:
                helper.make_way(here)
            for _ in range(min(helpers, len(self._helpers)) - self._asked.qsize()):
                self._asked.put(job)


class _Helper:
    """What a thread does that joins one job after the other, and where."""

    def __init__(self, asked: SimpleQueue[_Job | None]) -> None:
        self._asked = asked
        self._thread = 0
        self._processor = -1  # where it last was
        self._allowed: set[int] = set()  # where it may be, while it is told to go elsewhere

    def serve(self) -> None:
        _busy.here, self._thread = True, threading.get_native_id()
        while job := self._asked.get():
            if self._allowed:
                with contextlib.suppress(OSError):  # they may have been taken away since
                    os.sched_setaffinity(0, self._allowed)
                self._allowed = set()
            job.join()
            del job
            self._processor = _processor()

    def make_way(self, processor: int) -> None:
        """Have it wake up elsewhere if it last was on this processor, that of the thread which asks for help.

        Linux often wakes it there beside an idle one, and the two then share it for many calls.
        """
        if self._processor == processor >= 0 and not self._allowed:
            with contextlib.suppress(OSError):
                allowed = os.sched_getaffinity(self._thread)
                if len(allowed) > 1:
                    os.sched_setaffinity(self._thread, allowed - {processor})
                    self._allowed = allowed


def _find_processor() -> Callable[[], int]:
    """Return a function that returns the number of the processor it runs on, or -1 where that is not to be had."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(AttributeError, OSError):
            return ctypes.CDLL(None).sched_getcpu
    return lambda: -1


_processor = _find_processor()


class _Job:
    """Work that helpers may join until it is closed; nothing of it is kept alive after that."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.failures: list[BaseException] = []
        self._work: Callable[[], None] | None = work
        self._lock = threading.Lock()
        self._joined, self._left = 0, np.zeros(1, np.int64)

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
        """Let nobody else join, and return when all have left.

        For a while this thread stays awake, and does not wait for the GIL. One that sleeps is woken up on the processor
        of the thread that it waits for, and the two then share it for many calls, beside an idle one.
        """
        with self._lock:
            self._work = None
        if self._joined > 0:
            wait_until(self._left, self._joined)


def wait_until(counter: NDArray[np.int64], n: int) -> None:
    """Return when other threads have brought a counter to n."""
    while not _progress().reaches(counter, n):
        time.sleep(_SECONDS_OF_SLEEP)


def _progress() -> ModuleType:
    """Return a module that is loaded when needed: the number of threads can be had without Numba."""
    from softmaxloss.core.kernels import progress  # noqa: PLC0415

    return progress


def _default_threads() -> int:
    wish = os.environ.get("SOFTMAXLOSS_NUM_THREADS", "").strip()
    if not wish:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, math.ceil(min(processors, _quota())))
    if not wish.isdecimal() or int(wish) < 1:
        message = f"the environment variable SOFTMAXLOSS_NUM_THREADS must be a positive integer, got {wish!r}"
        raise ValueError(message)
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
    """Set the number of threads that compute, the calling one included; results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. The start value is that of the environment variable SOFTMAXLOSS_NUM_THREADS, or the number of
        processors that this process may use: by its affinity, and in a container by its control group (of version 2).

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
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _pool.resize(int(n))


def get_num_threads() -> int:
    """Return the number of threads that compute, the calling one included."""
    return _pool.threads


def share(work: Callable[[], None], most: int, begun: NDArray[np.int64] | None = None) -> None:
    """Call work() in this thread and in helpers, at most so many in all, and return when all have left it.

    Where `begun` is given, helpers wait until work in this thread has made its only entry positive, and go away if that
    takes long: what is to be compiled first is compiled here, as a helper could not be interrupted. Within shared work
    nothing is shared once more.
    """
    threads = 1 if most == 1 or getattr(_busy, "here", False) else min(_pool.threads, most)
    if threads <= 1:
        work()
        return

    def help_out() -> None:
        if begun is None or _progress().reaches(begun, 1):
            work()

    job, _busy.here = _Job(help_out), True
    try:
        _pool.start(job, threads - 1)
        work()
    finally:
        _busy.here = False
        job.close()
    if job.failures:
        raise job.failures[0]


def for_each(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call work(item) for all items, in any order and thread; after a failure no further ones."""
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
