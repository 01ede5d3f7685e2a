"""How kernels are compiled and where the machine code is kept."""

import contextlib
import hashlib
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

Compiled = Callable[..., Any]
# Kernels neither allocate nor own arrays. With Numba's reference counting each slice would cost two atomic operations
# on a counter that all threads share: 190 of 335 ns for a row of ten classes, on one thread.
# And where fastmath is not refused, a step gets that of the kernel whose compilation first called for it.
# Division by 0 gives inf or NaN, as in NumPy; a test for it would keep loops with divisions from becoming vector code.
_OPTIONS = {"nogil": True, "_nrt": False, "fastmath": False, "error_model": "numpy", "no_cfunc_wrapper": True}


class _TakenIn(JITCodeLibrary):  # type: ignore[misc]
    """The code of a step, for kernels to take in.

    It is optimised there. If it were before, too, and made into machine code, a cold start would take a third longer.
    """

    def _optimize_final_module(self) -> None:
        """Leave it to kernels."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return that there is no machine code."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Return what Numba's `get_executable` calls set_env of, to put an environment into machine code."""
        return self

    def set_env(self, name: str, environment: object) -> None:
        """Leave it: there is no machine code."""


class _Step(Compiler):  # type: ignore[misc]
    """Numba's compiler of steps."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        """Compile a function."""
        self.state.library = _TakenIn(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function)


# Steps must be taken in. Left as functions of their own they are compiled once alone and once in each kernel, and
# which of these copies runs, each with its own last bits, would depend on what is loaded from the disk.
STEP_OPTIONS = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "pipeline_class": _Step}

if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for that thread's lock for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class _SeparateArrays(_Step):
    """The same, told that no array which a step writes to overlaps another of its arguments.

    Without that each loop is compiled twice, with vectors for arrays that a test at run time finds to be apart, and not
    at all with vectors where this would take more than a few such tests.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.state.flags.noalias = True


def inline(function: Callable[..., Any]) -> Compiled:
    """Compile a step of a kernel; the kernels that call it take it in. What it writes to overlaps nothing else."""
    return numba.njit(**STEP_OPTIONS | {"pipeline_class": _SeparateArrays})(function)


def fused(function: Callable[..., Any]) -> Compiled:
    """Compile such a step in which a * b + c is rounded once where the processor can."""
    return numba.njit(**STEP_OPTIONS | {"fastmath": {"contract"}, "pipeline_class": _SeparateArrays})(function)


def kernel(function: Callable[..., Any]) -> Compiled:
    """Compile an entry point. It runs without the GIL; its machine code is kept on disk where that is possible."""
    compiled = numba.njit(**_OPTIONS)(function)
    # RuntimeError: no folder can be written; AttributeError: a Numba whose cache has other parts. Both cost a
    # compilation per process and nothing else.
    with contextlib.suppress(RuntimeError, AttributeError):
        compiled._cache = _KernelCache(function)  # noqa: SLF001
    return compiled


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's disk cache with files of our own, silent where the disk refuses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(Path(self._cache_path), self._impl.filename_base)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Load machine code; Numba would get ready to compile first, which takes a third of a second."""
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, context)

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with contextlib.suppress(OSError):
            yield


_CHECKSUM_BYTES = 32


class _Files:
    """One file per compiled signature, named by a digest of all that its content depends on.

    Numba's own index of numbered files mixes up two processes that write at the same time, and is stamped by the one
    source file of the entry point, which takes in steps from all the others.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def _path(self, key: object) -> Path:
        digest = hashlib.sha256(
            repr((numba.__version__, numba.config.BOUNDSCHECK, _source_stamp(), key)).encode()
        ).hexdigest()
        return self.folder / f"{self.name}.{digest[:32]}.nbc"

    def load(self, key: object) -> Any:
        """Return what was saved, or None where nothing was or the file is damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        checksum, pickled = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(pickled).digest() != checksum:
            return None
        return pickle.loads(pickled)  # noqa: S301 - as safe as the .pyc files beside it

    def save(self, key: object, data: Any) -> None:
        """Save the machine code; the file appears whole or not at all."""
        path = self._path(key)
        partial = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            pickled = dumps(data)
            partial.write_bytes(hashlib.sha256(pickled).digest() + pickled)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@cache
def _source_stamp() -> str:
    """Return a digest of all sources that are compiled: the kernels, and what they take in from beside them."""
    kernels = Path(__file__).parent
    sources = [*sorted(kernels.glob("*.py")), *sorted(kernels.parent.glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
