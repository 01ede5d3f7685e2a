"""Time the losses of PyTorch's tensors in training, beside those of PyTorch, and measure the memory that they take.

python -m benchmarks.torch [--quick] [--write] prints the tables of docs/pytorch.md, and writes them there.
"""

import argparse
import importlib.util
import math
import multiprocessing
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders, head
from benchmarks.__main__ import _cores, machine, measure
from benchmarks.contenders import LOSS_AND_GRADIENT, OURS, TASKS, Runs
from benchmarks.head import BARE, SAMPLED, Run, peak_memory
from benchmarks.markdown import replace_between, table
from benchmarks.real_heads import Head
from benchmarks.report import tables
from benchmarks.shapes import SHAPES, Problem
from benchmarks.timing import After

DOCUMENT = Path(__file__).parents[1] / "docs" / "pytorch.md"
BEGIN = "<!-- written by benchmarks/torch.py -->"
LIBRARY = "softmaxloss.torch"
SIZE = 448  # of the matrices whose product comes before each loss and takes about 1 ms
N_CLASSES, N_FEATURES = 49_152, 576  # the output layer of SmolLM2
LARGE = "1024x32000"
PARTS = ("loss", "head", "memory")
QUICK = {"shapes": ["1024x10", "1024x1000"], "dtypes": ["float32"], "repeats": 3, "rows": 128}


def after_a_product(problem: Problem, threads: int, **how: Any) -> Runs:
    """Return the calls of `contenders.pytorch`, each right after a matrix product."""
    import torch

    runs = contenders.pytorch(problem, threads, **how)
    a, product = torch.ones(SIZE, SIZE), torch.empty(SIZE, SIZE)
    return {task: After(partial(torch.mm, a, a, out=product), run) for task, run in runs.items()}


LOSSES: dict[str, Callable[[Problem, int], Runs]] = {
    OURS: partial(after_a_product, library=LIBRARY),
    "PyTorch": after_a_product,
    "torch.compile": partial(after_a_product, compiled=True),
}


def losses(options: argparse.Namespace) -> str:
    """Return the tables of the loss with its gradient, and of the loss alone."""
    options.contenders = LOSSES
    return "\n\n".join(tables(sorted(measure(options), key=lambda record: TASKS.index(record["task"]), reverse=True)))


def ours(layer: Head, *, sampled: bool = False) -> Run:
    """Return our loss of a linear layer, with gradients."""
    from softmaxloss import Sampled
    from softmaxloss.torch import linear_cross_entropy

    return head.with_gradients(layer, partial(linear_cross_entropy, backward=Sampled() if sampled else "exact"))


def bare_products(layer: Head) -> Run:
    """Return the three products with all logits at once, by PyTorch, into arrays that are there."""
    from softmaxloss.core.hosts import hosted_by
    from softmaxloss.torch.host import HOST

    products = head.bare_products(layer)

    def run() -> None:
        with hosted_by(HOST):
            products()

    return run


LAYERS: dict[str, Callable[[Head], Run]] = {
    OURS: ours,
    SAMPLED: partial(ours, sampled=True),
    BARE: bare_products,
    "F.linear_cross_entropy": head.pytorch,  # which without options is these two functions
    "its best chunk size": partial(head.pytorch, chunked="best"),
}


def random_layer(n_rows: int) -> Head:
    """Return a layer whose logits are about as large as those of a language model: 3 in the root of mean squares."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, N_FEATURES), np.float32)
    weight = rng.standard_normal((N_CLASSES, N_FEATURES), np.float32)
    weight *= np.float32(3 / N_FEATURES**0.5)
    return Head(features, weight, rng.integers(0, N_CLASSES, n_rows), None)


def layers(options: argparse.Namespace) -> str:
    """Return the table of the linear layer with its loss."""
    return head.measure("Linear layer and loss", random_layer(options.rows), options.repeats, LAYERS)


def in_place(problem: Problem, threads: int) -> Runs:
    """Return loss and gradient where this takes the place of logits that were computed: a leaf keeps its values."""
    import torch

    from softmaxloss.torch import cross_entropy

    torch.set_num_threads(threads)
    start = torch.zeros((), requires_grad=True)

    def loss_and_gradient() -> Any:
        logits = torch.from_numpy(problem.logits).add_(start)  # computed logits that take no more memory
        loss = cross_entropy(logits, torch.from_numpy(problem.targets), inplace_backward=True)
        return torch.autograd.grad(loss, start)

    return {LOSS_AND_GRADIENT: loss_and_gradient}


MEMORY_OF_LOSS: dict[str, Callable[[Problem, int], Runs]] = {
    "PyTorch": contenders.pytorch,
    "torch.compile": partial(contenders.pytorch, compiled=True),
    OURS: partial(contenders.pytorch, library=LIBRARY),
    f"{OURS}, inplace_backward": in_place,
}
MEMORY_OF_LAYER = {name: LAYERS[name] for name in ("F.linear_cross_entropy", "its best chunk size", OURS, SAMPLED)}


def memory(options: argparse.Namespace) -> str:
    """Return the tables of how much memory loss and gradient take, each measured in a fresh process."""
    of_losses = [_row(name, _of_loss, make, max(options.threads)) for name, make in MEMORY_OF_LOSS.items()]
    of_layers = [_row(name, _of_layer, make, options.rows) for name, make in MEMORY_OF_LAYER.items()]
    logits = _mebibytes(4 * math.prod(SHAPES[LARGE].shape))
    others = [_mebibytes(4 * n) for n in (options.rows * N_CLASSES, (options.rows + N_CLASSES) * N_FEATURES)]
    return "\n\n".join(
        [
            f"### Memory of loss and gradient, {LARGE}, float32",
            table(["", f"besides the logits of {logits}"], of_losses),
            f"### Memory of linear layer and loss: {options.rows:,} rows, {N_CLASSES:,} classes, {N_FEATURES} features",
            table(["", "besides the inputs"], of_layers),
            "All logits would take {}; the gradients, which are counted, take {}.".format(*others),
        ]
    )


def _row(name: str, extra: Callable[..., int], *arguments: Any) -> list[str]:
    print(f"memory, {name}", file=sys.stderr)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **head.IGNORE_INTERRUPTS) as pool:
        try:
            return [name, _mebibytes(pool.submit(extra, *arguments).result())]
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the table
            return [name, f"failed: {type(error).__name__}"]


def _of_loss(make: Callable[[Problem, int], Runs], threads: int) -> int:
    run = make(SHAPES[LARGE].problem("float32"), threads)[LOSS_AND_GRADIENT]
    run()  # compiles
    return peak_memory(run)


def _of_layer(make: Callable[[Head], Run], n_rows: int) -> int:
    run = make(random_layer(n_rows))
    run()
    return peak_memory(run)


def _mebibytes(size: int) -> str:
    return f"{max(size, 0) / 2**20:.0f} MiB"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="ROWSxCLASSES")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs=1, type=int, default=[_cores()])
    parser.add_argument("--rows", type=int, default=1024, help="of the linear layer")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--quick", action="store_true", help="two shapes in float32, few rows, three rounds")
    parser.add_argument("--write", action="store_true", help="into docs/pytorch.md; all parts")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write needs all rounds; leave out --quick")
    if options.write and set(options.parts) != set(PARTS):
        parser.error("--write needs all parts")
    return options


def main() -> None:
    """Measure, print and write."""
    options = _options()
    if importlib.util.find_spec("torch") is None:
        raise SystemExit('PyTorch is not installed: pip install -e ".[bench]"')
    here = machine()
    packages = ", ".join(f"{name} {here['packages'][name]}" for name in ("softmaxloss", "torch", "numba", "numpy"))
    text = f"{here['cores']} cores of {here['processor']}; {packages}; {options.repeats} rounds."
    try:
        parts = [{"loss": losses, "head": layers, "memory": memory}[part](options) for part in options.parts]
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing was written") from None
    print(text := "\n\n".join([textwrap.fill(text, 118), *parts]))
    if options.write:
        replace_between(DOCUMENT, BEGIN, f"\n{text}\n")


if __name__ == "__main__":
    main()
