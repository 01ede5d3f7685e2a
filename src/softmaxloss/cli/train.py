"""`softmaxloss train`: from a table to a folder with the model, its scores and pictures."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from softmaxloss import __version__
from softmaxloss.cli import CommandError, counted, standard_output
from softmaxloss.cli.columns import (
    ColumnOptions,
    Columns,
    choose_columns,
    given_names,
    known_columns,
    prepared,
    with_labels,
)
from softmaxloss.cli.data import STANDARD_INPUT, Table, read_table, shown, with_points
from softmaxloss.cli.fitting import Examples, Fit, fit, prepare_kernels
from softmaxloss.cli.interrupt import prompt_interrupt
from softmaxloss.cli.labels import choose_target, learned_labels, possible_targets
from softmaxloss.cli.metrics import (
    NOTES,
    Figures,
    Scores,
    baseline_scores,
    class_figures,
    model_scores,
    print_classes,
    print_table,
    sum_up,
)
from softmaxloss.cli.options import TrainOptions
from softmaxloss.cli.outputs import check_out, write_all
from softmaxloss.cli.progress import Progress
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.columns import as_numbers
from softmaxloss.model_file import MODEL_NAME, TableModel, model_to_bytes
from softmaxloss.preparation import TablePreparation

RESULTS = (MODEL_NAME, "metrics.json", "learning_curve.png", "confusion.png", "reliability.png")
C_CURVE = "regularisation.png"
Rows = NDArray[np.intp]


def run_train(data: str, options: TrainOptions, text: TextOptions) -> None:
    """Read, split, fit and score. Write the results when all of them are ready."""
    out = options.out or Path(f"softmaxloss-{_short_name(data)}")
    names = (*RESULTS, C_CURVE) if options.C == "auto" else RESULTS
    check_out(out, names, lambda content: b"softmaxloss" in content)
    table = read_table(
        data,
        text,
        lambda columns: [*possible_targets(columns, options.target), *given_names(columns, options.date)],
    )
    target, reason = choose_target(table, options.target)
    try:
        table, labels = with_labels(table, target, learned_labels(table, target), drop=options.drop_unlabelled)
    except CommandError as error:
        raise CommandError(f"{error}{reason and f'; the target is {reason}, name another with --target'}") from error
    codes, classes = labels.codes, labels.classes
    if len(classes) == 1:
        raise CommandError(
            f"{data}: column {shown(target)} holds one class only, {shown(classes.tolist()[0])}; add rows of another "
            "class, or name another column with --target"
        )
    table = with_points(table, {target, *known_columns(table, "id", options.id)})
    columns = choose_columns(table, target, ColumnOptions(options.features, options.drop, options.id, options.date))
    for name in columns.numbers:  # one by one: a column of numbers takes less memory than its text
        table.frame.replace_column(table.frame.get_column_index(name), as_numbers(table.frame[name]))
    with standard_output():
        print(
            f"{data}: {len(codes)} rows, {counted(len(columns.names), 'feature column')}, {len(classes)} classes in "
            f"column {shown(target)}{reason and f' ({reason}; if it is the wrong one, use --target)'}",
            flush=True,
        )
        for note in [*table.notes, *columns.notes]:
            print(note, flush=True)
    parts = split(table, codes, options)
    preparation = TablePreparation(columns.numbers, columns.words, columns.dates)
    examples = _examples(table, codes, parts, preparation)
    id_columns, column_names = known_columns(table, "id", options.id), table.frame.columns
    gaps = preparation.count_gaps(table.frame)
    del table  # so its memory is free during the fit

    progress, seconds = Progress(quiet=options.quiet), {}
    with prompt_interrupt():
        prepare_kernels(examples["train"], progress)
        started = time.perf_counter()
        try:
            fitted = fit(examples["train"], examples.get("test"), options, progress)
        except ValueError as error:
            raise CommandError(f"{data}: {error}") from error
        seconds["train"] = time.perf_counter() - started
        fitted.classifier.classes_ = classes
        described = asdict(options) | asdict(text)
        model = TableModel(
            pipeline=Pipeline([("preparation", preparation), ("classifier", fitted.classifier)]),
            target_name=target,
            class_counts=np.bincount(examples["train"].codes, minlength=len(classes)),
            id_columns=id_columns,
            column_names=column_names,
            options={"data": data} | {key: value for key, value in described.items() if key not in {"out", "quiet"}},
        )
        scores = {}
        for part, some in examples.items():
            started = time.perf_counter()
            scores[part] = model_scores(model, some.features, some.codes)
            seconds.setdefault(part, time.perf_counter() - started)
    figures = {part: sum_up(scores[part], seconds[part]) for part in parts}
    figures["baseline"] = sum_up(baseline_scores(model.class_counts, codes[list(parts.values())[-1]]))
    write_all(out, _results(model, figures, scores, fitted))

    with standard_output():
        _report(columns, gaps, model, figures, scores, fitted)
        print(f"wrote {', '.join(names)} to {out}")


def _short_name(data: str) -> str:
    path = Path(data)
    return "table" if data == STANDARD_INPUT else Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def split(table: Table, codes: Rows, options: TrainOptions) -> dict[str, Rows]:
    """Return the rows to train on and, unless no test part is wanted, those to test on.

    Both parts have the same fractions of the classes. Every class has at least one row to train on.
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
    absent = np.flatnonzero(~np.isin(codes[test], codes[train]))  # small classes of which all rows are in the test part
    moved = absent[np.unique(codes[test][absent], return_index=True)[1]]
    return {
        "train": np.sort(np.concatenate([train, test[moved], np.flatnonzero(single)])),
        "test": np.sort(np.delete(test, moved)),
    }


def _examples(
    table: Table, codes: Rows, parts: Mapping[str, Rows], preparation: TablePreparation
) -> dict[str, Examples]:
    """Return the examples of each part, and reorder the rows of the used columns."""
    order, start, examples = np.concatenate([*parts.values()]), 0, {}
    # one by one, to save memory; then the rows of a part are neighbours, and need no copy
    for name in preparation.columns:
        table.frame.replace_column(table.frame.get_column_index(name), table.frame[name][order])
    for part, rows in parts.items():
        frame = table.frame.select(preparation.columns)[start : start + len(rows)]
        examples[part] = Examples(prepared(table.name, frame, rows, preparation, fit=part == "train"), codes[rows])
        start += len(rows)
    return examples


def _report(  # noqa: PLR0917
    columns: Columns,
    gaps: int,
    model: TableModel,
    figures: Mapping[str, Figures],
    scores: Mapping[str, Scores],
    fitted: Fit,
) -> None:
    """Print what was learned, and the scores."""
    print(_features(columns, gaps, model))
    alone = np.count_nonzero(np.bincount(np.concatenate([one.target for one in scores.values()])) == 1)
    if alone and "test" in scores:
        print(f"classes with a single row: {alone}; they are trained on, but not tested")
    if fitted.C_curve:
        best = min(fitted.C_curve, key=lambda one: one["loss"])
        print(f"C = {best['C']:.3g}, with a loss of {best['loss']:.4f} in cross-validation")
    iterations, most = fitted.classifier.n_iter_, fitted.classifier.max_iter
    if fitted.converged:
        print(f"converged after {iterations} iterations")
    elif iterations == most:
        print(f"not converged: stopped at the limit of {most} iterations; raise it with --max-iter")
    else:
        limit = "where float32 has no digits left to lower the loss; try a smaller --C"
        print(f"not converged: stopped after {iterations} iterations, {limit}")
    print_table(figures)
    print("seconds: time to fit (train)" + (", time to predict (test)" if "test" in scores else ""))
    print(NOTES)
    part = list(scores)[-1]
    print_classes(scores[part], model.classifier.classes_.tolist(), f"{part} part")
    if "test" not in scores:
        print("no rows were kept out to test with: expect worse figures on new rows")


def _features(columns: Columns, gaps: int, model: TableModel) -> str:
    """Return a line about the kinds of columns, the number of features, and the number of gaps that were filled."""
    counts = {"number": len(columns.numbers), "text": len(columns.words), "date": len(columns.dates)}
    kinds = [counted(count, kind) for kind, count in counts.items() if count]
    if columns.words:
        kinds[1 if columns.numbers else 0] += f" with {sum(map(len, model.preparation.known_words.values()))} values"
    filled = f"; {counted(gaps, 'gap')} filled" if gaps else ""
    features = counted(model.classifier.n_features_in_, "feature")
    return f"{counted(len(columns.names), 'column')}: {', '.join(kinds)}{filled}; {features}"


def _results(
    model: TableModel, figures: Mapping[str, Figures], scores: Mapping[str, Scores], fitted: Fit
) -> dict[str, bytes]:
    """Return the content of each file. The pictures show the test part, or without one the train part."""
    from softmaxloss.cli import pictures  # noqa: PLC0415 - loads matplotlib, now that the table is gone

    classifier = fitted.classifier
    classes = classifier.classes_.tolist()
    part = list(scores)[-1]
    metrics = {
        "softmaxloss": __version__,
        "target": model.target_name,
        "features": classifier.n_features_in_,
        "classes": classes,
        "options": model.options,
        "iterations": int(classifier.n_iter_),
        "converged": fitted.converged,
        "figures": {name: asdict(column) for name, column in figures.items()},
        "per_class": {name: class_figures(one, classes) for name, one in scores.items()},
        "loss_curve": list(classifier.loss_curve_),
        "test_loss_curve": fitted.test_curve,
    }
    losses = {name: figures[name].loss for name in scores}
    contents = {
        MODEL_NAME: model_to_bytes(model),
        "learning_curve.png": pictures.learning_curve(classifier.loss_curve_, losses, fitted.test_curve),
        "confusion.png": pictures.confusion(scores[part], classes, part),
        "reliability.png": pictures.reliability(scores[part], part),
    }
    if fitted.C_curve:
        metrics["C_curve"] = fitted.C_curve
        contents[C_CURVE] = pictures.regularisation(fitted.C_curve)
    contents["metrics.json"] = (json.dumps(metrics, indent=2) + "\n").encode()
    return contents
