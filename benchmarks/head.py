"""Time the fused head on the output layers of real models, and measure the memory that it takes.

python -m benchmarks.head [--write docs/head.md]; that document says what to install, and holds the tables.
"""

import argparse
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.markdown import replace_between, table
from benchmarks.real_heads import HEADS, Head
from benchmarks.timing import seconds_per_call

Run = Callable[[], Any]
CHUNKS = (128, 256, 512, 1024)  # rows that PyTorch's chunked function is tried with; the best is kept
BARE, OURS, SAMPLED = "bare products", "softmaxloss", "softmaxloss, sampled"
TOLERANCE = 1e-4  # of the loss, and of the gradients in the Frobenius norm; sampled ones are not compared
LARGE = (8192, 128_256, 256)
SEEDS = 64
PARTS = (*HEADS, "seeds", "memory")
# For processes of ours: Ctrl-C is the business of the one that waits for them.
IGNORE_INTERRUPTS: dict[str, Any] = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
BEGIN = "<!-- written by benchmarks/head.py -->"


def bare_products(head: Head) -> Run:
    """Return the three products, with all logits at once, through the BLAS that we use, into arrays that are there."""
    from softmaxloss.head.products import multiply

    features, weight = head.features, head.weight
    logits = np.empty((len(features), len(weight)), np.float32)
    d_features, d_weight = np.empty_like(features), np.empty_like(weight)

    def run() -> None:
        multiply(features, weight.T, logits)
        multiply(logits, weight, d_features)
        multiply(logits.T, features, d_weight)

    return run


def softmaxloss(head: Head, *, sampled: bool = False) -> Run:
    """Return our function."""
    import softmaxloss as sl

    backward = sl.Sampled() if sampled else "exact"
    arguments = head.features, head.weight, head.targets, head.bias
    return partial(sl.linear_cross_entropy_and_grad, *arguments, backward=backward)


def pytorch(head: Head, *, compiled: bool = False, chunked: bool | str = False) -> Run:
    """Return the layers, compiled or not, or the function that never holds all logits, as it comes or at its best."""
    import torch

    functional = torch.nn.functional

    def layers(x: Any, w: Any, t: Any, *, linear_bias: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, w, linear_bias), t)

    if chunked:
        sizes = CHUNKS if chunked == "best" else [None]
        all_options = [torch.nn.LinearCrossEntropyOptions(batch_chunk_size=size) for size in sizes]
        fused = functional.linear_cross_entropy
        runs = [with_gradients(head, partial(fused, options=options)) for options in all_options]
        return min(runs, key=seconds_per_call) if len(runs) > 1 else runs[0]
    return with_gradients(head, torch.compile(layers, dynamic=False) if compiled else layers)


def with_gradients(head: Head, loss: Callable[..., Any]) -> Run:
    """Return a loss of PyTorch's tensors with its gradients with respect to features and weight."""
    import torch

    x, w, t = (torch.from_numpy(array) for array in head[:3])
    b = None if head.bias is None else torch.from_numpy(head.bias)
    leaves = [x.requires_grad_(), w.requires_grad_()]

    def run() -> Any:
        value = loss(x, w, t, linear_bias=b)
        return value.detach(), torch.autograd.grad(value, leaves)

    return run


Contender = Callable[[Head], Run]
CONTENDERS: dict[str, Contender] = {
    OURS: softmaxloss,
    SAMPLED: partial(softmaxloss, sampled=True),
    BARE: bare_products,
    "PyTorch": pytorch,
    "torch.compile": partial(pytorch, compiled=True),
    "F.linear_cross_entropy": partial(pytorch, chunked=True),
    "its best chunk size": partial(pytorch, chunked="best"),
}


_made: list[Run] = []  # what this process is asked to call


def _answer(contender: Contender, path: str) -> Any:
    """Make what this process will call; return its loss and gradients, or None."""
    with np.load(path) as arrays:
        head = Head(*(arrays.get(name) for name in Head._fields))
    _made.append(contender(head))
    result = _made[0]()
    return None if result is None else (float(result[0]), *(np.asarray(gradient) for gradient in result[1][:2]))


def _seconds() -> float:
    return seconds_per_call(_made[0])


def measure(name: str, head: Head, repeats: int, contenders: dict[str, Contender]) -> str:
    """Return a table of how long the contenders take for a head, each in a process of its own, taking turns."""
    folder = TemporaryDirectory()
    path = Path(folder.name, "head.npz")
    np.savez(path, **{field: array for field, array in head._asdict().items() if array is not None})
    context = multiprocessing.get_context("spawn")
    pools = {contender: ProcessPoolExecutor(1, context, **IGNORE_INTERRUPTS) for contender in contenders}
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    notes: dict[str, str] = {}
    right: Any = None
    try:
        for contender, pool in pools.items():  # the first is OURS
            try:
                answer = pool.submit(_answer, contenders[contender], str(path)).result()
            except ModuleNotFoundError as error:
                notes[contender] = f"{error.name} is not installed"
                continue
            right = answer if contender == OURS else right
            if answer is not None and contender != SAMPLED:
                errors = [abs(answer[0] / right[0] - 1), *map(_distance, answer[1:], right[1:])]
                if not max(errors) <= TOLERANCE:
                    notes[contender] = f"is off by {max(errors):.0e}"
        for _ in range(repeats):
            for contender in (name for name in contenders if name not in notes):
                seconds[contender].append(pools[contender].submit(_seconds).result())
    finally:
        folder.cleanup()
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
    title = "### {}: {:,} rows, {:,} classes, {:,} features".format(name, len(head.features), *head.weight.shape)
    return f"{title}\n\n" + table(["", "seconds", "over ours", "over the bare products"], list(_rows(seconds, notes)))


def _rows(seconds: dict[str, list[float]], notes: dict[str, str]) -> Any:
    for contender, times in seconds.items():
        if contender in notes:
            yield [contender, notes[contender], "", ""]
        else:
            yield [contender, f"{median(times):.3f}", *(_ratio(times, seconds[other]) for other in (OURS, BARE))]


def _ratio(times: list[float], others: list[float]) -> str:
    """Return the median of the ratios of rounds, and the least and the most."""
    ratios = [a / b for a, b in zip(times, others, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def _distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def mean_over_seeds(n_rows: int) -> str:
    """Return how far the mean of sampled gradients of SmolLM2's head is from the exact ones, and how far it should."""
    import softmaxloss as sl

    head = HEADS["SmolLM2"](n_rows)
    arguments = head.features, head.weight, head.targets
    _, exact = sl.linear_cross_entropy_and_grad(*arguments)
    totals: list[Any] = [0.0, 0.0]
    single, predicted = [], []
    for seed in range(SEEDS):
        _, sampled = sl.linear_cross_entropy_and_grad(*arguments, backward=sl.Sampled(seed=seed))
        single.append([_distance(a, b) for a, b in zip(sampled[:2], exact[:2], strict=True)])
        predicted.append(sampled.sampling_error[:2])
        totals = [total + gradient for total, gradient in zip(totals, sampled[:2], strict=True)]
    rows = []
    for k, name in enumerate(("d_features", "d_weight")):
        one, told = (float(np.sqrt(np.mean(np.square([row[k] for row in rows])))) for rows in (single, predicted))
        mean = _distance(totals[k] / SEEDS, exact[k])
        rows.append([name, f"{one:.3%}", f"{told:.3%}", f"{mean:.3%}", f"{told / np.sqrt(SEEDS):.3%}"])
    title = f"### Sampled gradients of SmolLM2, {n_rows:,} rows, and their mean over {SEEDS} seeds"
    return f"{title}\n\n" + table(["", "error of one sample", "predicted", "error of the mean", "predicted"], rows)


def measure_memory() -> str:
    """Return how much memory a call takes besides inputs and outputs, as the system counts it (Linux)."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for limit in ("64MiB", "256MiB", None):
        with ProcessPoolExecutor(1, context) as pool:
            extra = pool.submit(_extra_memory, limit).result()
        rows.append([limit or "default", f"{extra / 2**20:.0f} MiB"])
    title = "### Memory at {:,} rows, {:,} classes, {:,} features".format(*LARGE)
    logits = f"All logits would take {LARGE[0] * LARGE[1] * 4 / 2**20:,.0f} MiB."
    return f"{title}\n\n" + table(["max_memory", "besides inputs and outputs"], rows) + f"\n\n{logits}"


def _extra_memory(limit: str | None) -> int:
    import softmaxloss as sl

    n_rows, n_classes, n_features = LARGE
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, n_features), np.float32)
    weight = rng.standard_normal((n_classes, n_features), np.float32) / 16
    targets = rng.integers(0, n_classes, n_rows)
    # compiles, and BLAS takes the memory that it keeps: some 26 MiB per thread for products of this size
    sl.linear_cross_entropy_and_grad(features[:512], weight, targets[:512], max_memory=limit)
    call = partial(sl.linear_cross_entropy_and_grad, features, weight, targets, max_memory=limit)
    return peak_memory(call) - features.nbytes - weight.nbytes  # as much as their gradients


def peak_memory(run: Run) -> int:
    """Return how much more memory the process holds during a call than before, at most (Linux)."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    (found,) = re.findall(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--write", type=Path, help="the document that holds the tables")
    options = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    contenders = {name: CONTENDERS[name] for name in (OURS, BARE, *options.contenders)}
    sections = []
    for part in options.parts:
        print(part, file=sys.stderr)
        if part in HEADS:
            sections.append(measure(part, HEADS[part](options.rows), options.repeats, contenders))
        else:
            sections.append(mean_over_seeds(options.rows) if part == "seeds" else measure_memory())
    text = "\n\n".join(sections)
    print(text)
    if options.write:
        replace_between(options.write, BEGIN, f"\n{text}\n")


if __name__ == "__main__":
    main()
