"""Digests of the results of all functions, one line per case: `python -m benchmarks.fingerprint`.

Run it before and after a change that shall change no bit, and compare the lines. They hold for one machine and one
version of NumPy and Numba only.
"""

import argparse
import hashlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import softmaxloss as sl
from benchmarks.shapes import DTYPES

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from everything import everything, fingerprint, make_problem

Array = np.ndarray[Any, Any]
# Numbers of classes on both sides of each bound in the library: lanes, rows side by side or not, blocks, slices, and
# rows so long that their exponentials wait in the place of the gradient.
FEW_ROWS = {32_769: 3, 140_000: 9, 300_000: 2}
CLASSES = {10: 3000, 100: 640, 161: 320, 1000: 160, 2100: 80, 5000: 40, **FEW_ROWS}
CAP = 6.0


def of_dense_targets(logits: Array, labels: Array, axis: int) -> dict[str, Array]:
    """Return what soft targets, one-hot ones, class weights and a mask make of losses and gradients."""
    n_classes = logits.shape[axis]
    one_hot = np.moveaxis(np.arange(n_classes) == labels[..., None], -1, axis)
    soft = (0.5 * one_hot + 0.5 / n_classes).astype(np.float32)
    weights = {"class_weight": 1 + np.arange(n_classes) % 3 / 2, "label_smoothing": 0.1, "z_loss": 0.01}
    mask = {"class_mask": (np.arange(n_classes) % 7 > 0) | (np.arange(n_classes) < 2)}
    results = {}
    for name, targets, options in [
        ("soft", soft, {}),
        ("double", soft.astype(np.float64), weights),
        ("half", soft.astype(np.float16), weights),
        ("bool", one_hot, weights),
        ("mask", labels % 2, mask | {"label_smoothing": 0.1}),
    ]:
        loss, gradient = sl.cross_entropy_and_grad(logits, targets, axis=axis, reduction="none", **options)
        results |= {name: np.asarray(loss), f"d_{name}": gradient}
    return results


def of_other_memory(logits: Array, labels: Array, axis: int, softcap: float | None) -> dict[str, Array]:
    """Return results for arrays in other places, orders and byte orders, and in the place of the logits."""
    options = {"axis": axis, "reduction": "none", "softcap": softcap}
    lying = {"fortran": np.asfortranarray(logits), "strided": np.repeat(logits, 2, axis)[..., ::2]}
    if axis != -1:
        lying["strided"] = np.repeat(logits, 2, 0)[::2]
    if logits.dtype.isbuiltin == 1:
        lying["swapped"] = logits.astype(logits.dtype.newbyteorder())
    results = {}
    for name, z in lying.items():
        loss, gradient = sl.cross_entropy_and_grad(z, labels, **options)
        results |= {name: np.asarray(loss), f"d_{name}": gradient, f"y_{name}": sl.softmax(z, axis=axis)}
        results[f"log_{name}"] = sl.log_softmax(z, axis=axis)
        out = z.copy(order="K")
        sl.cross_entropy_and_grad(out, labels, out=out, **options)
        results[f"in_place_{name}"] = out.astype(logits.dtype)
    return results


def cases(dtypes: list[str], most_classes: int) -> Iterator[tuple[str, str]]:
    """Yield the name and the digest of each case."""
    for dtype, n_classes, axis, softcap in itertools.product(dtypes, CLASSES, (-1, 1), (None, CAP)):
        few = n_classes in FEW_ROWS
        if n_classes > most_classes or (few and (axis == 1 or softcap)):
            continue
        batch = (CLASSES[n_classes],) if few else (4, CLASSES[n_classes] // 4)
        problem = make_problem(DTYPES[dtype], axis, batch, n_classes, softcap)
        logits, labels = problem.logits, np.maximum(problem.labels, 0)
        results = [everything(problem), everything(problem, "mean"), of_other_memory(logits, labels, axis, softcap)]
        if softcap is None:
            results.append(of_dense_targets(logits, labels, axis))
        digests = map(fingerprint, results)
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        yield f"{dtype:9} {n_classes:7} classes, axis {axis}, softcap {softcap}", digest


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--most-classes", type=int, default=max(CLASSES))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sl.set_num_threads(options.threads)
    for name, digest in cases(options.dtypes, options.most_classes):
        print(f"{name:55} {digest}", flush=True)


if __name__ == "__main__":
    main()
