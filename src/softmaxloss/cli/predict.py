"""`softmaxloss predict`: the class of each row of a table, and the probabilities of all classes."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError, standard_output
from softmaxloss.cli.columns import features_for
from softmaxloss.cli.data import FILE_SUFFIXES, read_model, read_table
from softmaxloss.cli.outputs import check_out, write_all


def run_predict(model_path: Path, data: str, *, proba: bool, out: Path | None) -> None:
    """Predict every row, and write one line for each in the same order."""
    if out is not None:
        if out.suffix.lower() not in FILE_SUFFIXES:
            raise CommandError(f"--out {out} must end in one of {', '.join(FILE_SUFFIXES)}")
        if not out.parent.is_dir():
            raise CommandError(f"{out.parent} is not a folder")
        check_out(out.parent, [out.name], _are_predictions)
    elif sys.stdout is None:
        raise CommandError("standard output is closed; name a file with --out")
    model = read_model(model_path)
    features = features_for(read_table(data), model)
    classifier = model.classifier
    arrays = {"prediction": classifier.predict(features)}
    if proba:
        arrays |= {"probability": classifier.predict_proba(features), "classes": classifier.classes_}
    content = _content(arrays, ".csv" if out is None else out.suffix.lower())
    if out is None:
        with standard_output():
            sys.stdout.buffer.write(content)
    else:
        write_all(out.parent, {out.name: content})


def _are_predictions(content: bytes) -> bool:
    """Whether a file looks like one that this command wrote: text, Parquet or NPZ; an empty file may go too."""
    return not content or (content.startswith((b"prediction", b"PAR1", b"PK")) and b"prediction" in content)


def _content(arrays: dict[str, NDArray[Any]], suffix: str) -> bytes:
    """Give the bytes of a file; as a table it has the columns prediction and probability_CLASS for each class."""
    target = io.BytesIO()
    if suffix == ".npz":
        np.savez(target, allow_pickle=False, **arrays)
        return target.getvalue()
    columns = [pl.Series("prediction", arrays["prediction"])]
    if "probability" in arrays:
        names = pl.Series(arrays["classes"]).cast(pl.String)
        columns += map(pl.Series, ("probability_" + names).to_list(), arrays["probability"].T)
    frame = pl.DataFrame(columns)
    if suffix == ".parquet":
        frame.write_parquet(target)
    else:
        frame.write_csv(target, separator="\t" if suffix == ".tsv" else ",")
    return target.getvalue()
