"""How kernels are compiled and where the machine code is kept."""

import contextlib
import hashlib
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import numba
import numba.extending

from softmaxloss.kernels.machine import numba_internals

Compiled = Callable[..., Any]
# A step without a fastmath setting would take over that of the first kernel compiled with it.
# Division by 0 gives inf or NaN, as in NumPy; a test for it would keep loops with divisions from becoming vector code.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": False, "error_model": "numpy"}
KERNEL_OPTIONS = _OPTIONS | numba_internals.KERNEL_OPTIONS
STEP_OPTIONS = _OPTIONS | numba_internals.STEP_OPTIONS
_SEPARATE_ARRAYS = _OPTIONS | numba_internals.SEPARATE_ARRAYS


KERNELS: list[Compiled] = []  # all entry points of the modules that are loaded


def inline(function: Callable[..., Any]) -> Compiled:
    """Compile a step, which kernels that call it inline. The arrays that it writes to overlap none of the others."""
    return numba.njit(**_SEPARATE_ARRAYS)(function)


def fused(function: Callable[..., Any]) -> Compiled:
    """Compile a step like `inline`, with a * b + c rounded only once where the processor can."""
    return numba.njit(**_SEPARATE_ARRAYS | {"fastmath": {"contract"}})(function)


def by_type(choose: Callable[..., Any] | None = None, *, jit_options: Mapping[str, Any] = STEP_OPTIONS) -> Any:
    """Make a step whose code depends on the types of its arguments.

    The decorated function takes the Numba types of the arguments and returns the Python function to compile for them.
    Only compiled code can call that function, by the name of the decorated one.
    """
    if choose is None:
        return partial(by_type, jit_options=jit_options)

    @wraps(choose)
    def only_compiled(*arguments: Any) -> Any:
        raise NotImplementedError(f"{only_compiled.__qualname__} can only be called by compiled code")

    numba.extending.overload(only_compiled, jit_options=jit_options, strict=False)(choose)
    return only_compiled


def kernel(function: Callable[..., Any]) -> Compiled:
    """Compile an entry point. It runs without the GIL; its machine code is kept on disk where that is possible."""
    compiled = numba.njit(**KERNEL_OPTIONS)(function)
    numba_internals.keep_on_disk(compiled, partial(_Files, Path(function.__code__.co_filename).parent))
    KERNELS.append(compiled)
    return compiled


# A wheel brings machine code along; a source tree has none.
SHIPPED = Path(__file__).parents[1] / "machine_code"
_CHECKSUM_BYTES = 32
# the settings of Numba, from environment variables, that change machine code
_SETTINGS = "BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT"
_SECONDS_UNTIL_NOTICE, _SECONDS_UNTIL_OUTDATED = 2.0, 30 * 24 * 3600.0
_DIGEST = 24 * "[0-9a-f]"  # the pattern of one digest in the name of a file


class _Files:
    """One file per compiled signature. Its name has digests of all that its content depends on.

    Numba's own index of numbered files mixes up two processes that write at the same time. It also sees changes of the
    entry point's source file alone, not of the files whose steps the entry point inlines.
    """

    def __init__(self, sources: Path, folder: Path, name: str) -> None:
        self.sources, self.folder, self.name = sources, folder, name

    def _file(self, key: object) -> str:
        settings = [getattr(numba.config, name, None) for name in _SETTINGS]
        made_with = sys.platform, sys.version_info[:2], numba.__version__, settings
        digest = hashlib.sha256(repr((made_with, key)).encode()).hexdigest()
        return f"{self.name}.{digest[:24]}{self._ending()}"

    def _ending(self) -> str:
        return f".{_source_stamp(self.sources)[:24]}.nbc"

    def _remove_outdated(self) -> None:
        """Remove old machine code of other sources. As long as it is not old, somebody may go back to its source."""
        for file in self.folder.glob(f"*.{_DIGEST}.{_DIGEST}.nbc"):
            if not file.name.endswith(self._ending()) and file.stat().st_mtime < time.time() - _SECONDS_UNTIL_OUTDATED:
                file.unlink(missing_ok=True)

    def load(self, key: object) -> Any:
        """Return the shipped or saved machine code, or None if there is none or the file is damaged."""
        file = self._file(key)
        for folder in (SHIPPED, self.folder):
            with contextlib.suppress(OSError):
                content = (folder / file).read_bytes()
                checksum, pickled = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
                if hashlib.sha256(pickled).digest() == checksum:
                    return pickle.loads(pickled)  # noqa: S301 - as safe as the .pyc files beside it
        return None

    def save(self, key: object, data: Any) -> None:
        """Save the machine code; the file appears whole or not at all."""
        path = self.folder / self._file(key)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            pickled = numba_internals.pickled(data)
            unfinished.write_bytes(hashlib.sha256(pickled).digest() + pickled)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._remove_outdated()

    @contextlib.contextmanager
    def alone(self, key: object) -> Iterator[None]:
        """Compile within this: no other process compiles the same then. In a terminal, a note says what takes long."""
        notice = threading.Timer(_SECONDS_UNTIL_NOTICE, _notice)
        notice.daemon = True
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, ImportError):  # a folder that nobody can write, or Windows
                import fcntl  # noqa: PLC0415

                self.folder.mkdir(parents=True, exist_ok=True)
                path = (self.folder / self._file(key)).with_suffix(".lock")
                lock = stack.enter_context(path.open("w"))
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
                stack.callback(path.unlink, missing_ok=True)
            notice.start()
            try:
                yield
            finally:
                notice.cancel()


told = False  # whether the user knows that kernels compile


def _notice() -> None:
    """Say once per process what the caller waits for."""
    global told  # noqa: PLW0603
    if not told and sys.stderr is not None and sys.stderr.isatty():
        told = True
        print("softmaxloss: compiling kernels, once on this machine ...", file=sys.stderr)  # noqa: T201


@cache
def _source_stamp(sources: Path) -> str:
    """Return a digest of all compiled sources: kernels/, and the folder of an entry point outside of it.

    In a program that is one archive, its file stands for them. Where there is no file at all, raise FileNotFoundError:
    nothing would show whether saved machine code is outdated.
    """
    files = [*sorted(Path(__file__).parents[1].rglob("*.py")), *sorted(sources.glob("*.py"))]
    files = files or [path for path in Path(__file__).parents if path.is_file()]
    if not files:
        raise FileNotFoundError(f"no sources in {sources}")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
