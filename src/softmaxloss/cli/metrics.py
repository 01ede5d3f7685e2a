"""How good predictions are: scores of single rows, the figures made of them, and the closing table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from softmaxloss.model_file import TableModel

BINS = 15
TOP = 5
NOTES = (
    f"calibration error: mean gap between confidence and accuracy (ECE, {BINS} bins)\n"
    "baseline: no features, only the shares of the classes in training"
)
"""What the closing table's words mean."""
BLOCK = 1 << 22
"""Probabilities held at once; rows are scored in blocks of about so many."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the figures need of each row; the arrays have shape (N,)."""

    classes: int
    target: NDArray[np.intp]
    predicted: NDArray[np.intp]
    loss: NDArray[np.float64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    rank: NDArray[np.intp]
    """Classes that come before the target; of equally probable ones, the first come first."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the target."""
        return np.equal(self.predicted, self.target)


@dataclass(frozen=True)
class Figures:
    """One column of the closing table."""

    rows: int
    loss: float
    accuracy: float
    top5_accuracy: float | None
    """None with so few classes that it would say nothing."""
    calibration_error: float
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """The bins of confidence, each of shape (BINS,); shares are NaN where a bin is empty."""

    count: NDArray[np.intp]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def score(log_proba: Callable[[slice], NDArray[np.floating]], target: NDArray[np.intp], classes: int) -> Scores:
    """Score rows block by block; `log_proba(rows)` gives the log-probabilities of those rows, (rows, classes)."""
    size = max(1, BLOCK // classes)
    blocks = [slice(start, start + size) for start in range(0, len(target), size)]
    columns = [_score_block(log_proba(rows).astype(np.float64), target[rows]) for rows in blocks]
    predicted, loss, confidence, rank = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Scores(classes, target, predicted, loss, confidence, rank)


def _score_block(logs: NDArray[np.float64], target: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
    of_target = np.take_along_axis(logs, target[:, None], axis=1)
    earlier = np.arange(logs.shape[1]) < target[:, None]
    rank = ((logs > of_target) | ((logs == of_target) & earlier)).sum(axis=1)
    return logs.argmax(axis=1), -of_target[:, 0], np.exp(logs.max(axis=1)), rank


def model_scores(model: TableModel, features: NDArray[np.float32], target: NDArray[np.intp]) -> Scores:
    """Score the model on standardised features, shape (N, D)."""
    classifier = model.classifier
    return score(lambda rows: classifier.predict_log_proba(features[rows]), target, len(classifier.classes_))


def baseline_scores(class_counts: NDArray[np.int64], target: NDArray[np.intp]) -> Scores:
    """Score the answer that looks at no feature; see NOTES."""
    logs = np.log(class_counts / class_counts.sum())
    return score(lambda rows: np.broadcast_to(logs, (len(target[rows]), len(logs))), target, len(logs))


def sum_up(scores: Scores, seconds: float | None = None) -> Figures:
    """Sum up the rows."""
    return Figures(
        rows=len(scores.target),
        loss=float(scores.loss.mean()),
        accuracy=float(scores.correct.mean()),
        top5_accuracy=float((scores.rank < TOP).mean()) if scores.classes > TOP else None,
        calibration_error=calibration_error(scores),
        seconds=seconds,
    )


def calibration(scores: Scores) -> Calibration:
    """Sort rows into bins of equal width by the confidence of their prediction."""
    bins = (scores.confidence * BINS).astype(np.intp).clip(max=BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights, BINS) for weights in (scores.confidence, scores.correct))
    confidence, accuracy = (np.divide(total, count, out=np.full(BINS, np.nan), where=count > 0) for total in sums)
    return Calibration(count, confidence, accuracy)


def calibration_error(scores: Scores) -> float:
    """Give the expected calibration error: the mean gap of confidence and accuracy, over the rows' bins."""
    bins = calibration(scores)
    filled = bins.count > 0
    gaps = np.abs(bins.accuracy - bins.confidence)[filled]
    return float(np.average(gaps, weights=bins.count[filled]))


def print_table(columns: Mapping[str, Figures]) -> None:
    """Print the closing table, or lines of it where the terminal is too narrow for a table."""
    rows = {
        "rows": [f"{column.rows}" for column in columns.values()],
        "loss (nats)": [f"{column.loss:.4f}" for column in columns.values()],
        "accuracy": [f"{column.accuracy:.2%}" for column in columns.values()],
        f"top-{TOP} accuracy": [_or_blank(column.top5_accuracy, ".2%") for column in columns.values()],
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
    if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
        return
    for label, cells in rows.items():
        for name, cell in zip(columns, cells, strict=True):
            if cell:
                print(label, name, cell)


def _or_blank(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
