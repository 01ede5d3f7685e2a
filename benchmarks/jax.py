"""Time our losses of JAX arrays beside those of optax, both compiled, and measure the memory of a linear layer.

python -m benchmarks.jax [--quick] [--write] prints the tables of docs/jax.md; --write also writes them there.
"""

import argparse
import importlib.util
import textwrap
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import contenders, head
from benchmarks.__main__ import _cores, machine, measure
from benchmarks.contenders import OURS, TASKS
from benchmarks.head import Run, peak_memory
from benchmarks.markdown import replace_between, table
from benchmarks.real_heads import Head
from benchmarks.report import tables
from benchmarks.shapes import SHAPES
from benchmarks.torch import N_CLASSES, N_FEATURES, random_layer

DOCUMENT = Path(__file__).parents[1] / "docs" / "jax.md"
BEGIN = "<!-- written by benchmarks/jax.py -->"
LOSSES = {
    OURS: partial(contenders.jax, library="softmaxloss.jax"),
    "own mean": partial(contenders.jax, library="softmaxloss.jax", own_mean=True),
    "JAX": contenders.jax,  # optax
}
PARTS = ("loss", "head", "memory")
QUICK = {"shapes": ["1024x10", "1024x1000"], "dtypes": ["float32"], "repeats": 3, "rows": 128}


def losses(options: argparse.Namespace) -> str:
    """Return the tables of the loss with its gradient, and of the loss alone."""
    options.contenders, options.threads = LOSSES, [_cores()]
    return "\n\n".join(tables(sorted(measure(options), key=lambda record: TASKS.index(record["task"]), reverse=True)))


def ours(layer: Head) -> Run:
    """Return our loss of a linear layer, with gradients."""
    from softmaxloss.jax import linear_cross_entropy

    return _with_gradients(layer, linear_cross_entropy)


def optax(layer: Head) -> Run:
    """Return optax's loss of all logits, with gradients."""
    from optax import softmax_cross_entropy_with_integer_labels

    return _with_gradients(layer, lambda x, w, t: softmax_cross_entropy_with_integer_labels(x @ w.T, t).mean())


def _with_gradients(layer: Head, loss: Callable[..., Any]) -> Run:
    import jax

    arguments = jax.device_put(layer[:3])
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


LAYERS: dict[str, Callable[[Head], Run]] = {OURS: ours, head.BARE: head.bare_products, "optax, all logits": optax}


def layers(options: argparse.Namespace) -> str:
    """Return the table of the linear layer with its loss."""
    return head.measure("Linear layer and loss", random_layer(options.rows), options.repeats, LAYERS)


def memory(options: argparse.Namespace) -> str:
    """Return the table of the memory that a linear layer takes; each row is measured in a fresh process."""
    rows = []
    for name in (OURS, "optax, all logits"):
        with ProcessPoolExecutor(1, get_context("spawn"), **head.IGNORE_INTERRUPTS) as pool:
            extra = pool.submit(_extra_memory, LAYERS[name], options.rows).result()
        rows.append([name, f"{extra / 2**20:.0f} MiB"])
    title = f"### Memory of linear layer and loss: {options.rows:,} rows, {N_CLASSES:,} classes, {N_FEATURES} features"
    logits = f"All logits would take {4 * options.rows * N_CLASSES / 2**20:.0f} MiB."
    return f"{title}\n\n" + table(["", "besides inputs and gradients"], rows) + f"\n\n{logits}"


def _extra_memory(make: Callable[[Head], Run], n_rows: int) -> int:
    """Return the memory that a first call takes besides its gradients: later calls reuse what the process kept."""
    layer = random_layer(n_rows)
    _warm = make(random_layer(8))()  # starts threads
    return peak_memory(make(layer)) - layer.features.nbytes - layer.weight.nbytes


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jax", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="ROWSxCLASSES")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=1024, help="of the linear layer")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--quick", action="store_true", help="two shapes in float32, few rows, three rounds")
    parser.add_argument("--write", action="store_true", help="into docs/jax.md; all parts")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write needs all rounds; leave out --quick")
    if options.write and set(options.parts) != set(PARTS):
        parser.error("--write needs all parts")
    if any(importlib.util.find_spec(package) is None for package in ("jax", "optax")):
        raise SystemExit('JAX or optax is not installed: pip install -e ".[bench]"')
    here = machine()
    packages = ", ".join(f"{name} {here['packages'][name]}" for name in ("softmaxloss", "jax", "optax"))
    text = f"{here['cores']} cores of {here['processor']}; {packages}; {options.repeats} rounds."
    parts = [{"loss": losses, "head": layers, "memory": memory}[part](options) for part in options.parts]
    print(text := "\n\n".join([textwrap.fill(text, 118), *parts]))
    if options.write:
        replace_between(DOCUMENT, BEGIN, f"\n{text}\n")


if __name__ == "__main__":
    main()
