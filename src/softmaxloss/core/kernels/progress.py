"""How threads share rows: each takes a few at a time from an array of two counters, and adds those it has finished."""

from typing import Any

from softmaxloss.core.kernels.bits import atomic_add
from softmaxloss.core.kernels.compilation import inline, kernel

TAKEN, FINISHED = 0, 1
# Looks at a counter before a thread sleeps: some 50 to 100 microseconds, what the others need for their last rows.
PATIENCE = 1 << 13


@inline
def take(progress: Any, count: int) -> int:
    """Return the first of the next `count` rows, which no other thread gets."""
    return atomic_add(progress, TAKEN, count)


@inline
def finish(progress: Any, count: int) -> None:
    """Count rows as finished, when all of them is written."""
    atomic_add(progress, FINISHED, count)


@kernel
def wait(progress: Any, n_rows: int) -> bool:
    """Return whether all rows become finished within a short while, during which the thread stays awake.

    One that sleeps would be woken up on the processor of the thread that finishes last, and the two would then share it
    for many calls, beside an idle one.
    """
    looks = 0
    while atomic_add(progress, FINISHED, 0) < n_rows and looks < PATIENCE:
        looks += 1
    return looks < PATIENCE
