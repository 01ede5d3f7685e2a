"""Loss and gradient against PyTorch eager and a plain copy of the logits, in one run, alternating.

python benchmarks/forward_backward.py [ROWS CLASSES] [--threads N] [--repeats N]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import softmaxloss


def contenders(rows: int, classes: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, each on the same float32 logits and class indices, with its best settings."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    targets = rng.integers(0, classes, rows)
    gradient, copied = np.empty_like(logits), np.empty_like(logits)

    softmaxloss.set_num_threads(threads)
    torch.set_num_threads(threads)
    torch_logits = torch.tensor(logits, requires_grad=True)
    torch_targets = torch.tensor(targets)
    pool = ThreadPoolExecutor(threads)
    parts = [slice(rows * i // threads, rows * (i + 1) // threads) for i in range(threads)]

    def ours() -> None:
        softmaxloss.cross_entropy_and_grad(logits, targets, out=gradient)

    def eager() -> None:
        torch_logits.grad = None
        torch.nn.functional.cross_entropy(torch_logits, torch_targets).backward()

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(copied[part], logits[part]), parts))

    ours()
    eager()
    difference = np.abs(gradient - torch_logits.grad.numpy()).max()
    if not difference <= 1e-5 * np.abs(gradient).max():
        raise SystemExit(f"the gradients differ by {difference}")
    return {"softmaxloss": ours, "PyTorch eager": eager, "copy of the logits": copy}


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of the second of two runs: in the first, threads of the library before may still spin."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="?", default=1024)
    parser.add_argument("classes", type=int, nargs="?", default=32000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()

    runs = contenders(options.rows, options.classes, options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            elapsed = timed(run)
            if repeat > 0:  # the first round warms up
                seconds[name].append(elapsed)

    ours = statistics.median(seconds["softmaxloss"])
    print(f"float32 loss + gradient, {options.rows} x {options.classes}, {options.threads} threads")
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values) * 1e3:.2f} to {max(values) * 1e3:.2f}"
        print(f"  {name:20} median {median * 1e3:9.2f} ms ({spread}), {median / ours:6.2f} x softmaxloss")


if __name__ == "__main__":
    main()
