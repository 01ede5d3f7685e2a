# ruff: noqa: N802, N803, N806  C is scikit-learn's name
"""The fit of `softmaxloss train`: prepares kernels, chooses the regularisation, keeps the losses of iterations."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from softmaxloss.classifier import SoftmaxClassifier
from softmaxloss.cli.metrics import score
from softmaxloss.cli.options import TrainOptions
from softmaxloss.cli.progress import Progress
from softmaxloss.kernels.machine import compilation

FOLDS = 5
CANDIDATES = 10.0 ** np.arange(-4, 4.5, 0.5)
"""The values of C that --C auto tries, from strong to weak regularisation."""
PATIENCE = 3
"""The search stops when this number of values in a row did not lower the loss."""


@dataclass(frozen=True)
class Examples:
    """Features and classes of some rows."""

    features: NDArray[np.float32]
    codes: NDArray[np.intp]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier, whose labels are the positions of classes, and facts about its fit."""

    classifier: SoftmaxClassifier
    converged: bool
    test_curve: list[float]
    """The mean loss of the test part after each iteration; empty without a test part."""
    C_curve: list[dict[str, float]]
    """For --C auto: each value tried, with the mean and the standard deviation of the loss over the folds."""


def prepare_kernels(train: Examples, progress: Progress) -> None:
    """Call the kernels on one row per class, so that they are compiled, or loaded from the disk."""
    _, first = np.unique(train.codes, return_index=True)
    few = Examples(train.features[first], train.codes[first])
    compilation.told = True
    with progress.line("preparing kernels, once"), warnings.catch_warnings(action="ignore"):
        classifier = SoftmaxClassifier(max_iter=1).fit(few.features, few.codes)
        classifier.predict_log_proba(few.features)


def fit(train: Examples, test: Examples | None, options: TrainOptions, progress: Progress) -> Fit:
    """Fit the classifier."""
    curve = choose_C(train, options, progress) if options.C == "auto" else []
    C = min(curve, key=lambda one: one["loss"])["C"] if curve else float(options.C)
    classifier, test_curve = _classifier(options, C), []
    with progress.iterations() as shown:

        def after(iteration: int, objective: float) -> None:
            if test is not None:
                test_curve.append(mean_loss(classifier, test))
            if shown is not None:
                shown(iteration, objective)

        converged = _fit(classifier, train, after)
    return Fit(classifier, converged, test_curve, curve)


def choose_C(train: Examples, options: TrainOptions, progress: Progress) -> list[dict[str, float]]:
    """Return the loss of each C in cross-validation. The fit of a fold starts from the fit with the previous C."""
    smallest = int(np.bincount(train.codes).min())
    if smallest < 2:
        raise ValueError("--C auto needs at least two rows of each class to train on; give --C a number")
    folds = list(
        StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=options.seed).split(
            train.features, train.codes
        )
    )
    classifiers = [_classifier(options, 1.0, warm_start=True) for _ in folds]
    curve: list[dict[str, float]] = []
    for C in CANDIDATES.tolist():
        losses = []
        with progress.line(f"trying C = {C:.3g}"):
            for classifier, (fitted, held) in zip(classifiers, folds, strict=True):
                classifier.set_params(C=C)
                _fit(classifier, Examples(train.features[fitted], train.codes[fitted]), None)
                losses.append(mean_loss(classifier, Examples(train.features[held], train.codes[held])))
        curve.append({"C": C, "loss": float(np.mean(losses)), "deviation": float(np.std(losses))})
        best = min(range(len(curve)), key=lambda k: curve[k]["loss"])
        if len(curve) - 1 - best >= PATIENCE:
            break
    return curve


def mean_loss(classifier: SoftmaxClassifier, examples: Examples) -> float:
    """Return the mean loss of rows, in nats."""
    codes = np.searchsorted(classifier.classes_, examples.codes)
    scores = score(lambda rows: classifier.predict_log_proba(examples.features[rows]), codes, len(classifier.classes_))
    return float(scores.loss.mean())


def _classifier(options: TrainOptions, C: float, *, warm_start: bool = False) -> SoftmaxClassifier:
    return SoftmaxClassifier(
        C=C,
        max_iter=options.max_iter,
        class_weight=options.class_weight,
        label_smoothing=options.label_smoothing,
        warm_start=warm_start,
    )


def _fit(classifier: SoftmaxClassifier, train: Examples, after: Callable[[int, float], Any] | None) -> bool:
    """Fit, and return whether the fit converged."""
    with warnings.catch_warnings(record=True, action="ignore") as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(train.features, train.codes, callback=after)
    return not caught
