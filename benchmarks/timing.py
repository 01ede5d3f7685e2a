"""How one contender is timed."""

import math
import time
from collections.abc import Callable

WARM_UP = 0.02  # seconds
TIMED = 0.01


def seconds_per_call(run: Callable[[], object]) -> float:
    """Return the mean over a loop of calls, after others that are not timed.

    While those run, threads of the contender before stop spinning and the clock of the processor is up.
    """
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
