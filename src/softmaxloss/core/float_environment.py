"""The floating-point environment of threads: how they round, and whether they replace subnormal numbers by 0.

Subnormal numbers are those below the smallest normal number. A thread begins with the environment of the thread that
starts it, and can then change its own. `torch.set_flush_denormal(True)` makes the calling thread replace subnormal
numbers by 0, and JAX calls Python from threads that do so. If helpers did not take over the environment of the calling
thread, a subnormal gradient could become 0 or not, depending on which thread computes it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_Bytes = ctypes.c_char * 64  # at least as long as fenv_t of C, which has 32 bytes at most


def _find(name: str) -> Callable[[Any], object]:
    """Return a function of the C library, or one that does nothing where the library has none of this name.

    It is called with the GIL: to release it and to wait for it again would take longer.
    """
    try:
        return getattr(ctypes.PyDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda _: None


_save, take_over = _find("fegetenv"), _find("fesetenv")  # take_over(environment) changes the calling thread's


def float_environment() -> Any:
    """Return a copy of the calling thread's floating-point environment."""
    environment = _Bytes()
    _save(environment)
    return environment
