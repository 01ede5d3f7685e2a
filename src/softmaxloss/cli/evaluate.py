"""`softmaxloss evaluate`: how well a model does on a table that has the target."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxloss import cross_entropy, fit_temperature
from softmaxloss.cli import standard_output
from softmaxloss.cli.columns import features_for, for_model, labels_for, notes_for
from softmaxloss.cli.data import STANDARD_INPUT, read_model, read_table
from softmaxloss.cli.metrics import (
    BLOCK,
    NOTES,
    baseline_scores,
    class_figures,
    model_scores,
    print_classes,
    print_table,
    sum_up,
)
from softmaxloss.cli.text_options import TextOptions


def run_evaluate(model_path: Path, data: str, options: TextOptions, *, drop_unlabelled: bool, as_json: bool) -> None:
    """Score every row of the table, and tell the user if the model may have been trained on these rows."""
    model = read_model(model_path)
    table, labels = labels_for(for_model(read_table(data, options), model), model, drop_unlabelled=drop_unlabelled)
    features = features_for(table, model)
    started = time.perf_counter()
    scores = model_scores(model, features, labels.codes)
    seconds = time.perf_counter() - started
    classes = model.classifier.classes_.tolist()
    figures = {"model": sum_up(scores, seconds), "baseline": sum_up(baseline_scores(model.class_counts, labels.codes))}
    trained_on = model.options.get("data")
    flatters = (
        isinstance(trained_on, str) and data != STANDARD_INPUT and Path(data).resolve() == Path(trained_on).resolve()
    )
    some = np.linspace(0, len(features) - 1, min(len(features), max(1, BLOCK // len(classes)))).astype(int)
    logits = model.classifier.predict_log_proba(features[some])
    temperature = best_temperature(logits, labels.codes[some])
    if as_json:
        result = {
            "data": data,
            "figures": {name: asdict(column) for name, column in figures.items()},
            "classes": class_figures(scores, classes),
            "best_temperature": temperature,
            "trained_on_these_rows": flatters,
            "notes": notes_for(table, model),
        }
        with standard_output():
            json.dump(result, sys.stdout, indent=2)
            print()
        return
    with standard_output():
        for note in notes_for(table, model):
            print(note)
        print_table(figures)
        print(NOTES)
        print_classes(scores, classes, "model")
        if temperature is not None:
            gain = cross_entropy(logits, labels.codes[some]) - cross_entropy(
                logits, labels.codes[some], temperature=temperature
            )
            measured = f"{len(some)} rows measured"
            print(f"dividing the logits by {temperature:.3g} would lower the loss by {gain:.4f} ({measured})")
        if flatters:
            print(f"the model was trained on rows of {data}: expect worse figures on new rows")


def best_temperature(logits: NDArray[Any], codes: NDArray[np.intp]) -> float | None:
    """Return the temperature with the smallest loss; None if all rows are right, or logits no better than chance."""
    try:
        return fit_temperature(logits, codes)
    except ValueError:
        return None
