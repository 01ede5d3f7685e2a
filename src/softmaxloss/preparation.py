"""From the columns of a table to the features of a classifier: gaps filled, words one-hot, numbers standardised.

scikit-learn's transformers do the work. What is here tells them which columns hold numbers, words and dates, reads
tables of any library, and checks what comes out.
"""

# ruff: noqa: N803  X is scikit-learn's name

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

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
RARE = 5
"""Words in fewer training rows than this are pooled, together with words that training never saw."""
MOST_WORDS = 100
"""At most this many words of a column get a feature of their own."""


def is_missing(cell: str) -> bool:
    """Return whether a cell of text says that its value is missing."""
    return cell.strip().lower() in MISSING


def without_missing(column: pl.Series) -> pl.Series:
    """Return a column of text with null for each cell that says that its value is missing."""
    return column.set(column.str.strip_chars().str.to_lowercase().is_in(MISSING), None)


def as_numbers(column: pl.Series) -> pl.Series:
    """Return a column as float64; null for what is missing or no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    numbers = column.cast(pl.Float64, strict=False)
    return numbers.fill_nan(None) if numbers.is_nan().any() else numbers


def as_words(column: pl.Series) -> pl.Series:
    """Return a column as text; truth values are true and false, however they are written."""
    if column.dtype != pl.String:
        return column.cast(pl.String)
    text = without_missing(column.str.strip_chars())
    lower = text.str.to_lowercase()
    return text.zip_with(~lower.is_in(["true", "false"]).fill_null(value=False), lower)


def as_dates(column: pl.Series) -> pl.Series:
    """Return a column as dates; null for what is missing or no date."""
    if column.dtype == pl.String:
        text = without_missing(column.str.strip_chars())
        forms = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d")
        parsed = [text.str.slice(0, 10).str.to_date(form, strict=False) for form in forms]
        return min(parsed, key=pl.Series.null_count)
    return column.cast(pl.Date, strict=False)


def as_frame(X: Any, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the columns of a table: a polars or pandas data frame, a dict of columns, or a structured array.

    An array without names is read by the position of its columns, which `names` gives.
    """
    if isinstance(X, pl.DataFrame):
        return X
    if isinstance(X, np.ndarray) and X.dtype.names is not None:
        return pl.DataFrame({name: _series(name, X[name]) for name in X.dtype.names})
    if hasattr(X, "columns"):  # pandas
        return pl.DataFrame({str(name): _series(str(name), X[name].to_numpy()) for name in X.columns})
    if isinstance(X, dict):
        return pl.DataFrame({str(name): _series(str(name), np.asarray(column)) for name, column in X.items()})
    array = np.asarray(X)
    if names is None or array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(
            f"X must be a table with named columns, or an array of {len(names or ())} columns in the order of "
            f"training; got {type(X).__name__} of shape {array.shape}"
        )
    return pl.DataFrame({name: _series(name, column) for name, column in zip(names, array.T, strict=True)})


def _series(name: str, values: NDArray[Any]) -> pl.Series:
    """Return an array as a column; NaN and pandas' markers among words become null."""
    if values.dtype.kind in "biufM":
        return pl.Series(name, np.ascontiguousarray(values))
    cells = [None if cell is None or cell != cell else cell for cell in values.tolist()]  # noqa: PLR0124 - NaN
    try:
        return pl.Series(name, cells, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if cell is None else str(cell) for cell in cells], dtype=pl.String)


class FaultyCellError(ValueError):
    """A cell of a table that no feature can be made of."""

    def __init__(self, column: str, row: int, fault: str) -> None:
        super().__init__(f"column {column!r} {fault} in data row {row + 1}")
        self.column, self.row, self.fault = column, row, fault


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
        frame = self._frame(X)
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
        """How many features are numbers; they come first."""
        indices = self.transformer_.output_indices_.get("numbers", slice(0, 0))
        return int(indices.stop)

    def unseen_words(self, X: Any) -> dict[str, int]:
        """Return for each column of words how many cells hold a word that training never saw."""
        if not self.words:
            return {}
        encoder = self.transformer_.named_transformers_["words"][-1]
        frame = self._frame(X)
        counts = {
            column: int((~frame[column].is_in(pl.Series(known.tolist()).implode())).fill_null(value=False).sum())
            for column, known in zip(self.words, encoder.categories_, strict=True)
        }
        return {column: count for column, count in counts.items() if count}

    def count_gaps(self, X: Any) -> int:
        """Return how many cells of the used columns are missing."""
        return sum(self._frame(X).null_count().row(0))

    def _frame(self, X: Any) -> pl.DataFrame:
        """Return the used columns: float64, text, and three numbers of each date; ValueError where they are none."""
        table = as_frame(X, self.columns)
        absent = [name for name in self.columns if name not in table.columns]
        if absent:
            raise ValueError(f"X lacks the column{'s' if len(absent) > 1 else ''} {', '.join(map(repr, absent))}")
        readers = {**dict.fromkeys(self.numbers, as_numbers), **dict.fromkeys(self.dates, as_dates)}
        columns: list[pl.Series] = []
        for name in self.columns:
            given = table[name]
            read = readers.get(name, as_words)(given)
            gaps = without_missing(given) if given.dtype == pl.String else given
            wrong = (read.is_null() & gaps.is_not_null() & _is_no_nan(gaps)).arg_true()
            infinite = read.is_infinite().arg_true() if read.dtype.is_float() else wrong[:0]
            if len(wrong):
                kind = "a date" if name in self.dates else "a number"
                raise FaultyCellError(name, wrong[0], f"holds {given[wrong[0]]!r} where {kind} belongs")
            if len(infinite):
                raise FaultyCellError(name, infinite[0], "is infinite")
            columns += _of_date(read) if name in self.dates else [read.alias(name)]
        return pl.DataFrame(columns)

    def _checked(self, frame: pl.DataFrame, features: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            result = features.astype(np.float32, order="C")
        wrong = ~np.isfinite(result)
        if wrong.any():
            feature = int(wrong.any(0).argmax())
            name = [column for column in frame.columns if column not in self.words][feature]
            row = int(np.where(wrong[:, feature], np.abs(frame[name].fill_null(0.0).to_numpy()), -1.0).argmax())
            cell = frame[name][row]
            raise FaultyCellError(name, row, f"holds {cell:g}, too large or too far from the values in training,")
        return result


def _is_no_nan(column: pl.Series) -> pl.Series:
    return column.is_not_nan() if column.dtype.is_float() else column.is_not_null()


def _of_date(dates: pl.Series) -> list[pl.Series]:
    """Return the numbers that a date gives: days since 1970, the month, the weekday."""
    parts = {"days": dates.cast(pl.Int32), "month": dates.dt.month(), "weekday": dates.dt.weekday()}
    return [part.cast(pl.Float64).alias(f"{dates.name} ({what})") for what, part in parts.items()]
