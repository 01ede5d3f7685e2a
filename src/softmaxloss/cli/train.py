"""`softmaxloss train`: from a table to a folder with the model, its figures and pictures."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from softmaxloss import __version__
from softmaxloss.classifier import SoftmaxClassifier
from softmaxloss.cli import CommandError, pictures, standard_output
from softmaxloss.cli.columns import choose_target, class_values, numbers, standardise
from softmaxloss.cli.data import BUNDLED, MODEL_NAME, Table, read_table, shown
from softmaxloss.cli.interrupt import prompt_interrupt
from softmaxloss.cli.metrics import (
    NOTES,
    Figures,
    Scores,
    baseline_scores,
    model_scores,
    print_table,
    sum_up,
)
from softmaxloss.cli.options import TrainOptions
from softmaxloss.cli.outputs import check_out, write_all
from softmaxloss.cli.progress import training_bar
from softmaxloss.model_file import TableModel, model_to_bytes

RESULTS = (MODEL_NAME, "metrics.json", "learning_curve.png", "confusion.png", "reliability.png")
Rows = NDArray[np.intp]


def run_train(data: str, options: TrainOptions) -> None:
    """Read, split, fit and score; write the results once all of them are there."""
    out = options.out or Path(f"softmaxloss-{data if data in BUNDLED else Path(data).stem}")
    check_out(out, RESULTS, lambda content: b"softmaxloss" in content)
    table = read_table(data)
    target = choose_target(table, options.target)
    names = [name for name in table.frame.columns if name != target]
    labels = class_values(table, target)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) == 1:
        raise CommandError(f"{data}: column {shown(target)} holds one class only, {shown(classes[0].item())}")
    with standard_output():
        print(
            f"{data}: {len(labels)} rows, {len(names)} features, {len(classes)} classes in column {shown(target)}",
            flush=True,
        )
    raw = numbers(table, names)
    parts = split(table, codes, options)
    mean, scale = _mean_and_scale(table, names, raw[parts["train"]])
    features = standardise(table, names, raw, mean, scale)

    described = {"data": data} | {key: value for key, value in asdict(options).items() if key not in {"out", "quiet"}}
    seconds, scores = {}, {}
    with prompt_interrupt():
        started = time.perf_counter()
        classifier, converged = _fit(features[parts["train"]], labels[parts["train"]], options)
        seconds["train"] = time.perf_counter() - started
        model = TableModel(
            classifier=classifier,
            mean=mean,
            scale=scale,
            feature_names=names,
            target_name=target,
            class_counts=np.bincount(codes[parts["train"]]),
            options=described,
        )
        for part, rows in parts.items():
            started = time.perf_counter()
            scores[part] = model_scores(model, features[rows], codes[rows])
            seconds.setdefault(part, time.perf_counter() - started)
    figures = {part: sum_up(scores[part], seconds[part]) for part in parts}
    figures["baseline"] = sum_up(baseline_scores(model.class_counts, codes[rows]))
    write_all(out, _results(model, figures, scores, converged=converged))

    alone = np.count_nonzero(np.bincount(codes) == 1)
    with standard_output():
        if alone and "test" in parts:
            print(f"{alone} of the classes have one row each: trained on, not tested on")
        if converged:
            print(f"converged after {classifier.n_iter_} iterations")
        elif classifier.n_iter_ == options.max_iter:
            print(f"not converged: stopped at the limit of {options.max_iter} iterations; see --max-iter")
        else:
            print(f"not converged: stopped after {classifier.n_iter_} iterations at the limit of float32; lower --C")
        print_table(figures)
        print("seconds: to fit the train part, to predict the test part")
        print(NOTES)
        if "test" not in parts:
            print("nothing was kept out to test with: these figures flatter the model")
        print(f"wrote {', '.join(RESULTS)} to {out}")


def split(table: Table, codes: Rows, options: TrainOptions) -> dict[str, Rows]:
    """Give the rows to train on and, unless none are wanted, to test on, with the same shares of the classes.

    Every class has at least one row to train on.
    """
    if options.test_size == 0:
        return {"train": np.arange(len(codes))}
    counts = np.bincount(codes)
    single = counts[codes] == 1
    try:
        train, test = train_test_split(
            np.flatnonzero(~single),
            test_size=options.test_size,
            random_state=options.seed,
            stratify=codes[~single],
        )
    except ValueError as error:
        raise CommandError(
            f"{table.name}: {len(codes)} rows of {len(counts)} classes are too few to keep a share of "
            f"{options.test_size:g} out for testing, with all classes on both sides; change --test-size, or train on "
            "all rows with --test-size 0"
        ) from error
    absent = np.flatnonzero(~np.isin(codes[test], codes[train]))  # small classes that went to the test part whole
    moved = absent[np.unique(codes[test][absent], return_index=True)[1]]
    return {
        "train": np.sort(np.concatenate([train, test[moved], np.flatnonzero(single)])),
        "test": np.sort(np.delete(test, moved)),
    }


def _fit(features: NDArray[np.float32], labels: NDArray[Any], options: TrainOptions) -> tuple[SoftmaxClassifier, bool]:
    """Give the fitted classifier and whether it converged."""
    classifier = SoftmaxClassifier(
        C=options.C,
        max_iter=options.max_iter,
        class_weight=options.class_weight,
        label_smoothing=options.label_smoothing,
    )
    with (
        warnings.catch_warnings(record=True, action="ignore") as caught,
        training_bar(options.max_iter, quiet=options.quiet) as callback,
    ):
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(features, labels, callback=callback)
    return classifier, not caught


def _mean_and_scale(
    table: Table, names: Sequence[str], features: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give what makes each column mean 0 and standard deviation 1; a constant column keeps its scale."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaler = StandardScaler().fit(features)
    too_large = np.flatnonzero(~np.isfinite(scaler.scale_))
    if too_large.size:
        raise CommandError(f"{table.name}: column {shown(names[too_large[0]])} holds values too large to square")
    return scaler.mean_, scaler.scale_


def _results(
    model: TableModel, figures: Mapping[str, Figures], scores: Mapping[str, Scores], *, converged: bool
) -> dict[str, bytes]:
    """Give the content of each file; the pictures show the test part, or the train part if it is all there is."""
    classifier = model.classifier
    metrics = {
        "softmaxloss": __version__,
        "target": model.target_name,
        "features": len(model.feature_names),
        "classes": classifier.classes_.tolist(),
        "options": model.options,
        "iterations": int(classifier.n_iter_),
        "converged": converged,
        "figures": {name: asdict(column) for name, column in figures.items()},
        "loss_curve": list(classifier.loss_curve_),
    }
    losses = {part: figures[part].loss for part in scores}
    part = list(scores)[-1]
    contents = (
        model_to_bytes(model),
        (json.dumps(metrics, indent=2) + "\n").encode(),
        pictures.learning_curve(classifier.loss_curve_, losses),
        pictures.confusion(scores[part], classifier.classes_.tolist(), part),
        pictures.reliability(scores[part], part),
    )
    return dict(zip(RESULTS, contents, strict=True))
