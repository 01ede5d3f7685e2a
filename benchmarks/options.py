"""Compare the time of each option with the loss without options, and with PyTorch.

python -m benchmarks.options [--shapes 1024x1000 ...] [--options "soft targets" ...] [--threads 2] [--rounds 5]

The column "time" is ours with the option. "over none" is that time divided by ours without options. The last two
columns are PyTorch's times divided by ours. They show "-" if this benchmark has no PyTorch version of the option.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.__main__ import measure_shape
from benchmarks.contenders import OURS, TASKS, Runs, pytorch, softmaxloss
from benchmarks.markdown import table
from benchmarks.report import cell, digits
from benchmarks.shapes import SHAPES, Array, Problem
from benchmarks.workers import workers

IGNORED, SMOOTHING, CAP, TEMPERATURE = -100, 0.1, 30.0, 2.0


def _ignored(problem: Problem) -> dict[str, Any]:
    left_out = np.random.default_rng(3).random(problem.targets.shape) < 0.1
    return {"targets": np.where(left_out, IGNORED, problem.targets), "ignore_index": IGNORED}


def _class_weight(problem: Problem) -> Array:
    weight: Array = 0.5 + np.random.default_rng(3).random(problem.logits.shape[problem.axis], np.float32)
    return weight


def _soft(problem: Problem) -> dict[str, Any]:
    shares = np.random.default_rng(3).random(problem.logits.shape, np.float32)
    return {"targets": shares / shares.sum(problem.axis, keepdims=True)}


def _class_mask(problem: Problem) -> dict[str, Any]:
    exists = np.arange(problem.logits.shape[problem.axis]) % 8 != 0
    return {"targets": np.where(exists[problem.targets], problem.targets, 1), "class_mask": exists}


OPTIONS: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "ignored labels": _ignored,
    "class weights": lambda problem: {"class_weight": _class_weight(problem)},
    "sample weights": lambda problem: {"sample_weight": np.random.default_rng(3).random(problem.targets.shape)},
    "label smoothing": lambda _: {"label_smoothing": SMOOTHING},
    "class weights, label smoothing": lambda problem: {
        "class_weight": _class_weight(problem),
        "label_smoothing": SMOOTHING,
    },
    "soft targets": _soft,
    "soft targets, label smoothing": lambda problem: {**_soft(problem), "label_smoothing": SMOOTHING},
    "class mask": _class_mask,
    "z-loss": lambda _: {"z_loss": 1e-4},
    "soft cap": lambda _: {"softcap": CAP},
    "temperature": lambda _: {"temperature": TEMPERATURE},
}
# In PyTorch, users write these options as functions of the logits.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "soft cap": lambda logits: CAP * (logits / CAP).tanh(),
    "temperature": lambda logits: logits / TEMPERATURE,
}
PYTORCHS_NAMES = {"class_weight": "weight", "ignore_index": "ignore_index", "label_smoothing": "label_smoothing"}
NONE, PYTORCH, COMPILED = "without the option", "PyTorch", "torch.compile"


def ours_with(option: str, problem: Problem, threads: int) -> Runs:
    """Return the functions of this library with an option."""
    options = OPTIONS[option](problem)
    targets = options.pop("targets", problem.targets)
    return softmaxloss(problem._replace(targets=targets), threads, **options)


def ours_without(problem: Problem, threads: int) -> Runs:
    """Return the functions of this library without options. They return None: their results must not be compared."""

    def only_timed(run: Callable[[], Any]) -> Callable[[], None]:
        return lambda: run() and None

    return {task: only_timed(run) for task, run in softmaxloss(problem, threads).items()}


def pytorch_with(option: str, problem: Problem, threads: int, *, compiled: bool = False) -> Runs:
    """Return PyTorch's function with an option; nothing if neither PYTORCHS_NAMES nor CHANGES has it."""
    options = OPTIONS[option](problem)
    targets = options.pop("targets", problem.targets)
    if (change := CHANGES.get(option)) is not None:
        return pytorch(problem, threads, compiled=compiled, change=change)
    if not options.keys() <= PYTORCHS_NAMES.keys():
        return {}
    named = {PYTORCHS_NAMES[name]: value for name, value in options.items()}
    return pytorch(problem._replace(targets=targets), threads, compiled=compiled, **named)


def row_of(option: str, found: dict[str, Any]) -> list[str]:
    """Return the row of a table: our time, the same divided by that without the option, and ratios of the others."""
    ours, without = found[OURS], found[NONE]
    ratio = median(our / plain for our, plain in zip(ours["seconds"], without["seconds"], strict=True))
    return [option, cell(ours, ours), digits(ratio), *(cell(found.get(name), ours) for name in (PYTORCH, COMPILED))]


def main() -> None:
    """Print a table for each shape and task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = ["65536x10", "1024x1000", "1024x32000", "8x21x256x256"]
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=shapes, metavar="ROWSxCLASSES")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for option in arguments.options:
        contenders = {
            OURS: partial(ours_with, option),
            NONE: ours_without,
            PYTORCH: partial(pytorch_with, option),
            COMPILED: partial(pytorch_with, option, compiled=True),
        }
        with workers(contenders, arguments.threads) as running:
            for shape in arguments.shapes:
                records = list(measure_shape(running, shape, "float32", arguments.rounds))
                for task in TASKS:
                    found = {record["contender"]: record for record in records if record["task"] == task}
                    rows.setdefault((shape, task), []).append(row_of(option, found))
    for (shape, task), lines in rows.items():
        print(f"### {shape}, {task}\n\n{table(['option', 'time', 'over none', PYTORCH, COMPILED], lines)}\n")


if __name__ == "__main__":
    main()
