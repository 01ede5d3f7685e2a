"""How long a fresh process takes to its first loss, with what earlier ones left on the disk and without."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, LOSS, MEMORY
from benchmarks.shapes import SHAPES

ROOT = Path(__file__).parents[1]
SHAPE = "1024x10"
TASKS = COLD, WARM = ("start, empty caches", "start")


def first_loss(contender: str) -> None:
    """Compute a loss and print the time."""
    CONTENDERS[contender](SHAPES[SHAPE].problem("float32"), 1)[LOSS]()
    print(time.monotonic())


def measure_starts(contenders: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield for each contender the seconds from the start of the interpreter to the first loss."""
    with tempfile.TemporaryDirectory() as caches:
        cold = {name: _start(name, caches) for name in contenders if name != MEMORY}
        warm: dict[str, list[float]] = {name: [] for name, seconds in cold.items() if seconds}
        for _ in range(repeats):
            for name, values in warm.items():
                values.extend(_start(name, caches))
    for task, measured in ((COLD, cold), (WARM, warm)):
        for name, seconds in measured.items():
            result = {"seconds": seconds} if seconds else {"note": "it does not start"}
            yield {"dtype": "float32", "threads": 1, "shape": SHAPE, "task": task, "contender": name, **result}


def _start(contender: str, caches: str) -> list[float]:
    """Return the seconds of one start; none if it fails."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": caches, "TORCHINDUCTOR_CACHE_DIR": caches}
    program = f"from benchmarks.start import first_loss; first_loss({contender!r})"
    start = time.monotonic()
    child = subprocess.run(  # noqa: S603 - a program of our own
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return [] if child.returncode else [float(child.stdout.split()[-1]) - start]
