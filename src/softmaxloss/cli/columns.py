"""From the columns of a table to arrays: which column is the target, the features as numbers, the classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError
from softmaxloss.cli.data import Table, listing, shown
from softmaxloss.model_file import TableModel

USUAL_TARGETS = ("target", "label", "class")


def choose_target(table: Table, wanted: str | None) -> str:
    """Give the column to learn: the wanted one, the only one with a usual name, or the last."""
    columns = table.frame.columns
    usual = [column for column in columns if column.lower() in USUAL_TARGETS]
    target = wanted or table.target or (usual[0] if len(usual) == 1 else columns[-1])
    _require_target(table, target)
    if len(columns) == 1:
        raise CommandError(f"{table.name} has one column only ({shown(target)}); nothing to learn it from")
    return target


def classes_for(table: Table, model: TableModel) -> NDArray[Any]:
    """Give the target as positions in the model's classes, shape (N,); an unknown class raises CommandError."""
    target = table.target or model.target_name
    _require_target(table, target)
    known = model.classifier.classes_
    values = class_values(table, target, as_text=known.dtype.kind == "U")
    comparable = values.dtype.kind == known.dtype.kind or {values.dtype.kind, known.dtype.kind} == {"i", "u"}
    codes = np.searchsorted(known, values).clip(max=len(known) - 1) if comparable else np.zeros(len(values), int)
    unknown = np.flatnonzero(known[codes] != values) if comparable else np.arange(len(values))
    if unknown.size:
        raise CommandError(
            f"{table.name}: column {shown(target)} holds {shown(values[unknown[0]].item())} in data row "
            f"{unknown[0] + 1}, a class the model does not know; it knows {listing(known.tolist())}"
        )
    return codes


def features_for(table: Table, model: TableModel) -> NDArray[np.float32]:
    """Give the model's features by name, whatever their order, standardised as in training; shape (N, D)."""
    target = table.target or model.target_name
    given = [column for column in table.frame.columns if column != target]
    if not table.has_column_names:
        if len(given) != len(model.feature_names):
            raise CommandError(f"{table.name}: X has {len(given)} columns; the model needs {len(model.feature_names)}")
        return standardise(table, given, numbers(table, given), model.mean, model.scale)
    missing = [name for name in model.feature_names if name not in table.frame.columns]
    extra = set(given).difference(model.feature_names)
    if missing or extra:
        faults = [f"without {listing(missing)}"] if missing else []
        faults += [f"with {listing([name for name in given if name in extra])} besides"] if extra else []
        raise CommandError(f"{table.name} does not have the columns of the model: it comes {' and '.join(faults)}")
    features = numbers(table, model.feature_names)
    return standardise(table, model.feature_names, features, model.mean, model.scale)


def standardise(
    table: Table,
    names: Sequence[str],
    features: NDArray[np.float64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Subtract and divide in float64, since a column of large values close together would lose them before."""
    with np.errstate(over="ignore"):
        result = ((features - mean) / scale).astype(np.float32, order="C")
    too_large = np.argwhere(~np.isfinite(result))
    if too_large.size:
        row, column = too_large[0]
        raise CommandError(
            f"{table.name}: column {shown(names[column])}, data row {row + 1}: {features[row, column]:g} is too "
            "far from the values in training"
        )
    return result


def numbers(table: Table, names: Sequence[str]) -> NDArray[np.float64]:
    """Give columns as float64, shape (N, D); text, missing and infinite values raise CommandError."""
    columns = [_as_numbers(table, name) for name in names]
    _refuse(table, columns, [column.is_null() | column.is_nan() for column in columns], "missing")
    _refuse(table, columns, [column.is_infinite() for column in columns], "infinite")
    return pl.DataFrame(columns).to_numpy()


def class_values(table: Table, target: str, *, as_text: bool = False) -> NDArray[Any]:
    """Give the target column as text, integers or booleans, shape (N,); gaps and decimals raise CommandError."""
    column = table.frame[target]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if table.cells_are_text and not as_text:
        column = _typed(column)
    if column.dtype.is_float():
        _refuse(table, [column], [column.is_null() | column.is_nan()], "missing")
        whole = column.cast(pl.Int64, strict=False)
        decimals = (whole.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(True).arg_true()
        if len(decimals):
            raise CommandError(
                f"{table.name}: column {shown(target)} holds {column[decimals[0]]:g} in data row {decimals[0] + 1}; a "
                "class is text, a whole number, or true or false"
            )
        column = whole
    if not (column.dtype.is_integer() or column.dtype in {pl.String, pl.Boolean}):
        raise CommandError(
            f"{table.name}: column {shown(target)} holds {column.dtype} values; a class is text, a whole number, or "
            "true or false"
        )
    _refuse(table, [column], [column.is_null()], "missing")
    if as_text or column.dtype == pl.String:
        return np.array(column.cast(pl.String).to_list(), dtype=np.str_)
    return column.to_numpy()


def _require_target(table: Table, target: str) -> None:
    if target not in table.frame.columns:
        raise CommandError(
            f"{table.name} has no column {shown(target)} to take as target; it has {listing(table.frame.columns)}"
        )


def _typed(text: pl.Series) -> pl.Series:
    """Read text as integers, booleans or decimals where every cell allows it; "007" stays a word."""
    filled = text.drop_nulls()
    whole = filled.cast(pl.Int64, strict=False)
    if (whole.cast(pl.String) == filled).fill_null(False).all():
        return text.cast(pl.Int64)
    lower = text.str.to_lowercase()
    if filled.str.to_lowercase().is_in(["true", "false"]).all():
        return lower == "true"
    if not filled.str.contains(r"^0\d").any() and filled.cast(pl.Float64, strict=False).is_not_null().all():
        return text.cast(pl.Float64)
    return text


def _as_numbers(table: Table, name: str) -> pl.Series:
    column = table.frame[name]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        result = column.cast(pl.Float64, strict=False)
        words = (column.is_not_null() & result.is_null()).arg_true()
        if not len(words):
            return result
        column = _typed(column)
        if column.dtype != pl.Boolean:
            raise CommandError(
                f"{table.name}: column {shown(name)}, data row {words[0] + 1}: {shown(column[words[0]])} is text where "
                "a number belongs"
            )
    if not (column.dtype.is_numeric() or column.dtype in {pl.Boolean, pl.Null}):
        raise CommandError(f"{table.name}: column {shown(name)} holds {column.dtype} values where numbers belong")
    return column.cast(pl.Float64)


def _refuse(table: Table, columns: Sequence[pl.Series], faults: Sequence[pl.Series], kind: str) -> None:
    """Raise CommandError where a column has faulty values: which column, how many, and the first row."""
    faulty = [
        (column.name, fault.sum(), fault.arg_true()[0])
        for column, fault in zip(columns, faults, strict=True)
        if fault.any()
    ]
    if faulty:
        name, count, first = faulty[0]
        values = f"{count} {kind} value{'s' if count > 1 else ''}"
        others = f"; {len(faulty)} columns have some" if len(faulty) > 1 else ""
        raise CommandError(f"{table.name}: column {shown(name)} has {values}, first in data row {first + 1}{others}")
