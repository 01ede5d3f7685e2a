"""How threads share rows: a counter from which each takes its next share, and waiting for the others."""

from typing import Any

from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.intrinsics import atomic_add, atomic_load

# How often a thread looks at a counter before it sleeps: for 50 to 100 microseconds, the time of a last share.
_PATIENCE = 1 << 17
_COURTESY = 1 << 13


@inline
def take(taken: Any, count: int) -> int:
    """Return the first of the next `count` rows, which no other thread gets, and count them as taken."""
    return atomic_add(taken, count)


@kernel
def leave(left: Any) -> None:
    """Count one more thread that has left, and linger, so that the thread that waits for it gets the GIL first."""
    n = atomic_add(left, 1)
    looks = 0
    while atomic_load(left) > n and looks < _COURTESY:
        looks += 1


@kernel
def reaches(counter: Any, n: int) -> bool:
    """Return whether a counter reaches n within a short while, during which the calling thread stays awake."""
    looks = 0
    while atomic_load(counter) < n and looks < _PATIENCE:
        looks += 1
    return looks < _PATIENCE
