"""A process for each contender, which waits at a pipe while another one runs."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self
from unittest.mock import patch

import numpy as np

from benchmarks.contenders import Runs
from benchmarks.shapes import SHAPES, Array, Problem
from benchmarks.timing import seconds_per_call

# Freed memory is kept for the next call: without this, more than half of PyTorch's time with large logits goes into
# pages that the system gives and takes. OpenMP's threads spin for some 0.3 ms after their work, not 8: on a quiet
# machine calls are as fast as ever, on a busy one often ten times as fast, and the next contender is not disturbed.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "GOMP_SPINCOUNT": "10000",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA's messages on how long it compiles
}
Contender = Callable[[Problem, int], Runs]


class Failed(Exception):  # noqa: N818 - it is an answer
    """What kept a contender from its result, in a line."""


class Answer(NamedTuple):
    """The loss, and the gradient where it is probed; None where there is none."""

    loss: float
    gradient: Array | None


class Worker:
    """The near end of the pipe."""

    def __init__(self, contender: Contender, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, contender, threads), daemon=True)
        self._process.start()
        far_end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._connection.close()  # this ends a waiting process, which frees its semaphores
            self._process.join(timeout=5)
        self._process.terminate()
        self._process.join()
        self._connection.close()

    def prepare(self, shape: str, dtype: str) -> dict[str, Answer | None]:
        """Make a problem of the table ready, with a first call; return the answers of the tasks on offer."""
        return self._ask(shape, dtype)

    def time(self, task: str) -> float:
        """Return the seconds per call of a task that was prepared."""
        return self._ask(task)

    def _ask(self, *order: str) -> Any:
        try:
            self._connection.send(order)
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise Failed("its process died") from None
        if isinstance(answer, Failed):
            raise answer
        return answer


@contextmanager
def workers(contenders: Mapping[str, Contender], threads: int) -> Any:
    """Start a worker for each contender, and end them all."""
    with patch.dict(os.environ, ENVIRONMENT), ExitStack() as stack:
        yield {name: stack.enter_context(Worker(contender, threads)) for name, contender in contenders.items()}


def _serve(connection: Connection, contender: Contender, threads: int) -> None:
    """Answer orders until the near end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    runs: Runs = {}
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        try:
            if len(order) == 1:
                connection.send(seconds_per_call(runs[order[0]]))
                continue
            runs.clear()  # the memory of the problem before
            shape, dtype = order
            problem = SHAPES[shape].problem(dtype)
            probes = problem.probes()
            runs.update(contender(problem, threads))
            del problem
            connection.send({task: _answer(run(), probes) for task, run in runs.items()})
        except ModuleNotFoundError as error:
            connection.send(Failed(f"{error.name} is not installed"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the table
            connection.send(Failed(" ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])))


def _answer(result: Any, probes: Array) -> Answer | None:
    if not isinstance(result, tuple):
        return None if result is None else Answer(float(result), None)
    loss, gradient = result
    probed = gradient.reshape(-1)[probes]
    probed = probed.double() if hasattr(probed, "double") else probed  # PyTorch's bfloat16 is not NumPy's
    return Answer(float(loss), np.asarray(probed, np.float64))
