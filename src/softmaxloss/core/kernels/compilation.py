"""How kernels are compiled and where the machine code is kept."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

Compiled = Callable[..., Any]


def inline(function: Callable[..., Any]) -> Compiled:
    """Compile a step of a kernel; the kernels that call it take it in."""
    return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


def reduction(function: Callable[..., Any]) -> Compiled:
    """Compile a loop whose sum may be taken in any order: in vector lanes. The order is fixed once compiled."""
    return numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})(function)  # type: ignore[no-any-return]


def kernel(function: Callable[..., Any]) -> Compiled:
    """Compile an entry point. It runs without the GIL; its machine code is kept on disk where that is possible."""
    compiled = numba.njit(nogil=True)(function)
    # RuntimeError: no folder can be written, which costs a compilation per process and nothing else
    with contextlib.suppress(RuntimeError):
        compiled._cache = _KernelCache(function)  # noqa: SLF001
    return compiled  # type: ignore[no-any-return]


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's disk cache, made stale by a change in any kernel file and silent where the disk refuses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Numba's own stamp covers one file, but an entry point contains steps from all of them.
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=_source_stamp()
        )

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with contextlib.suppress(OSError):
            yield


@cache
def _source_stamp() -> str:
    """Return a digest of everything that is compiled: the kernels and the mathematics that they take in."""
    kernels = Path(__file__).parent
    sources = [*sorted(kernels.glob("*.py")), kernels.parent / "summary.py", kernels.parent / "rows.py"]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
