"""Time the classifier beside scikit-learn's logistic regression, and measure the memory that both take.

python -m benchmarks.classifier [--problems digits] [--rounds 5]

Each fit runs in a process of its own. scikit-learn is tried with two solvers and several tolerances. For each library,
the fastest fit counts whose objective is within a relative 1e-4 of the lowest one found. The defaults of both are
compared, too. Excess means the relative distance to the lowest objective found.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.markdown import table

CLOSE = 1e-4  # relative excess over the least objective
DEFAULT = "default"
OURS = {DEFAULT: {}, "tol=1e-4": {"tol": 1e-4}, "tol=1e-5": {"tol": 1e-5}}
TOLERANCES = (1e-5, 1e-6, 1e-7)
THEIRS: dict[str, dict[str, Any]] = {DEFAULT: {}} | {
    f"{solver}, tol={tol:g}": {"solver": solver, "tol": tol, "max_iter": 10_000}
    for solver in ("lbfgs", "newton-cholesky")
    for tol in TOLERANCES
}
MOST_COEFFICIENTS = 5000  # with more, newton-cholesky's Hessian of all coefficients is out of reach

Data = tuple[Any, np.ndarray[Any, Any]]


def digits() -> Data:
    """Return scikit-learn's digits, standardised."""
    from sklearn.datasets import load_digits
    from sklearn.preprocessing import StandardScaler

    features, labels = load_digits(return_X_y=True)
    return StandardScaler().fit_transform(features), labels


def _normal(n_rows: int, n_features: int, n_classes: int) -> Data:
    """Return standard normal features, and labels drawn from the softmax of a random linear layer."""
    random = np.random.default_rng(0)
    features = random.normal(size=(n_rows, n_features))
    weight = random.normal(size=(n_classes, n_features)) / np.sqrt(n_features) * 2
    labels = np.empty(n_rows, int)
    for start in range(0, n_rows, 5000):
        noise = random.gumbel(size=(len(features[start : start + 5000]), n_classes))
        labels[start : start + 5000] = (features[start : start + 5000] @ weight.T + noise).argmax(1)
    return features, labels


def text() -> Data:
    """Return TF-IDF features of 11,314 made-up texts of 20 classes: 100,000 words, some typical of one class."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfTransformer

    random = np.random.default_rng(0)
    n_rows, n_words, n_classes, length = 11_314, 100_000, 20, 150
    labels = random.integers(n_classes, size=n_rows)
    words = np.minimum(random.zipf(1.3, size=(n_rows, length)) - 1, n_words - 1)
    of_class = random.random((n_rows, length)) < 0.15
    own = 1000 + 500 * labels[:, None] + np.minimum(random.zipf(1.2, size=(n_rows, length)), 500) - 1
    words = np.where(of_class, own, words)
    rows = np.repeat(np.arange(n_rows), length)
    counts = sparse.csr_matrix((np.ones(words.size), (rows, words.ravel())), shape=(n_rows, n_words))
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts), labels


PROBLEMS: dict[str, Callable[[], Data]] = {
    "digits": digits,
    "200,000 x 50, 10 classes": lambda: _normal(200_000, 50, 10),
    "20,000 x 64, 2,000 classes": lambda: _normal(20_000, 64, 2000),
    "text, 100,000 words, 20 classes": text,
}


class Fit(NamedTuple):
    """The cost and the objective of one fit."""

    seconds: float
    objective: float
    iterations: int
    peak: float  # MiB beyond the data


def fit(problem: str, is_ours: bool, options: dict[str, Any]) -> Fit:  # noqa: FBT001
    """Fit in this process, after a first short fit that loads and compiles everything."""
    import warnings

    from sklearn.linear_model import LogisticRegression

    from softmaxloss import SoftmaxClassifier, linear_cross_entropy

    warnings.simplefilter("ignore")
    estimator: Any = SoftmaxClassifier if is_ours else LogisticRegression
    features, labels = PROBLEMS[problem]()
    few = np.flatnonzero(labels < labels[:2].max() + 1)[:200]
    estimator(max_iter=2).fit(features[few], labels[few])
    before = _peak()
    start = time.perf_counter()
    model = estimator(**options).fit(features, labels)
    seconds = time.perf_counter() - start
    peak = _peak() - before
    loss = linear_cross_entropy(features, model.coef_, np.searchsorted(model.classes_, labels), model.intercept_)
    objective = len(labels) * loss + float(np.vdot(model.coef_, model.coef_)) / 2
    return Fit(seconds, float(objective), int(np.max(model.n_iter_)), peak)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _apart(problem: str, is_ours: bool, options: dict[str, Any]) -> Fit:  # noqa: FBT001
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(fit, problem, is_ours, options).result()


def compare(problem: str, rounds: int) -> list[str]:
    """Return the rows of the table: the medians of each library over the rounds."""
    features, labels = PROBLEMS[problem]()
    coefficients = features.shape[1] * len(np.unique(labels))
    contenders = [(True, name, options) for name, options in OURS.items()] + [
        (False, name, options)
        for name, options in THEIRS.items()
        if "newton" not in name or coefficients <= MOST_COEFFICIENTS
    ]
    found: dict[tuple[bool, str], list[Fit]] = {}
    for _ in range(rounds):
        for is_ours, name, options in contenders:
            found.setdefault((is_ours, name), []).append(_apart(problem, is_ours, options))
    middle = {key: Fit(*map(median, zip(*fits, strict=True))) for key, fits in found.items()}
    least = min(of.objective for of in middle.values())
    for (is_ours, name), of in middle.items():
        who = "softmaxloss" if is_ours else "scikit-learn"
        excess = of.objective / least - 1
        print(
            f"{problem}: {who} {name}: {of.seconds:.2f} s, {of.iterations} it, {excess:.1e}, {of.peak:.0f} MiB",
            flush=True,
        )

    def best(*, ours: bool) -> tuple[str, Fit]:
        close = [(key[1], of) for key, of in middle.items() if key[0] == ours and of.objective <= (1 + CLOSE) * least]
        return min(close, key=lambda pair: pair[1].seconds)

    rows = []
    for what, (our_name, our), (their_name, their) in (
        ("defaults", (DEFAULT, middle[True, DEFAULT]), (DEFAULT, middle[False, DEFAULT])),
        (f"within {CLOSE:g}", best(ours=True), best(ours=False)),
    ):
        excess = [of.objective / least - 1 for of in (our, their)]
        rows.append(
            f"{problem}|{what}|{our.seconds:.2f} s, {our_name}|{their.seconds:.2f} s, {their_name}|"
            f"{their.seconds / our.seconds:.1f} x|{excess[0]:.0e}|{excess[1]:.0e}|"
            f"{our.peak:.0f} MiB|{their.peak:.0f} MiB"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = [row.split("|") for problem in arguments.problems for row in compare(problem, arguments.rounds)]
    head = [
        *("problem", "compared", "softmaxloss", "scikit-learn", "faster", "our excess", "its excess"),
        *("our memory", "its memory"),
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
