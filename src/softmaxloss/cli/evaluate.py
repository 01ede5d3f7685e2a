"""`softmaxloss evaluate`: how well a model does on a table that has the target."""

import time
from pathlib import Path

from softmaxloss.cli import standard_output
from softmaxloss.cli.columns import classes_for, features_for
from softmaxloss.cli.data import read_model, read_table
from softmaxloss.cli.metrics import NOTES, baseline_scores, model_scores, print_table, sum_up


def run_evaluate(model_path: Path, data: str) -> None:
    """Score every row of the table, and say so where the model may have been trained on them."""
    model = read_model(model_path)
    table = read_table(data)
    target = classes_for(table, model)
    features = features_for(table, model)
    started = time.perf_counter()
    scores = model_scores(model, features, target)
    seconds = time.perf_counter() - started
    baseline = baseline_scores(model.class_counts, target)
    trained_on = model.options.get("data")
    flatters = isinstance(trained_on, str) and Path(data).resolve() == Path(trained_on).resolve()
    with standard_output():
        print_table({"model": sum_up(scores, seconds), "baseline": sum_up(baseline)})
        print(NOTES)
        if flatters:
            print(f"the model was trained on rows of {data}: these figures flatter it")
