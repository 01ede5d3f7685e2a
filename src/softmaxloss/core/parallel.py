"""Work over threads.

Kernels are serial and run without the GIL, here in threads of our own. Which thread takes which rows is left to chance,
and no result depends on it. Numba's `prange` is not used: its layers die in a forked child or abort when two Python
threads call them at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
_NOTHING = object()


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
        self._helpers, self._asked = 0, SimpleQueue[Callable[[], None] | None]()

    def resize(self, threads: int) -> None:
        with self._lock:
            helpers, asked = self._helpers, self._asked
            self._helpers, self._asked, self._threads = 0, SimpleQueue(), threads
        for _ in range(helpers):
            asked.put(None)

    def start(self, work: Callable[[], None], helpers: int) -> None:
        """Ask so many helpers to run `work`; where no thread can be had, fewer do, or none, or they do later."""
        if self._helpers < helpers:
            with self._lock, contextlib.suppress(RuntimeError):
                while self._helpers < helpers:
                    threading.Thread(target=_help, args=(self._asked,), name="softmaxloss", daemon=True).start()
                    self._helpers += 1
        for _ in range(min(helpers, self._helpers)):
            self._asked.put(work)


def _help(asked: SimpleQueue[Callable[[], None] | None]) -> None:
    """Do what is asked for; nothing of it is kept alive while waiting for more."""
    while work := asked.get():
        work()
        del work


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


def ask_helpers(work: Callable[[], None], n: int) -> None:
    """Have work() called in up to n other threads; how many do, and when, is left open."""
    _pool.start(work, n)


def for_each(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call work(item) for all items, in any order and thread."""
    if len(items) == 1:
        work(items[0])
        return
    todo = iter(items)
    changed = threading.Condition()
    helping = 0
    failures: list[BaseException] = []

    def take() -> None:
        while True:
            with changed:
                item = next(todo, _NOTHING)
            if item is _NOTHING:
                return
            work(item)  # type: ignore[arg-type]

    def help_out() -> None:
        nonlocal helping
        with changed:
            helping += 1
        try:
            take()
        except BaseException as failure:  # noqa: BLE001 - raised again in the calling thread
            failures.append(failure)
        with changed:
            helping -= 1
            changed.notify_all()

    helpers = min(_pool.threads, len(items)) - 1
    if helpers > 0:
        _pool.start(help_out, helpers)
    try:
        take()
    finally:
        with changed:
            list(todo)  # if this thread failed, nobody shall begin another item; who comes late finds none
            changed.wait_for(lambda: helping == 0)
    if failures:
        raise failures[0]
