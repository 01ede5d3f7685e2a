"""From the columns of a table to the features of a classifier: gaps filled, words one-hot, numbers standardised.

scikit-learn's transformers do the work. What is here tells them which columns hold numbers, words and dates, reads
tables of any library, and checks what comes out.
"""

# ruff: noqa: N803  X is scikit-learn's name

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MISSING = ("", "na", "n/a", "nan", "null", "?", "-")
"""How tables write that a value is missing, in small letters."""
FARTHEST = 1e18
"""A number may be this many standard deviations from the mean of training, so that no logit overflows."""
RARE = 5
"""Words in fewer training rows than this are pooled, together with words that training never saw."""
MOST_WORDS = 100
"""At most this many words of a column get a feature of their own."""


def is_missing(cell: str) -> bool:
    """Return whether a cell of text says that its value is missing."""
    return cell.strip().lower() in MISSING


def without_missing(column: pl.Series) -> pl.Series:
    """Return a column with null in place of NaN, and of text such as NA or ?."""
    if column.dtype == pl.String:
        return column.set(column.str.strip_chars().str.to_lowercase().is_in(MISSING), None)
    return column.fill_nan(None) if column.dtype.is_float() else column


def as_numbers(column: pl.Series) -> pl.Series:
    """Return a column as float64; null for what is missing or no number."""
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
    """Return the way that most dates of a column are written."""
    return min(DATE_FORMS, key=lambda form: as_dates(column, form).null_count())


def as_dates(column: pl.Series, form: str) -> pl.Series:
    """Return a column as dates, which are written in one form or as 2020-01-31; null for what is missing or no date."""
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
            f"{', '.join(names or ())}; got {type(X).__name__} of shape {array.shape}"
        )
    return [_series(name, column) for name, column in zip(names, array.T, strict=True)]


def _series(name: str, values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pl.Series:
    """Return an array as a column; what is missing, and NaN among words, becomes null."""
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


class FaultyCell(NamedTuple):
    """A cell that cannot become a feature; the row counts from 0."""

    column: str
    row: int
    fault: str

    def __str__(self) -> str:
        return f"column {self.column!r} {self.fault} in data row {self.row + 1}"


class FaultyCellsError(ValueError):
    """The first faulty cell of each column."""

    def __init__(self, cells: Sequence[FaultyCell]) -> None:
        super().__init__("; ".join(map(str, cells)))
        self.cells = cells


class TablePreparation(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn the columns of a table into features.

    Numbers: a gap becomes the median, and a feature of its own tells where gaps were; then mean 0 and standard
    deviation 1. Words: a gap becomes the most frequent word; then one feature for each word (one-hot), and one for all
    rare words together. Dates: the days since 1970, the month and the weekday, as numbers.

    Parameters
    ----------
    numbers, words, dates : sequence of str
        The columns to use, by what they hold. `transform` ignores all others.

    Attributes
    ----------
    date_forms_ : dict
        How the dates of each column are written, as `strptime` calls it.
    transformer_ : ColumnTransformer
        The fitted transformers.
    """

    def __init__(self, numbers: Sequence[str] = (), words: Sequence[str] = (), dates: Sequence[str] = ()) -> None:
        self.numbers = numbers
        self.words = words
        self.dates = dates

    @property
    def columns(self) -> list[str]:
        """The columns that are used."""
        return [*self.numbers, *self.words, *self.dates]

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002
        """Learn medians, words, means and deviations from a table."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: object = None) -> NDArray[np.float32]:  # noqa: ARG002
        """Learn from a table, and return its features, shape (rows, features)."""
        table = as_frame(X, self.columns)
        self.date_forms_ = {name: date_form(table[name]) for name in self.dates if name in table.columns}
        frame = self._frame(table)
        dates = [name for name in frame.columns if name not in {*self.numbers, *self.words}]
        numbers = make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True, copy=False), StandardScaler(copy=False)
        )
        words = make_pipeline(
            SimpleImputer(strategy="most_frequent", missing_values=None),
            OneHotEncoder(
                min_frequency=RARE,
                max_categories=MOST_WORDS,
                handle_unknown="infrequent_if_exist",
                sparse_output=False,
                dtype=np.float32,
            ),
        )
        parts = [("numbers", numbers, [*self.numbers, *dates]), ("words", words, [*self.words])]
        self.transformer_ = ColumnTransformer([part for part in parts if part[2]], verbose_feature_names_out=False)
        with np.errstate(all="ignore"):
            features = self.transformer_.fit_transform(frame)
        return self._checked(frame, features)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the features of a table, shape (rows, features)."""
        check_is_fitted(self)
        frame = self._frame(X)
        with np.errstate(all="ignore"):
            return self._checked(frame, self.transformer_.transform(frame))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:  # noqa: ARG002
        """Return the names of the features: the column, and for words what it holds."""
        names: list[str] = []
        for part, pipeline, columns in self.transformer_.transformers_:
            if part == "numbers":
                imputer = pipeline[0]
                gaps = [] if imputer.indicator_ is None else [columns[k] for k in imputer.indicator_.features_]
                names += [*columns, *(f"{column} is missing" for column in gaps)]
            elif part == "words":
                encoder = pipeline[-1]
                for column, known, rare in zip(
                    columns, encoder.categories_, encoder.infrequent_categories_, strict=True
                ):
                    pooled = set() if rare is None else set(rare)
                    names += [f"{column} = {word}" for word in known if word not in pooled]
                    names += [f"{column} = other"] if pooled else []
        return np.array(names, dtype=object)

    @property
    def n_numbers(self) -> int:
        """The number of features from numbers and dates, with those that mark gaps; words come after."""
        indices = self.transformer_.output_indices_.get("numbers", slice(0, 0))
        return int(indices.stop)

    def unseen_words(self, X: Any) -> dict[str, int]:
        """Return for each column of words how many cells hold a word that training never saw."""
        if not self.words:
            return {}
        encoder = self.transformer_.named_transformers_["words"][-1]
        columns = self._read(X)
        counts = {
            name: int((~columns[name].is_in(pl.Series(known.tolist()).implode())).fill_null(value=False).sum())
            for name, known in zip(self.words, encoder.categories_, strict=True)
        }
        return {name: count for name, count in counts.items() if count}

    def count_gaps(self, X: Any) -> int:
        """Return how many cells of the used columns are missing."""
        return sum(column.null_count() for column in self._read(X).values())

    def _frame(self, X: Any) -> pl.DataFrame:
        """Return the used columns: float64, text, and three numbers of each date."""
        columns = self._read(X).items()
        return pl.DataFrame(
            [part for name, read in columns for part in (_of_date(read) if name in self.dates else [read])]
        )

    def _read(self, X: Any) -> dict[str, pl.Series]:
        """Return the used columns as numbers, words and dates; ValueError if a cell does not fit its column."""
        table = as_frame(X, self.columns)
        absent = [name for name in self.columns if name not in table.columns]
        if absent:
            raise ValueError(f"X lacks the column{'s' if len(absent) > 1 else ''} {', '.join(map(repr, absent))}")
        columns, faults = {}, []
        for name in self.columns:
            given = table[name]
            if name in self.dates:
                columns[name] = as_dates(given, self.date_forms_[name])
            else:
                columns[name] = as_numbers(given) if name in self.numbers else as_words(given)
            read = columns[name]
            wrong = (read.is_null() & without_missing(given).is_not_null()).arg_true()
            infinite = read.is_infinite().arg_true() if read.dtype.is_float() else wrong[:0]
            if len(wrong):
                kind = "a date" if name in self.dates else "a number" if name in self.numbers else "a word"
                faults.append(FaultyCell(name, wrong[0], f"holds {given[wrong[0]]!r} where {kind} belongs"))
            elif len(infinite):
                faults.append(FaultyCell(name, infinite[0], "is infinite"))
        if faults:
            raise FaultyCellsError(faults)
        return columns

    def _checked(self, frame: pl.DataFrame, features: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            result = features.astype(np.float32, order="C")
        wrong = ~(np.abs(result) <= FARTHEST)
        if wrong.any():
            feature = int(wrong.any(0).argmax())
            name = [column for column in frame.columns if column not in self.words][feature]
            row = int(np.where(wrong[:, feature], np.abs(frame[name].fill_null(0.0).to_numpy()), -1.0).argmax())
            cell = frame[name][row]
            fault = f"holds {cell:g}, too large or too far from the values in training,"
            raise FaultyCellsError([FaultyCell(name, row, fault)])
        return result


def _of_date(dates: pl.Series) -> list[pl.Series]:
    """Return the numbers that a date gives: days since 1970, the month, the weekday."""
    parts = {"days": dates.cast(pl.Int32), "month": dates.dt.month(), "weekday": dates.dt.weekday()}
    return [part.cast(pl.Float64).alias(f"{dates.name} ({what})") for what, part in parts.items()]
