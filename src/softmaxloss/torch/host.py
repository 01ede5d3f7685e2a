"""PyTorch as the host of our computations: kernels run on its threads, and it computes matrix products.

After an operation PyTorch's OpenMP threads stay awake for a while. Threads of ours would have to share the processors
with them, and a loss of 1024 x 1000 would take twice as long. So kernels run on PyTorch's threads if these are threads
of GNU's OpenMP, as in the wheels for Linux. Elsewhere kernels run on threads of ours. So do losses with fewer pieces of
work than PyTorch has threads: OpenMP would end the threads that take no part, and PyTorch's next operation would have
to start new ones.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _PyTorch:
    def __init__(self) -> None:
        self._parallel = _openmp()

    def threads(self) -> int:
        """Return how many threads it lends, as set by `torch.set_num_threads`; 0 if it cannot lend any."""
        # while the interpreter ends, other threads cannot take the GIL, and the team would wait for them forever
        return torch.get_num_threads() if self._parallel and not sys.is_finalizing() else 0

    def run(self, work: Callable[[], None]) -> None:
        """Call work() once in each of the threads that it lends."""
        parallel: Any = self._parallel
        parallel(_CALLBACK(lambda _: work()), None, torch.get_num_threads(), 0)

    def multiply(self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], *, add: bool) -> None:
        """Write a @ b to `out`, or add it to `out`."""
        left, right, result = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(out)
        with torch.no_grad():
            torch.addmm(result, left, right, beta=float(add), out=result)


def _openmp() -> Callable[..., None] | None:
    """Return the function that starts a team of PyTorch's threads; None if they are not those of GNU's OpenMP."""
    try:  # also finds the name in libraries that libtorch_cpu.so needs
        parallel = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return parallel


HOST = _PyTorch()
