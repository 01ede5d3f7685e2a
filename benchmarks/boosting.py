"""Time the training of trees with our objective beside the libraries' own multi-class objectives.

python -m benchmarks.boosting [--repeats 4] [--threads 2]

Each pair trains once with each objective. There are two pairs for each repeat, and the ratios are medians over the
pairs. A first pair is not timed, because it compiles the kernels. It shows whether the trees are the same.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import softmaxloss
from benchmarks.markdown import table
from softmaxloss.boosting import SoftmaxObjective

TREES = 30  # of each class
Data = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def digits() -> Data:
    """Return scikit-learn's digits: 1,797 rows, 64 features, 10 classes."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def made_up() -> Data:
    """Return 100,000 rows of 20 features, and labels of 5 classes drawn from the softmax of a function of them."""
    random = np.random.default_rng(0)
    x = random.normal(size=(100_000, 20))
    return x, (np.tanh(x) @ random.normal(size=(20, 5)) + random.gumbel(size=(len(x), 5))).argmax(1)


def xgboost(x: Any, y: Any, threads: int) -> Callable[..., Any]:
    """Return a function that trains XGBoost, and returns the model and a function that computes its scores."""
    import xgboost

    params = {"num_class": y.max() + 1, "objective": "multi:softprob", "base_score": 0.5, "nthread": threads}
    matrix = xgboost.DMatrix(x, y, nthread=threads)

    def train(*, ours: bool) -> tuple[Any, Any]:
        booster = xgboost.train(params, matrix, TREES, obj=SoftmaxObjective("xgboost") if ours else None)
        return booster, lambda: booster.predict(matrix, output_margin=True)

    return train


def lightgbm(x: Any, y: Any, threads: int) -> Callable[..., Any]:
    """Return a function that trains LightGBM, and returns the model and a function that computes its scores."""
    import lightgbm

    params = {"num_class": y.max() + 1, "boost_from_average": False, "num_threads": threads, "verbose": -1}
    rows = lightgbm.Dataset(x, y, params={"num_threads": threads, "verbose": -1}).construct()

    def train(*, ours: bool) -> tuple[Any, Any]:
        objective = SoftmaxObjective("lightgbm") if ours else "multiclass"
        booster = lightgbm.train(params | {"objective": objective}, rows, TREES)
        return booster, lambda: booster.predict(x, raw_score=True, num_threads=threads)

    return train


SPLIT = {"xgboost": ["Feature", "Split"], "lightgbm": ["split_feature", "threshold"]}


def compare(library: Callable[..., Any], data: Callable[[], Data], repeats: int, threads: int) -> list[str]:
    """Return a row of the table."""
    softmaxloss.set_num_threads(threads)
    train = library(*data(), threads)
    splits, scores = [], []
    for ours in (True, False):
        booster, predict = train(ours=ours)
        splits.append(booster.trees_to_dataframe()[SPLIT[library.__name__]])
        scores.append(predict())
    same = splits[0].equals(splits[1]) and np.allclose(*scores, rtol=0, atol=1e-4)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    busy: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(2 * repeats):
        for ours in (True, False) if repeat % 2 else (False, True):
            start, start_busy = time.perf_counter(), time.process_time()
            train(ours=ours)
            seconds[ours].append(time.perf_counter() - start)
            busy[ours].append(time.process_time() - start_busy)
    return [
        library.__name__,
        data.__name__,
        "yes" if same else "no",
        *(f"{median(seconds[ours]):.2f} s" for ours in (True, False)),
        *(f"{median(np.divide(of[True], of[False])):.3f}" for of in (seconds, busy)),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = [
        compare(library, data, arguments.repeats, arguments.threads)
        for data in (digits, made_up)
        for library in (xgboost, lightgbm)
    ]
    head = ("library", "data", "same trees", "ours", "its own", "ratio of seconds", "ratio of CPU seconds")
    print(table(head, rows))


if __name__ == "__main__":
    main()
