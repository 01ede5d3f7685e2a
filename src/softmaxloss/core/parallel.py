"""Blocks of rows over threads.

Kernels are serial and run without the GIL; here fixed blocks of rows are handed to a pool of our own threads. Which
thread takes which block is left to chance, and no result depends on it. Numba's `prange` is not used: its layers die
in a forked child or abort when two Python threads call them at once.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

# A block is some 50 to 100 microseconds of kernel time, ten times the cost of handing it to a thread. A row costs what
# its elements do and, besides, what another 256 would.
BLOCK_ELEMENTS = 1 << 18
ROW_ELEMENTS = 256


class _Pool:
    """The helper threads beside the calling one; made at first use, made anew in a forked child."""

    def __init__(self) -> None:
        self.threads = _default_threads()
        self.forget()

    def forget(self) -> None:
        """Drop the helpers without waiting for them: in a forked child they do not exist."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def resize(self, threads: int) -> None:
        with self._lock:
            old, self._executor, self.threads = self._executor, None, threads
        if old is not None:
            old.shutdown(wait=False)

    def start(self, work: Callable[[], None], helpers: int) -> list[Future[None]]:
        """Run `work` in that many helpers, or in none while the interpreter shuts down."""
        with self._lock:
            try:
                if self._executor is None:
                    # loaded here, as during shutdown it refuses even to load
                    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

                    self._executor = ThreadPoolExecutor(max(self.threads - 1, 1), thread_name_prefix="softmaxloss")
                return [self._executor.submit(work) for _ in range(helpers)]
            except RuntimeError:
                return []


def _default_threads() -> int:
    wish = os.environ.get("SOFTMAXLOSS_NUM_THREADS", "")
    if not wish:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not wish.isdecimal() or int(wish) < 1:
        message = f"the environment variable SOFTMAXLOSS_NUM_THREADS must be a positive integer, got {wish!r}"
        raise ValueError(message)
    return int(wish)


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def set_num_threads(n: int) -> None:
    """Set the number of threads that compute, the calling one included; results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. The start value is that of the environment variable SOFTMAXLOSS_NUM_THREADS, or the number of
        processors that this process may use.

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


def map_row_blocks(work: Callable[..., None], *arrays: NDArray[Any]) -> None:
    """Call work(rows, *blocks) for blocks that together cover the rows of 2-d arrays, in any order and thread.

    `rows` is the slice; the blocks are those rows of the arrays as kernels take them: read-only, contiguous, native.
    """
    n_rows, n_classes = arrays[0].shape
    size = max(1, BLOCK_ELEMENTS // (n_classes + ROW_ELEMENTS))
    starts = iter(range(0, n_rows, size))
    # `next` on a shared range iterator is atomic under the GIL; the lock keeps it so without one.
    lock = threading.Lock()

    def take() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            rows = slice(start, min(start + size, n_rows))
            work(rows, *(readable(array[rows]) for array in arrays))

    helpers = min(_pool.threads, -(-n_rows // size)) - 1
    started = _pool.start(take, helpers) if helpers > 0 else []
    try:
        take()
    finally:
        with lock:
            list(starts)  # all taken, unless this thread failed: then nobody shall begin another one
        for future in started:
            if not future.cancel():
                future.result()


def readable(block: NDArray[Any]) -> NDArray[Any]:
    """Return the block in the one layout that kernels are compiled for; only what has another layout is copied."""
    dtype = block.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize not in {4, 8}:
        dtype = np.dtype(np.float64)
    view = np.require(block, dtype, ["C_CONTIGUOUS", "ALIGNED"]).view()
    view.flags.writeable = False
    return view
