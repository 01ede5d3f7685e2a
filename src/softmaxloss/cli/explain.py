"""`softmaxloss explain`: every step from logits to gradient, for given logits or for a prediction of a model."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxloss.cli import CommandError, standard_output
from softmaxloss.cli.outputs import check_out, check_parent, write_all
from softmaxloss.explanation import Explanation, explain
from softmaxloss.explanation.row import PICTURES, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from softmaxloss.cli.text_options import TextOptions

MOST_FEATURES = 5
NAME_WIDTH = 24


class Contributions(NamedTuple):
    """The contributions of the features of one row to the logits of two classes."""

    names: list[str]
    values: NDArray[np.float64]
    n_standardised: int  # the first features are numbers, in standard units; the others are words that the row has
    of_class: dict[str, NDArray[np.float64]]

    def lines(self) -> list[str]:
        """Return the contributions as lines of text, the largest for each class first."""
        lines = []
        for title, given in self.of_class.items():
            lines += ["", f"features that gave most to the logit of {title}:"]
            for k in np.argsort(-np.abs(given), kind="stable")[:MOST_FEATURES]:
                name = self.names[k] if len(self.names[k]) <= NAME_WIDTH else f"{self.names[k][: NAME_WIDTH - 1]}…"
                side = "above" if self.values[k] >= 0 else "below"
                value = f"{abs(self.values[k]):.2f} standard deviations {side} the mean"
                word = "the row has this word" if self.values[k] else "the row lacks this word"
                value = value if k < self.n_standardised else word
                lines.append(f"  {name:<{NAME_WIDTH}} {given[k]:+8.3f}   {value}")
        return lines


@dataclass(frozen=True)
class Request:
    """The arguments of the command; texts are as the user typed them."""

    logits: str | None
    target: str | None
    labels: str | None
    label_smoothing: float
    temperature: float
    model: Path | None
    data: str | None
    row: int | None
    out: Path | None
    text: TextOptions | None = None


def run_explain(request: Request) -> None:
    """Print the table. If the user names a file, write the table or the graph to it."""
    if request.out is not None:
        _check(request.out)
    if (request.logits is None) == (request.model is None):
        raise CommandError(
            "explain needs either --logits and --target, or --model and --data; for example: softmaxloss explain "
            "--logits 0.3,2.9,4.0 --target 2"
        )
    explanation, more = _of_numbers(request) if request.model is None else _of_prediction(request, request.model)
    if request.out is not None:
        try:
            with warnings.catch_warnings(record=True, action="always") as caught:
                content = explanation.content(request.out.suffix.lower())
        except ValueError as error:
            raise CommandError(str(error)) from error
        for warning in caught:
            print(f"softmaxloss: {warning.message}", file=sys.stderr)
        write_all(request.out.parent, {request.out.name: content})
    with standard_output():
        print("\n".join([explanation.table(), *more]))
        if request.out is not None:
            print(f"\nwrote {request.out}")


def _of_numbers(request: Request) -> tuple[Explanation, list[str]]:
    if request.target is None:
        raise CommandError("--logits needs --target, the number or the label of the right class, such as --target 0")
    if request.data is not None or request.row is not None:
        raise CommandError("--data and --row belong to --model, not to --logits; leave them out, or name a --model")
    logits = _numbers("--logits", str(request.logits))
    labels = None if request.labels is None else [label.strip() for label in request.labels.split(",")]
    if labels is not None and len(set(labels)) < len(labels):
        raise CommandError(f"--labels must differ from each other, got {request.labels}; rename one of them")
    target: Any
    if "," in request.target:
        target = np.array(_numbers("--target", request.target))
    elif labels is not None and request.target.strip() in labels:
        target = labels.index(request.target.strip())
    else:
        try:
            target = int(request.target)
        except ValueError:
            known = f"one of {', '.join(labels)}" if labels else f"a number from 0 to {len(logits) - 1}"
            raise CommandError(f"--target must be {known}, got {request.target}") from None
    return _explained(logits, target, labels, request), []


def _of_prediction(request: Request, path: Path) -> tuple[Explanation, list[str]]:
    from softmaxloss.cli.columns import features_for, for_model, notes_for  # noqa: PLC0415 - loads polars
    from softmaxloss.cli.data import read_model, read_table  # noqa: PLC0415 - loads polars and scikit-learn
    from softmaxloss.cli.labels import known_labels  # noqa: PLC0415 - loads polars
    from softmaxloss.objective import all_classes  # noqa: PLC0415

    if request.data is None:
        raise CommandError("--model needs --data, a table that holds the row to explain")
    if request.target is not None or request.labels is not None:
        raise CommandError(
            "--target and --labels belong to --logits; leave them out, as with --model the data holds the target"
        )
    model = read_model(path)
    table = for_model(read_table(request.data, request.text), model)
    n_rows, row = table.frame.height, 1 if request.row is None else request.row
    if not 1 <= row <= n_rows:
        raise CommandError(f"--row must be from 1 to {n_rows}, the rows of {request.data}, got {row}")
    x = features_for(table, model, np.array([row - 1]))[0].astype(np.float64)
    classifier, label = model.classifier, table.target or model.target_name
    has_column = label in table.frame.columns
    target = int(known_labels(table, label, classifier.classes_, strict=False).codes[row - 1]) if has_column else -1
    weight, bias = all_classes(classifier.coef_.astype(np.float64), classifier.intercept_.astype(np.float64))
    names = [str(name) for name in classifier.classes_.tolist()]
    logits = weight @ x + bias
    winner = int(logits.argmax())
    explanation = _explained(logits, winner if target < 0 else target, names, request)
    given = {f"{names[winner]}, the predicted class": weight[winner] * x}
    if target in {winner, -1}:
        cell = table.frame[label][row - 1] if has_column else None
        without = "which has no label" if cell is None else f"whose label {cell!r} the model does not know"
        verdict = (
            "which is right"
            if target == winner
            else f"for a row {without}: the steps above use the predicted class as target"
        )
    else:
        given[f"{names[target]}, the right class"] = weight[target] * x
        verdict = f"which is wrong: it is {names[target]}"
    first = f"row {row} of {request.data}: predicted {names[winner]}, {verdict}"
    features, n_numbers = model.preparation.get_feature_names_out().tolist(), model.preparation.n_numbers
    notes = notes_for(table.with_frame(table.frame[row - 1 : row], table.notes), model)
    first = "\n".join([*notes, first])
    return explanation, ["", first, *Contributions(features, x, n_numbers, given).lines()]


def _explained(logits: Any, target: Any, labels: list[str] | None, request: Request) -> Explanation:
    try:
        return explain(
            logits, target, labels=labels, label_smoothing=request.label_smoothing, temperature=request.temperature
        )
    except (TypeError, ValueError) as error:
        option = "--" if request.model is None else ""  # the arguments of the function have the names of the options
        raise CommandError(f"{option}{error}") from error


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise CommandError(f"{name} must be numbers with commas between them, such as 0.3,2.9, got {text}") from None


def _check(out: Path) -> None:
    if out.suffix.lower() not in PICTURES + TEXTS:
        raise CommandError(f"--out {out} must end in one of {', '.join(PICTURES + TEXTS)}")
    check_parent(out)
    check_out(out.parent, [out.name], _is_ours)


def _is_ours(content: bytes) -> bool:
    """Return whether a file looks like one that this command wrote, or is empty: then it may be replaced."""
    if content.startswith((b"<?xml", b"%PDF", b"\x89PNG")):
        return b"softmaxloss" in content
    return not content or (b"loss = -sum(t log y) = " in content and b"shifted" in content.partition(b"\n")[0])
