"""What threads tell each other while they compute: who takes which rows, and who is still inside."""

from typing import Any

from softmaxloss.core.kernels.bits import atomic_add, atomic_load
from softmaxloss.core.kernels.compilation import inline, kernel

# Looks at a counter before a thread sleeps: some 50 to 100 microseconds, what others need for their last rows.
_PATIENCE = 1 << 17
_COURTESY = 1 << 13


@inline
def take(taken: Any, count: int) -> int:
    """Return the first of the next `count` rows, which no other thread gets, and count them as taken."""
    return atomic_add(taken, count)


@kernel
def leave(left: Any) -> None:
    """Count one thread more that has left, and linger: the thread that waits for that is to have the GIL first."""
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
