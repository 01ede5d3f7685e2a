"""Time a pass of partial_fit beside one of scikit-learn's SGDClassifier, and measure how near three passes come.

python -m benchmarks.stream [--problems digits] [--size 1000] [--rounds 3]

Excess is the relative distance of our objective from its minimum, after three passes in which each sample has weight
1 / 3. Ratios are seconds over ours, the median of the rounds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from sklearn.linear_model import SGDClassifier

from benchmarks.classifier import Data, _normal, digits, text
from benchmarks.markdown import table
from softmaxloss import SoftmaxClassifier, linear_cross_entropy

PASSES = 3
PROBLEMS: dict[str, Callable[[], Data]] = {
    "digits": digits,
    "20,000 x 50, 10 classes": lambda: _normal(20_000, 50, 10),
    "20,000 x 50, 20 classes": lambda: _normal(20_000, 50, 20),
    "20,000 x 64, 200 classes": lambda: _normal(20_000, 64, 200),
    "text, 100,000 words, 20 classes": text,
}


def seconds(model: Any, features: Any, labels: np.ndarray[Any, Any], size: int, passes: int = 1) -> float:
    """Return how long passes over the data take, in batches of `size` samples."""
    classes, start = np.unique(labels), time.perf_counter()
    for _ in range(passes):
        for first in range(0, len(labels), size):
            part = slice(first, first + size)
            weight = np.full(len(labels[part]), 1 / passes)
            model.partial_fit(features[part], labels[part], classes=classes, sample_weight=weight)
    return time.perf_counter() - start


def objective(model: Any, features: Any, labels: np.ndarray[Any, Any]) -> float:
    """Return the objective of `fit` with C = 1."""
    loss = linear_cross_entropy(features, model.coef_, labels, model.intercept_, reduction="sum")
    return float(loss + np.vdot(model.coef_, model.coef_) / 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--size", type=int, default=1000, help="samples in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for problem in arguments.problems:
        features, labels = PROBLEMS[problem]()
        order = np.random.default_rng(0).permutation(len(labels))
        features, labels = features[order], labels[order]
        seconds(SoftmaxClassifier(), features, labels, arguments.size)  # compiles
        ours, ratios = [], []
        for _ in range(arguments.rounds):
            ours.append(seconds(SoftmaxClassifier(), features, labels, arguments.size))
            ratios.append(seconds(SGDClassifier(loss="log_loss"), features, labels, arguments.size) / ours[-1])
        model = SoftmaxClassifier()
        seconds(model, features, labels, arguments.size, PASSES)
        least = objective(SoftmaxClassifier(tol=1e-8).fit(features, labels), features, labels)
        excess = objective(model, features, labels) / least - 1
        rows.append([problem, f"{median(ours):.2f} s", f"{median(ratios):.2f}", f"{excess:.1e}"])
    print(table(["problem", "a pass of partial_fit", "SGDClassifier", "our excess after three passes"], rows))


if __name__ == "__main__":
    main()
