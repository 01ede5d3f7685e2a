"""The floating-point environment of threads: how they round, and whether they replace subnormal numbers by 0.

Subnormal numbers are closer to 0 than the smallest normal number. Each thread has its own environment. On Linux, it
begins with that of the thread that starts it. `torch.set_flush_denormal(True)` makes the calling thread replace
subnormal numbers by 0, and JAX calls Python from threads that do so. So helpers take over the environment of the
calling thread. Otherwise a subnormal gradient would become 0 in some threads and not in others.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_Bytes = ctypes.c_char * 64  # fenv_t of C takes at most 32 bytes


def _functions_of_c() -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    """Return fegetenv and fesetenv of C, or two functions that do nothing where they are not found, as on Windows.

    A call keeps the GIL, because releasing and regaining it takes longer.
    """
    for library in (None, "libm.so.6"):  # None: what the process has loaded for all
        with contextlib.suppress(AttributeError, OSError, TypeError):
            found = ctypes.PyDLL(library)
            return found.fegetenv, found.fesetenv
    return lambda _: None, lambda _: None


_save, take_over = _functions_of_c()  # take_over(environment) gives the calling thread this environment


def float_environment() -> Any:
    """Return a copy of the calling thread's floating-point environment."""
    environment = _Bytes()
    _save(environment)
    return environment
