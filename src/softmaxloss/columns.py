"""The columns of a table (polars, pandas, NumPy or a dict), and their cells as numbers, words or dates."""

# ruff: noqa: N803  X is scikit-learn's name

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MISSING = ("", "na", "n/a", "nan", "null", "?", "-")
"""How tables write that a value is missing, in small letters."""


def is_missing(cell: str) -> bool:
    """Return whether a cell of text says that its value is missing."""
    return cell.strip().lower() in MISSING


def without_missing(column: pl.Series) -> pl.Series:
    """Return a column with null in the place of NaN and of texts such as NA or ?."""
    if column.dtype == pl.String:
        return column.set(column.str.strip_chars().str.to_lowercase().is_in(MISSING), None)
    return column.fill_nan(None) if column.dtype.is_float() else column


def as_numbers(column: pl.Series) -> pl.Series:
    """Return a column as float64, with null for cells that are missing or no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    elif not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    numbers = column.cast(pl.Float64, strict=False)
    return numbers.fill_nan(None) if numbers.is_nan().any() else numbers


def as_words(column: pl.Series) -> pl.Series:
    """Return a column as text: true and false for truth values, 1 for the number 1.0."""
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        column = whole if (whole.cast(column.dtype) == column).all() else column
    if column.dtype != pl.String:
        return without_missing(column).cast(pl.String, strict=False)
    text = without_missing(column.str.strip_chars())
    lower = text.str.to_lowercase()
    return text.zip_with(~lower.is_in(["true", "false"]).fill_null(value=False), lower)


ISO = "%Y-%m-%d"
DATE_FORMS = (ISO, "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d")


def date_form(column: pl.Series) -> str:
    """Return the form, such as %d.%m.%Y, in which most dates of a column are written."""
    return min(DATE_FORMS, key=lambda form: as_dates(column, form).null_count())


def as_dates(column: pl.Series, form: str) -> pl.Series:
    """Return a column as dates, written in one form or as 2020-01-31; null for cells that are missing or no date."""
    if column.dtype.is_integer():
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        day = without_missing(column.str.strip_chars()).str.replace(r"[T ]\d{1,2}:\d{2}.*$", "")
        return day.str.to_date(form, strict=False).fill_null(day.str.to_date(ISO, strict=False))
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        return column.cast(pl.Date)
    return pl.Series(column.name, [None] * len(column), dtype=pl.Date)


def as_frame(X: Any, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the columns of a table: a polars or pandas data frame, a dict of columns, or a structured array.

    `names` gives the names of an array's columns, in order, if it has none. Categories become text.
    """
    frame = X.collect() if isinstance(X, pl.LazyFrame) else X
    frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(_columns_of(X, names))
    return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))


def _columns_of(X: Any, names: Sequence[str] | None) -> list[pl.Series]:
    if isinstance(X, np.ndarray) and X.dtype.names is not None:
        return [_series(name, X[name]) for name in X.dtype.names]
    if hasattr(X, "columns"):  # pandas
        return [_series(str(name), X[name].to_numpy(), X[name].isna().to_numpy()) for name in X.columns]
    if isinstance(X, dict):
        return [_series(str(name), np.asarray(column)) for name, column in X.items()]
    array = np.asarray(X)
    if names is None or array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(
            f"X must be a table with named columns, or an array with these {len(names or ())} columns in this order: "
            f"{', '.join(names or ())}, got {type(X).__name__} of shape {array.shape}"
        )
    return [_series(name, column) for name, column in zip(names, array.T, strict=True)]


def _series(name: str, values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pl.Series:
    """Return an array as a column, with null for cells that are `missing` and for NaN among words."""
    if values.dtype.kind == "M":
        values = values.astype("M8[us]")
    if values.dtype.kind in "biufM":
        return pl.Series(name, np.ascontiguousarray(values))
    if missing is None:
        missing = np.array([isinstance(cell, float) and cell != cell for cell in values.tolist()])  # noqa: PLR0124
    cells = [None if absent else cell for cell, absent in zip(values.tolist(), missing.tolist(), strict=True)]
    try:
        return pl.Series(name, cells, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if cell is None else str(cell) for cell in cells], dtype=pl.String)
