"""BLAS on one thread, where more threads would make a fit slower.

NumPy and SciPy each have a BLAS of their own. After a product, its threads stay awake for a while. If products and our
kernels take turns, these threads occupy the cores that the next computation needs. On a machine where other programs
also needed the cores, a fit of 200,000 x 50 with 10 classes took 42 to 87 s with two BLAS threads, and 2 to 7 s with
one.
"""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import ThreadpoolController


class _OneBlasThread:
    """A context: BLAS has one thread as long as any thread of this process is inside it."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._controller: Any = None
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._controller = self._controller or ThreadpoolController()  # creating it takes some milliseconds
                self._limits = self._controller.limit(limits=1, user_api="blas")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limits.restore_original_limits()


one_blas_thread = _OneBlasThread()
