"""The parts of Numba that its manual does not promise, and what each of them buys.

Another version of Numba may lack one of these parts or may have changed it. This file then does without that part:
results stay right, and a start or a kernel gets slower, as the comment at the part says.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numba


class _Absent:
    """Stands for a part that this Numba lacks: whatever uses it fails, and is then left out."""


def _part(module: str, name: str) -> Any:
    """Return a part of Numba, or `_Absent`."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return _Absent


def _that_numba_takes(**options: Any) -> dict[str, Any]:
    """Return those options of decorators that this Numba takes; it would refuse the others when it compiles."""
    flags, target = _part("numba.core.compiler", "Flags"), _part("numba.core.cpu", "CPUTargetOptions")
    taken = {}
    for name, value in options.items():
        with suppress(Exception):
            target.parse_as_flags(flags(), {name: value})
            taken[name] = value
    return taken


KERNEL_OPTIONS = _that_numba_takes(
    # Kernels neither allocate nor own arrays, so they need no reference counting. With it each slice costs two atomic
    # operations on a counter that all threads share: 190 of 335 ns for a row of ten classes, on one thread.
    _nrt=False,
    # No C code calls kernels; without the wrapper for it there is less to compile.
    no_cfunc_wrapper=True,
)
STEP_OPTIONS = KERNEL_OPTIONS | _that_numba_takes(
    # Kernels must take steps in. LLVM would leave some as functions, compiled once alone and once in each kernel, and
    # which of these copies runs, each with its own last bits, would depend on what is loaded from the disk.
    forceinline=True,
    # Python code calls no step; without the wrapper for it there is less to compile.
    no_cpython_wrapper=True,
)


class _TakenIn(_part("numba.core.codegen", "JITCodeLibrary")):  # type: ignore[misc]
    """The code of a step, for kernels to take in.

    LLVM optimises it as a part of each kernel. If Numba optimised it before, too, and made it into machine code, a cold
    start would take a third longer.
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


_Compiler = _part("numba.core.compiler", "Compiler")


class _IntoKernels(_Compiler):  # type: ignore[misc, valid-type]
    """Numba's compiler, which makes code for kernels to take in and no other."""

    def compile_extra(self, function: Callable[..., Any], *more: Any, **options: Any) -> Any:
        """Compile a function."""
        self.state.library = _TakenIn(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function, *more, **options)


@cache
def compiles_into_kernels() -> bool:
    """Return whether a small kernel gives the right number with steps that were compiled into it alone.

    The first step that a process compiles asks for this, which takes 0.1 s. Kernels from the disk need no answer.
    """
    with suppress(Exception):
        step = numba.njit(**STEP_OPTIONS | {"pipeline_class": _IntoKernels})
        double = step(lambda numbers, i: 2.0 * numbers[i])
        total = step(lambda numbers: double(numbers, 0) + double(numbers, 1))
        kernel = numba.njit(**KERNEL_OPTIONS)(lambda numbers: total(numbers) + 1.0)
        return bool(kernel((1.0, 2.0)) == 7.0)
    return False


class _Step(_IntoKernels):
    """Numba's compiler of steps."""

    def compile_extra(self, *arguments: Any, **options: Any) -> Any:
        """Compile a function, into machine code of its own if this Numba cannot do otherwise."""
        compiler = _IntoKernels if compiles_into_kernels() else _Compiler
        return compiler.compile_extra(self, *arguments, **options)


class _SeparateArrays(_Step):
    """The same, told that no array which a step writes to overlaps another of its arguments.

    Without that each loop is compiled twice, with vectors for arrays that a test at run time finds to be apart, and not
    at all with vectors where this would take more than a few such tests.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with suppress(Exception):
            self.state.flags.noalias = True


if _Compiler is not _Absent:
    STEP_OPTIONS |= {"pipeline_class": _Step}
SEPARATE_ARRAYS = STEP_OPTIONS | ({} if _Compiler is _Absent else {"pipeline_class": _SeparateArrays})


class _KernelCache(_part("numba.core.caching", "FunctionCache")):  # type: ignore[misc]
    """Numba's disk cache with files of our own, silent where the disk or this Numba refuses.

    A later start then takes 0.5 s, and not the 10 s of compilation. Numba's own cache (`cache=True`) is no substitute:
    it would not notice that a step in another file has changed.
    """

    def __init__(self, function: Callable[..., Any], files: Callable[[Path, str], Any]) -> None:
        super().__init__(function)
        del self._cache_file  # fails, as it should, where files of Numba's own would be used under another name
        self._cache_file: Any = files(Path(self._cache_path), self._impl.filename_base)

    def load_overload(self, *arguments: Any) -> Any:
        """Load machine code; Numba would get ready to compile first, which takes a third of a second."""
        with suppress(Exception):
            return self._load_overload(*arguments)
        return None

    def save_overload(self, *arguments: Any) -> None:
        """Save machine code."""
        with suppress(Exception):
            self._save_overload(*arguments)


def keep_on_disk(compiled: Any, files: Callable[[Path, str], Any]) -> None:
    """Keep the machine code of a compiled function in files, which are made given a folder and a name.

    Without a folder that can be written, or with a Numba whose cache has other parts, each process compiles anew.
    """
    with suppress(Exception):
        compiled._cache = _KernelCache(compiled.py_func, files)  # noqa: SLF001


def pickled(machine_code: Any) -> bytes:
    """Return machine code as the bytes that a file keeps. It holds functions, which only Numba's own pickle knows."""
    return bytes(numba.core.serialize.dumps(machine_code))


def _wait_for_the_compiler_before_a_fork() -> None:
    """Fork only while nobody compiles: a child would wait for ever for the lock of a thread which it lacks."""
    lock = _part("numba.core.compiler_lock", "global_compiler_lock")
    with suppress(AttributeError):  # a system without fork, or another lock
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


_wait_for_the_compiler_before_a_fork()
