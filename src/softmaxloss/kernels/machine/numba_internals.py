"""The parts of Numba that its manual does not promise, and the gain from each.

Another version of Numba may lack one of these parts or may have changed it. This file then does without that part:
results stay right, and a start or a kernel gets slower, as the comment at the part says.
"""

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

from softmaxloss.kernels.machine import processor


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
    # LLVM must inline every step. Otherwise it leaves some as functions, compiled once alone and once in each kernel.
    # These copies differ in the last bits, and which one runs would depend on what is loaded from the disk.
    forceinline=True,
    # Python code calls no step; without the wrapper for it there is less to compile.
    no_cpython_wrapper=True,
)


class _TakenIn(_part("numba.core.codegen", "JITCodeLibrary")):  # type: ignore[misc]
    """The code of a step, for kernels to inline.

    LLVM optimises it as a part of each kernel. If Numba also optimised it alone and made machine code of it, a cold
    start would take a third longer.
    """

    def _optimize_final_module(self) -> None:
        """Do nothing: LLVM optimises the step inside each kernel."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0, as there is no machine code."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Return this object, so that Numba's `get_executable` calls the `set_env` below."""
        return self

    def set_env(self, name: str, environment: object) -> None:
        """Do nothing: there is no machine code to put an environment into."""


_Compiler = _part("numba.core.compiler", "Compiler")


class _IntoKernels(_Compiler):  # type: ignore[misc, valid-type]
    """Numba's compiler, changed to make only code that kernels inline."""

    def compile_extra(self, function: Callable[..., Any], *more: Any, **options: Any) -> Any:
        """Compile a function."""
        self.state.library = _TakenIn(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function, *more, **options)


@cache
def compiles_into_kernels() -> bool:
    """Return whether a small kernel gives the right number if its steps exist only as inlined code.

    A process tests this for 0.1 s when it compiles its first step. Kernels that are loaded from the disk need no test.
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
    """The same, told that the arrays that a step writes to overlap none of its other arguments.

    Untold, LLVM compiles each loop twice, and tests at run time choose the vector code if the arrays do not overlap.
    Where this would take more than a few tests, LLVM makes no vector code at all.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with suppress(Exception):
            self.state.flags.noalias = True


if _Compiler is not _Absent:
    STEP_OPTIONS |= {"pipeline_class": _Step}
SEPARATE_ARRAYS = STEP_OPTIONS | ({} if _Compiler is _Absent else {"pipeline_class": _SeparateArrays})


class _KernelCode(_part("numba.core.codegen", "JITCodeLibrary")):  # type: ignore[misc]
    """The code of a kernel, for the level of processors that is `LEVEL`."""

    level: str | None = None
    _final_module: Any

    def _optimize_final_module(self) -> None:
        if processor.LEVEL is not None:
            with suppress(Exception):
                attributes = processor.ATTRIBUTES[processor.LEVEL]
                text = re.sub(r"^(define .*) {$", rf"\1 {attributes} {{", str(self._final_module), flags=re.MULTILINE)
                module = llvm.parse_assembly(text)
                module.name = self._final_module.name
                self._final_module, self.level = module, processor.LEVEL
        super()._optimize_final_module()

    def serialize_using_object_code(self) -> Any:
        """Return the machine code, without the long code from which LLVM could inline a kernel, but for its names."""
        name, kind, (machine_code, _) = super().serialize_using_object_code()
        values = [*self._final_module.functions, *self._final_module.global_variables]
        names = "".join(f'@"{value.name}" = global i8 0\n' for value in values if not value.is_declaration)
        return name, kind, (machine_code, llvm.parse_assembly(names).as_bitcode())


class _Kernel(_Compiler):  # type: ignore[misc, valid-type]
    """Numba's compiler of kernels."""

    def compile_extra(self, *arguments: Any, **options: Any) -> Any:
        """Compile a function."""
        with suppress(Exception):
            library = _KernelCode(self.state.targetctx.codegen(), "kernel")
            library.enable_object_caching()
            self.state.library = library
        return super().compile_extra(*arguments, **options)


if _Compiler is not _Absent:
    KERNEL_OPTIONS |= {"pipeline_class": _Kernel}


_compilation = _part("numba.core.event", "trigger_event")  # what listeners to Numba's compiler hear


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage: to look for it among the many objects of a compilation takes a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _PackageFolder(_part("numba.core.caching", "InTreeCacheLocator")):  # type: ignore[misc]
    """The `__pycache__` beside a kernel, which this process may only read."""

    @classmethod
    def from_function(cls, *arguments: Any) -> Any:
        """Return the folder without a test that it can be written."""
        return cls(*arguments)


class _Folder(_part("numba.core.caching", "CompileResultCacheImpl")):  # type: ignore[misc]
    """Numba's choice of a folder to write. Where it finds none, machine code is still read, above all that of a wheel.

    Without this, a process in a read-only container would compile for 10 seconds what the wheel holds.
    """

    @property
    def _locator_classes(self) -> list[Any]:
        return [*super()._locator_classes, _PackageFolder]


class _KernelCache(_part("numba.core.caching", "FunctionCache")):  # type: ignore[misc]
    """Numba's disk cache with files of our own. It only reads where no folder can be written.

    A later start then takes 0.5 s instead of 10 s of compilation. Numba's own cache (`cache=True`) is no substitute:
    it would not notice that a step in another file has changed.
    """

    _impl_class = _Folder

    def __init__(self, compiled: Any, files: Callable[[Path, str], Any]) -> None:
        super().__init__(compiled.py_func)
        del self._cache_file  # fails, as it should, if this Numba has its files under another name
        self._cache_file: Any = files(Path(self._cache_path), self._impl.filename_base)
        self._compile = compiled._compiler.compile  # noqa: SLF001

    def _index_key(self, *arguments: Any) -> Any:
        """Return what machine code depends on: the processor's level, where there is one, in the place of its name."""
        signature, machine, code = super()._index_key(*arguments)
        return signature, processor.LEVEL or machine, code

    def load_overload(self, *arguments: Any) -> Any:
        """Load machine code without Numba's preparations to compile, which take a third of a second.

        Where there is none, compile and save it. Processes that ask for the same code at the same time compile it once.
        """
        with suppress(Exception):
            signature, target = arguments
            if loaded := self._load_overload(signature, target):
                return loaded
            with self._cache_file.alone(self._index_key(signature, target.codegen())):
                if loaded := self._load_overload(signature, target):
                    return loaded
                event = _compilation("numba:compile", {"args": signature, "return_type": None})
                with event, _no_garbage_collection():
                    compiled = self._compile(signature, None)
                self.save_overload(signature, compiled)
                return compiled
        return None

    def save_overload(self, *arguments: Any) -> None:
        """Save machine code, if it is that of the level."""
        with suppress(Exception):
            signature, compiled = arguments
            if compiled.library.level == processor.LEVEL:
                self._save_overload(signature, compiled)


def keep_on_disk(compiled: Any, files: Callable[[Path, str], Any]) -> None:
    """Keep the machine code of a compiled function in files(folder, name).

    If the cache of this Numba has other parts, each process compiles anew.
    """
    with suppress(Exception):
        compiled._cache = _KernelCache(compiled, files)  # noqa: SLF001


def pickled(machine_code: Any) -> bytes:
    """Return machine code as bytes for a file. It holds functions, which only Numba's own pickle can write."""
    return bytes(numba.core.serialize.dumps(machine_code))


def _wait_for_the_compiler_before_a_fork() -> None:
    """Fork only while no thread compiles: else a child could wait for ever for a lock whose thread it lacks."""
    lock = _part("numba.core.compiler_lock", "global_compiler_lock")
    with suppress(AttributeError):  # a system without fork, or another lock
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


_wait_for_the_compiler_before_a_fork()
