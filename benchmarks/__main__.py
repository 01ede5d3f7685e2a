"""Time this library and others, alternating, over the table of shapes.

python -m benchmarks [--quick | --start] [--json results.json]; `python -m benchmarks.report` makes documents of it.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import CONTENDERS, OURS, TASKS
from benchmarks.report import tables
from benchmarks.shapes import DTYPES, SHAPES
from benchmarks.start import measure_starts
from benchmarks.workers import Answer, Failed, Worker, workers

PACKAGES = ("softmaxloss", "numba", "numpy", "torch", "jax", "optax", "scikit-learn", "scipy")
# How far results may be from ours, relative to the loss and to the largest entry of the gradient. Others round to half
# precision more than once.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 3e-2, "float16": 5e-3}
QUICK = {"shapes": ["1024x10", "1024x1000"], "dtypes": ["float32"], "repeats": 3}

Record = dict[str, Any]


def measure(options: argparse.Namespace) -> Iterator[Record]:
    """Yield for each case and contender the seconds per call of all rounds, or a note on why there are none."""
    for threads in options.threads:
        for dtype in options.dtypes:
            with workers(options.contenders, threads) as running:
                for shape in (name for name in options.shapes if dtype in SHAPES[name].dtypes):
                    print(f"{dtype}, {threads} threads, {shape}", file=sys.stderr)
                    for record in measure_shape(running, shape, dtype, options.repeats):
                        yield {"dtype": dtype, "threads": threads, "shape": shape, **record}


def measure_shape(running: dict[str, Worker], shape: str, dtype: str, repeats: int) -> Iterator[Record]:
    """Yield the records of one shape."""
    notes = prepare(running, shape, dtype)
    seconds: dict[tuple[str, str], list[float]] = {offer: [] for offer, note in notes.items() if not note}
    for task in TASKS:
        for offer in [(task, name) for name in running if (task, name) in seconds] * repeats:
            try:
                if not notes[offer]:
                    seconds[offer].append(running[offer[1]].time(task))
            except Failed as failure:
                notes[offer] = str(failure)
    for (task, name), note in notes.items():
        if note and name == OURS:
            raise SystemExit(f"{OURS} fails at {shape} in {dtype}: {note}")
        yield {"task": task, "contender": name, **({"note": note} if note else {"seconds": seconds[task, name]})}


def prepare(running: dict[str, Worker], shape: str, dtype: str) -> dict[tuple[str, str], str]:
    """Return the tasks and contenders of a shape, each with a note if it fails or its result is not ours."""
    notes: dict[tuple[str, str], str] = {}
    right: dict[str, Answer | None] = {}
    for name, worker in running.items():  # the first is OURS
        try:
            answers = worker.prepare(shape, dtype)
        except Failed as failure:
            notes |= {(task, name): str(failure) for task in TASKS}
        else:
            right = right or answers
            notes |= {(task, name): disagreement(answers[task], right[task], TOLERANCE[dtype]) for task in answers}
    return notes


def disagreement(got: Answer | None, right: Answer | None, tolerance: float) -> str:
    """Return in words how far an answer is from ours, or nothing if that is little."""
    if got is None or right is None:
        return ""
    wrong = {"loss": abs(got.loss - right.loss) / right.loss}
    if got.gradient is not None and right.gradient is not None:
        wrong["gradient"] = float(np.max(np.abs(got.gradient - right.gradient)) / np.max(np.abs(right.gradient)))
    return ", ".join(f"its {what} is off by {error:.1e}" for what, error in wrong.items() if not error <= tolerance)


def machine() -> dict[str, Any]:
    """Return what the results depend on."""
    packages = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": (models or [platform.machine()])[0], "cores": _cores(), "packages": packages}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="ROWSxCLASSES")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, min(2, _cores())}))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--json", type=Path, help="the file to write")
    parser.add_argument("--quick", action="store_true", help="two shapes in float32, three rounds")
    parser.add_argument("--start", action="store_true", help="only time fresh processes up to their first loss")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if max(options.threads) > _cores() or min(options.threads) < 1:
        parser.error(f"--threads must be from 1 to {_cores()}, the processors of this process")
    options.contenders = {name: CONTENDERS[name] for name in (OURS, *options.contenders)}
    return options


def main() -> None:
    """Measure, write and print."""
    options = _options()
    results: dict[str, Any] = {"machine": machine(), "records": []}
    try:
        for record in measure_starts(list(options.contenders), options.repeats) if options.start else measure(options):
            results["records"].append(record)
            if options.json:  # each time, so that nothing is lost
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
    print("\n\n".join(tables(results["records"])))


if __name__ == "__main__":
    main()
