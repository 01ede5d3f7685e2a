"""Another library, such as PyTorch, as the host: its threads and matrix products are used instead of ours."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]
_hosts = threading.local()  # `now` is the Host of this thread, if it has one


class Host(Protocol):
    """Another library whose threads do the work that threads share, if there is work for all of them.

    Its threads stay awake for a while after its own work. Threads of ours would compete with them for processors.
    """

    def threads(self) -> int:
        """Return how many threads it lends, the calling one included; 0 if ours are to be used."""

    def run(self, work: Callable[[], None]) -> None:
        """Call work() once in each of the threads that it lends, and return when all calls have returned."""

    def multiply(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        """Write the matrix product a @ b to `out`, or add it to `out`."""


class hosted_by:  # noqa: N801  # a class, because a generator takes 1 us more
    """Within a with statement: let another library do the work that this thread shares with others."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __enter__(self) -> None:
        self._before = getattr(_hosts, "now", None)
        _hosts.now = self._host

    def __exit__(self, *_: object) -> None:
        _hosts.now = self._before


def host() -> Host | None:
    """Return the host of this thread, if there is one; None in a forked child, where the threads of the host died."""
    return None if _forked else getattr(_hosts, "now", None)


def _forget() -> None:
    """Have no host in a forked child."""
    global _forked  # noqa: PLW0603
    _forked = True


_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
