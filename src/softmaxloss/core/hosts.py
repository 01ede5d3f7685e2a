"""Another library as the host of what is computed: its threads and its matrix products are used instead of ours."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]
_hosts = threading.local()  # `now` is the Host of what this thread computes, if any


class Host(Protocol):
    """Another library, whose threads stay awake beside ours, so that it should do all that is shared by threads."""

    def threads(self) -> int:
        """Return how many threads it lends, the calling one included; 0 if ours are to be used."""

    def run(self, work: Callable[[], None], threads: int) -> None:
        """Call work() once in each of some threads, and return when all calls have."""

    def multiply(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        """Write the matrix product a @ b to `out`, or add it there."""


class hosted_by:  # noqa: N801  # a class, as a generator takes 1 us more
    """Let another library do what this thread shares with others, within a with statement."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __enter__(self) -> None:
        self._before = getattr(_hosts, "now", None)
        _hosts.now = self._host

    def __exit__(self, *_: object) -> None:
        _hosts.now = self._before


def host() -> Host | None:
    """Return the library that does what this thread shares with others: in a forked child none, as its threads died."""
    return None if _forked else getattr(_hosts, "now", None)


def _forget() -> None:
    """Have no host in a forked child, whatever asks for one."""
    global _forked  # noqa: PLW0603
    _forked = True


_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
