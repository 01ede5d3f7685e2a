"""The floating-point environment of threads: how they round, and whether they replace subnormal numbers by 0.

Subnormal numbers are those below the smallest normal number. A thread begins with the environment of the thread that
starts it, and can then change its own. `torch.set_flush_denormal(True)` makes the calling thread replace subnormal
numbers by 0, and JAX calls Python from threads that do so. If helpers did not take over the environment of the calling
thread, a subnormal gradient could become 0 or not, depending on which thread computes it.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BYTES = 64  # C's fenv_t has at most 32


def _find(name: str) -> Callable[[Any], object]:
    """Return a function of the C library, or one that does nothing where the library has none of this name."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda _: None


_save, _restore = _find("fegetenv"), _find("fesetenv")


def float_environment() -> Any:
    """Return a copy of the calling thread's floating-point environment."""
    environment = ctypes.create_string_buffer(_BYTES)
    _save(environment)
    return environment


@contextmanager
def computing_in(environment: Any) -> Iterator[None]:
    """Within a with statement: let the calling thread compute in this environment."""
    own = float_environment()
    _restore(environment)
    try:
        yield
    finally:
        _restore(own)
