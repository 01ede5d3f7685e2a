"""How good predictions are: scores of single rows, figures computed from them, and the table at the end of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from softmaxloss.model_file import TableModel

BINS = 15
TOP = 5
MOST_LISTED, WORST = 20, 5
"""Of more classes, only the worst are listed."""
NOTES = (
    f"calibration error: mean gap between confidence and accuracy (ECE, {BINS} bins)\n"
    "balanced accuracy: mean recall of the classes\n"
    "baseline: a model without features; it predicts the share of each class in training"
)
"""What the closing table's words mean."""
BLOCK = 1 << 22
"""Rows are scored in blocks with about this number of probabilities, to limit memory."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of rows that figures are computed from; the arrays have shape (N,)."""

    classes: int
    target: NDArray[np.intp]
    predicted: NDArray[np.intp]
    loss: NDArray[np.float64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    rank: NDArray[np.intp]
    """Classes that come before the target; of equally probable ones, the first come first."""
    last_class: NDArray[np.float64]
    """Log-probability of the last class; of two classes, this is the one that AUC and average precision ask for."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the target."""
        return np.equal(self.predicted, self.target)


@dataclass(frozen=True)
class Figures:
    """One column of the table at the end of a run."""

    rows: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    top5_accuracy: float | None
    """None with 5 classes or fewer: it would always be 1."""
    auc: float | None
    """Area under the ROC curve, for two classes that both occur."""
    average_precision: float | None
    """The average precision of the second of two classes, if both occur."""
    calibration_error: float
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """The bins of confidence, as arrays of shape (BINS,). Means of an empty bin are NaN."""

    count: NDArray[np.intp]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def score(log_proba: Callable[[slice], NDArray[np.floating]], target: NDArray[np.intp], classes: int) -> Scores:
    """Score rows block by block; `log_proba(rows)` gives the log-probabilities of those rows, (rows, classes)."""
    size = max(1, BLOCK // classes)
    blocks = [slice(start, start + size) for start in range(0, len(target), size)]
    columns = [_score_block(log_proba(rows).astype(np.float64), target[rows]) for rows in blocks]
    return Scores(classes, target, *(np.concatenate(column) for column in zip(*columns, strict=True)))


def _score_block(logs: NDArray[np.float64], target: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
    of_target = np.take_along_axis(logs, target[:, None], axis=1)
    earlier = np.arange(logs.shape[1]) < target[:, None]
    rank = ((logs > of_target) | ((logs == of_target) & earlier)).sum(axis=1)
    return logs.argmax(axis=1), -of_target[:, 0], np.exp(logs.max(axis=1)), rank, logs[:, -1]


def model_scores(model: TableModel, features: NDArray[np.float32], target: NDArray[np.intp]) -> Scores:
    """Score the model on prepared features, shape (N, D)."""
    classifier = model.classifier
    return score(lambda rows: classifier.predict_log_proba(features[rows]), target, len(classifier.classes_))


def baseline_scores(class_counts: NDArray[np.int64], target: NDArray[np.intp]) -> Scores:
    """Score predictions that use no feature; see NOTES."""
    logs = np.log(class_counts / class_counts.sum())
    return score(lambda rows: np.broadcast_to(logs, (len(target[rows]), len(logs))), target, len(logs))


def sum_up(scores: Scores, seconds: float | None = None) -> Figures:
    """Sum up the rows."""
    last = scores.target == scores.classes - 1
    has_both = scores.classes == 2 and 0 < last.sum() < len(last)
    order = np.maximum(scores.last_class, np.finfo(np.float64).min)  # scikit-learn refuses -inf
    recall = per_class(scores)[1]
    return Figures(
        rows=len(scores.target),
        loss=float(scores.loss.mean()),
        accuracy=float(scores.correct.mean()),
        balanced_accuracy=float(recall[np.unique(scores.target)].mean()),
        top5_accuracy=float((scores.rank < TOP).mean()) if scores.classes > TOP else None,
        auc=float(roc_auc_score(last, order)) if has_both else None,
        average_precision=float(average_precision_score(last, order)) if has_both else None,
        calibration_error=calibration_error(scores),
        seconds=seconds,
    )


def per_class(scores: Scores) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return precision, recall, F1 and number of rows of each class; 0 if it has no row, or is never predicted."""
    labels = np.arange(scores.classes)
    return precision_recall_fscore_support(  # type: ignore[no-any-return]
        scores.target, scores.predicted, labels=labels, zero_division=0
    )


def class_figures(scores: Scores, classes: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the figures of each class, in a form that JSON can hold."""
    predicted = np.bincount(scores.predicted, minlength=scores.classes)
    return [
        {
            "class": label,
            "rows": int(rows),
            "predicted": int(guesses),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
        }
        for label, guesses, precision, recall, f1, rows in zip(classes, predicted, *per_class(scores), strict=True)
    ]


def print_classes(scores: Scores, classes: Sequence[Any], part: str) -> None:
    """Print a line for each class, or if they are many, for those of the lowest F1; and the classes never predicted."""
    figures = class_figures(scores, classes)
    some = sorted(figures, key=lambda one: one["f1"])[:WORST] if len(figures) > MOST_LISTED else figures
    title = f"lowest F1, {part}" if len(some) < len(figures) else f"class, {part}"
    table = Table(box=None, pad_edge=False)
    for name in (title, "rows", "predicted", "precision", "recall", "F1"):
        table.add_column(name, justify="left" if name == title else "right")
    for one in some:
        numbers = (f"{one[name]:.2%}" for name in ("precision", "recall", "f1"))
        table.add_row(shown_label(one["class"]), str(one["rows"]), str(one["predicted"]), *numbers)
    console = Console(highlight=False, markup=False)
    if _fits(table, console):
        console.print(table)
    else:
        for one in some:
            print(f"{shown_label(one['class'])}: recall {one['recall']:.2%}, precision {one['precision']:.2%}")
    never = [shown_label(one["class"]) for one in figures if one["rows"] > 0 and one["predicted"] == 0]
    if never:
        more = f" and {len(never) - WORST} more" if len(never) > WORST else ""
        print(f"warning: the model never predicts {', '.join(never[:WORST])}{more}; try train --class-weight balanced")


def shown_label(label: Any, limit: int = 24) -> str:
    """Return a class as one short line."""
    text = " ".join(str(label).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def calibration(scores: Scores) -> Calibration:
    """Sort rows into bins of equal width by the confidence of their prediction."""
    bins = (scores.confidence * BINS).astype(np.intp).clip(max=BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights, BINS) for weights in (scores.confidence, scores.correct))
    confidence, accuracy = (np.divide(total, count, out=np.full(BINS, np.nan), where=count > 0) for total in sums)
    return Calibration(count, confidence, accuracy)


def calibration_error(scores: Scores) -> float:
    """Return the expected calibration error: the mean over rows of the gap of confidence and accuracy in their bin."""
    bins = calibration(scores)
    filled = bins.count > 0
    gaps = np.abs(bins.accuracy - bins.confidence)[filled]
    return float(np.average(gaps, weights=bins.count[filled]))


def print_table(columns: Mapping[str, Figures]) -> None:
    """Print the table at the end of a run, or its numbers line by line if the terminal is too narrow."""
    rows = {
        "rows": [f"{column.rows}" for column in columns.values()],
        "loss (nats)": [f"{column.loss:.4f}" for column in columns.values()],
        "accuracy": [f"{column.accuracy:.2%}" for column in columns.values()],
        "balanced accuracy": [f"{column.balanced_accuracy:.2%}" for column in columns.values()],
        f"top-{TOP} accuracy": [_or_blank(column.top5_accuracy, ".2%") for column in columns.values()],
        "AUC": [_or_blank(column.auc, ".4f") for column in columns.values()],
        "average precision": [_or_blank(column.average_precision, ".4f") for column in columns.values()],
        "calibration error": [f"{column.calibration_error:.4f}" for column in columns.values()],
        "seconds": [_or_blank(column.seconds, ".2f") for column in columns.values()],
    }
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for label, cells in rows.items():
        if any(cells):
            table.add_row(label, *cells)
    console = Console(highlight=False)
    if _fits(table, console):
        console.print(table)
        return
    for label, cells in rows.items():
        for name, cell in zip(columns, cells, strict=True):
            if cell:
                print(label, name, cell)


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(width=1000)).maximum <= console.width


def _or_blank(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
