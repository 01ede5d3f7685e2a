"""`softmaxloss predict`: the class of each row of a table, and the probabilities of all classes."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError, standard_output
from softmaxloss.cli.columns import features_for, for_model, notes_for
from softmaxloss.cli.data import read_model, read_table
from softmaxloss.cli.outputs import check_out, check_parent, write_all
from softmaxloss.cli.text_options import TextOptions

FORMATS = (".csv", ".tsv", ".npz", ".parquet")
WIDEST = 1 << 30
"""Bytes of the text in an NPZ file, where all cells are as wide as the longest."""


def run_predict(model_path: Path, data: str, options: TextOptions, *, proba: bool, out: Path | None) -> None:
    """Predict every row, and write one line for each in the same order."""
    if out is not None:
        if out.suffix.lower() not in FORMATS:
            raise CommandError(f"--out {out} must end in one of {', '.join(FORMATS)}")
        check_parent(out)
        check_out(out.parent, [out.name], _are_predictions)
    elif sys.stdout is None:
        raise CommandError("standard output is closed; name a file with --out")
    model = read_model(model_path)
    table = for_model(read_table(data, options), model)
    features = features_for(table, model)
    classifier = model.classifier
    ids = table.frame.select(model.id_columns)
    probability = classifier.predict_proba(features) if proba else None
    content = _content(
        ids,
        classifier.predict(features),
        probability,
        classifier.classes_,
        ".csv" if out is None else out.suffix.lower(),
    )
    for note in notes_for(table, model):
        print(f"softmaxloss: {note}", file=sys.stderr)
    if out is None:
        with standard_output():
            sys.stdout.buffer.write(content)
    else:
        write_all(out.parent, {out.name: content})


def _are_predictions(content: bytes) -> bool:
    """Return whether a file looks like one that this command wrote (text, Parquet or NPZ), or is empty."""
    return (
        not content
        or b"prediction" in content.partition(b"\n")[0]
        or (content.startswith((b"PAR1", b"PK")) and b"prediction" in content)
    )


def _content(
    ids: pl.DataFrame,
    prediction: NDArray[Any],
    probability: NDArray[Any] | None,
    classes: NDArray[Any],
    suffix: str,
) -> bytes:
    """Return the content of a file. Columns are the IDs, prediction, and probability_CLASS for each class."""
    target = io.BytesIO()
    if suffix == ".npz":
        arrays = {"prediction": _plain(prediction)} | {name: _plain(ids[name].to_numpy()) for name in ids.columns}
        if probability is not None:
            arrays |= {"probability": probability, "classes": _plain(classes)}
        np.savez(target, allow_pickle=False, **arrays)
        return target.getvalue()
    columns = [*ids, _column("prediction", prediction)]
    if probability is not None:
        names = _column("", classes).cast(pl.String)
        columns += map(pl.Series, ("probability_" + names).to_list(), probability.T)
    frame = pl.DataFrame(columns)
    if suffix == ".parquet":
        frame.write_parquet(target)
    else:
        frame.write_csv(target, separator="\t" if suffix == ".tsv" else ",")
    return target.getvalue()


def _column(name: str, values: NDArray[Any]) -> pl.Series:
    return pl.Series(name, values.tolist(), dtype=pl.String) if values.dtype == object else pl.Series(name, values)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in a form that NPZ files can hold without pickle."""
    if values.dtype != object:
        return values
    cells = ["" if cell is None else str(cell) for cell in values.tolist()]
    longest = max(map(len, cells), default=0)
    if 4 * longest * len(cells) > WIDEST:
        raise CommandError(
            f"--out must end in .csv or .parquet here: a label has {longest} letters, and in an NPZ file each text "
            "takes the space of the longest"
        )
    if any(cell.endswith("\0") for cell in cells):
        raise CommandError(
            "--out must end in .csv or .parquet here: a text ends in a zero character, which NPZ files drop"
        )
    return np.array(cells, dtype=np.str_)
