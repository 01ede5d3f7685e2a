"""From the columns of a table to the features of a classifier: gaps filled, words one-hot, numbers standardised.

scikit-learn's transformers do the work. This module tells them which columns hold numbers, words and dates, and checks
the features.
"""

# ruff: noqa: N803  X is scikit-learn's name

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from softmaxloss.columns import as_dates, as_frame, as_numbers, as_words, date_form, without_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FARTHEST = 1e18
"""A number may be this many standard deviations from the mean of training, so that no logit overflows."""
RARE = 5
"""Words in fewer training rows than this are pooled, together with words that training never saw."""
MOST_WORDS = 100
"""At most this many words of a column get a feature of their own."""
AT_ONCE = 5
"""Columns of numbers are prepared in groups of this size, as finding the medians takes five times their memory."""


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
        super().__init__(f"{'; '.join(map(str, cells))}; correct such cells or empty them")
        self.cells = cells


class TablePreparation(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn the columns of a table into features.

    Numbers: a gap becomes the median, and a further feature marks the gaps. Then features are scaled to mean 0 and
    standard deviation 1. Words: a gap becomes the most frequent word. Each word has a feature (one-hot), and all rare
    words together have one. Dates: the days since 1970, the month and the weekday, as numbers.

    Parameters
    ----------
    numbers, words, dates : sequence of str
        The columns to use: those of numbers, of words and of dates. `transform` ignores all others.

    Attributes
    ----------
    date_forms_ : dict
        The format of `strptime` in which the dates of each column are written.
    parts_ : list of (columns, Pipeline)
        The fitted transformers: each of some columns of numbers and dates, the last one of all words.
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
        numbers = [name for name in frame.columns if name not in self.words]
        self.parts_ = [(numbers[k : k + AT_ONCE], _for_numbers()) for k in range(0, len(numbers), AT_ONCE)]
        words = [name for name in self.words if frame[name].count()]  # a column without words has no features
        if words:
            self.parts_.append((words, _for_words()))
        with np.errstate(all="ignore"):
            for columns, part in self.parts_:
                part.fit(frame.select(columns))
        return self._features(frame)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the features of a table, shape (rows, features)."""
        check_is_fitted(self)
        return self._features(self._frame(X))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:  # noqa: ARG002
        """Return the names of the features: that of the column, and for words also the word."""
        names: list[str] = []
        word_features = self.word_features
        for columns, (imputer, last) in self.parts_:
            if isinstance(last, StandardScaler):
                gaps = [] if imputer.indicator_ is None else [columns[k] for k in imputer.indicator_.features_]
                names += [*columns, *(f"{column} is missing" for column in gaps)]
            else:
                names += [
                    f"{column} = {'other' if word is None else word}"
                    for column in columns
                    for word in word_features[column]
                ]
        return np.array(names, dtype=object)

    @property
    def n_numbers(self) -> int:
        """The number of features of numbers and dates, with those that mark gaps. Features of words follow them."""
        return sum(last.n_features_in_ for _, (_, last) in self.parts_ if isinstance(last, StandardScaler))

    @property
    def known_words(self) -> dict[str, list[str]]:
        """For each column, the words that training saw."""
        known: dict[str, list[str]] = {name: [] for name in self.words}
        for columns, (_, last) in self.parts_:
            if isinstance(last, OneHotEncoder):
                known |= {name: words.tolist() for name, words in zip(columns, last.categories_, strict=True)}
        return known

    @property
    def word_features(self) -> dict[str, list[str | None]]:
        """For each column of words, the word of each of its features, in order; None stands for all other words."""
        features: dict[str, list[str | None]] = {name: [] for name in self.words}
        for columns, (_, last) in self.parts_:
            if isinstance(last, OneHotEncoder):
                for name, known, rare in zip(columns, last.categories_, last.infrequent_categories_, strict=True):
                    pooled = set() if rare is None else set(rare)
                    features[name] = [word for word in known if word not in pooled] + [None] * bool(pooled)
        return features

    def unseen_words(self, X: Any) -> dict[str, int]:
        """Return the number of cells with a word that training never saw, for each column of words."""
        if not self.words:
            return {}
        columns = self._read(X)
        counts = {
            name: int((~columns[name].is_in(pl.Series(known, dtype=pl.String).implode())).fill_null(value=False).sum())
            for name, known in self.known_words.items()
        }
        return {name: count for name, count in counts.items() if count}

    def count_gaps(self, X: Any) -> int:
        """Return how many cells of the used columns are missing."""
        return sum(column.null_count() for column in self._read(X).values())

    def _frame(self, X: Any) -> pl.DataFrame:
        """Return the used columns: numbers as float64, words as text, and each date as three numbers."""
        columns = self._read(X).items()
        return pl.DataFrame(
            [part for name, read in columns for part in (_of_date(read) if name in self.dates else [read])]
        )

    def _read(self, X: Any) -> dict[str, pl.Series]:
        """Return the used columns as numbers, words and dates; ValueError if a cell does not fit its column."""
        table = as_frame(X, self.columns)
        absent = [name for name in self.columns if name not in table.columns]
        if absent:
            lacking = f"column{'s' if len(absent) > 1 else ''} {', '.join(map(repr, absent))}"
            raise ValueError(
                f"X lacks the {lacking}, which the model was trained on; add what is missing, with empty cells if need "
                "be"
            )
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

    def _features(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return the features that the fitted transformers make of columns."""
        names = self.get_feature_names_out()
        result, stop = np.empty((frame.height, len(names)), np.float32), 0
        for columns, part in self.parts_:
            with np.errstate(all="ignore"):
                made = part.transform(frame.select(columns)).astype(np.float32)
            start, stop = stop, stop + made.shape[1]
            result[:, start:stop] = made
            wrong = ~(np.abs(made) <= FARTHEST)
            if wrong.any():
                feature = int(wrong.any(0).argmax())
                name = names[start + feature]
                row = int(np.where(wrong[:, feature], np.abs(frame[name].fill_null(0.0).to_numpy()), -1.0).argmax())
                fault = f"holds {frame[name][row]:g}, too large or too far from the values in training,"
                raise FaultyCellsError([FaultyCell(name, row, fault)])
        return result


def _for_numbers() -> Pipeline:
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True, copy=False)
    return make_pipeline(imputer, StandardScaler(copy=False))


def _for_words() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="most_frequent", missing_values=None),
        OneHotEncoder(
            min_frequency=RARE,
            max_categories=MOST_WORDS,
            handle_unknown="infrequent_if_exist",
            sparse_output=False,
            dtype=np.float32,
        ),
    )


def _of_date(dates: pl.Series) -> list[pl.Series]:
    """Return dates as three columns of numbers: days since 1970, the month, the weekday."""
    parts = {"days": dates.cast(pl.Int32), "month": dates.dt.month(), "weekday": dates.dt.weekday()}
    return [part.cast(pl.Float64).alias(f"{dates.name} ({what})") for what, part in parts.items()]
