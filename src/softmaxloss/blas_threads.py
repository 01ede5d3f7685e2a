"""BLAS on one thread, where its threads cost more than they save.

NumPy and SciPy each bring a BLAS of their own. The threads of each spin for a while after a product. If products and
our kernels take turns, these threads keep the cores from whoever comes next. Where other programs need the cores as
well, a fit of 200,000 x 50 with 10 classes took 42 to 87 s with two BLAS threads, and 2 to 7 s with one.
"""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import ThreadpoolController


class _OneBlasThread:
    """BLAS on one thread for as long as any thread of this process is inside."""

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
