"""How one contender is timed."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

WARM_UP = 0.02  # seconds
TIMED = 0.01
MOST_CALLS = 100  # each of which comes after another operation


class After(NamedTuple):
    """A call that comes right after another operation, as a loss in training does; only the call is timed."""

    before: Callable[[], object]
    run: Callable[[], Any]

    def __call__(self) -> Any:
        """Do both, and return the result of the call."""
        self.before()
        return self.run()


def seconds_per_call(run: Callable[[], object]) -> float:
    """Return the mean over a loop of calls, after others that are not timed.

    While those run, threads of the contender before stop spinning and the clock of the processor is up.
    """
    if isinstance(run, After):
        return _seconds_after(run)
    start = time.perf_counter()
    calls, elapsed = 0, 0.0
    while elapsed < WARM_UP:
        run()
        calls, elapsed = calls + 1, time.perf_counter() - start
    repeats = math.ceil(TIMED * calls / elapsed)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _seconds_after(run: After) -> float:
    def seconds() -> float:
        run.before()
        start = time.perf_counter()
        run.run()
        return time.perf_counter() - start

    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP:
        seconds()
    timed = [seconds()]
    while sum(timed) < TIMED and len(timed) < MOST_CALLS:
        timed.append(seconds())
    return sum(timed) / len(timed)
