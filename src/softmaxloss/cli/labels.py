"""The target of a table: which column it is, and its labels, which predictions write as the table has them.

In a text file, a label is the text of its cell, without the spaces around it. Labels become integers if all of them,
printed as integers, look as before: 7 does; 007 and 7.0 do not, so they stay text. In other files, a label is the
value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError, alike, counted
from softmaxloss.cli.data import Table, listing, shown
from softmaxloss.columns import MISSING, as_numbers

USUAL_TARGETS = ("target", "label", "class", "species", "y")
MOST_CLASSES_BY_DEFAULT = 50
"""A column with more different numbers, and fewer than ten rows for each, is learned only if the user names it."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of rows, as positions among the classes; -1 where a row has none."""

    codes: NDArray[np.intp]
    classes: NDArray[Any]


def choose_target(table: Table, wanted: str | None) -> tuple[str, str]:
    """Return the column to learn, and why it was chosen. The reason is empty if the user or its name decided."""
    columns, reason = table.frame.columns, ""
    if wanted is not None or table.target is not None:
        target = wanted or str(table.target)
    else:
        usual = _usual(columns)
        words = [column for column in columns if _holds_words(table.frame[column])]
        target = usual[0] if len(usual) == 1 else words[0] if len(words) == 1 else columns[-1]
        reason = "the only column of words" if [target] == words else "the last column"
        reason = "" if len(usual) == 1 else reason
    _require(table, target, "; name one of them with --target")
    if len(columns) == 1:
        raise CommandError(
            f"{table.name} has one column only ({shown(target)}); add columns to learn from, or give the right "
            "--separator"
        )
    values = as_numbers(table.frame[target]) if reason else pl.Series([], dtype=pl.Float64)
    different = values.drop_nulls().n_unique()
    if different > max(MOST_CLASSES_BY_DEFAULT, len(values) // 10) or (values != values.round()).any():
        raise CommandError(
            f"{table.name}: nothing says which column to learn, and the last one, {shown(target)}, holds {different} "
            "different numbers; name the column of the classes with --target"
        )
    return target, reason


def possible_targets(columns: Sequence[str], wanted: str | None) -> list[str]:
    """Return the columns of a text file that `choose_target` may choose, besides columns of words."""
    return [*_usual(columns), *columns[-1:]] if wanted is None else [wanted]


def _usual(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if column.lower() in USUAL_TARGETS]


def _holds_words(column: pl.Series) -> bool:
    """Return whether a column holds words that repeat, not numbers, and not names that occur once."""
    is_text = column.dtype in {pl.String, pl.Boolean}
    return is_text and bool(as_numbers(column.cast(pl.String)).is_null().all()) and 2 * column.n_unique() <= len(column)


def learned_labels(table: Table, target: str) -> Labels:
    """Return the labels to learn from."""
    column = _as_labels(table.frame[target], table)
    column = _without_spaces(column) if table.cells_are_text else column
    if column.dtype == pl.String and _are_numbers(column):
        column = column.set(_marks_missing(column), None)
    if table.cells_are_text:
        column = _integers_if_plain(column)
    classes = column.drop_nulls().unique().sort()
    codes = column.replace_strict(classes, pl.Series(range(len(classes)), dtype=pl.Int64), default=-1)
    return Labels(codes.to_numpy().astype(np.intp), _array(classes))


def known_labels(table: Table, target: str, classes: NDArray[Any], *, strict: bool = True) -> Labels:
    """Return the labels of rows as positions among the classes of a model. An unknown class raises CommandError.

    If `strict` is False, a row with an unknown class counts as unlabelled.
    """
    _require(table, target, "; add it, or use softmaxloss predict, which needs no classes")
    column = _as_labels(table.frame[target], table)
    known = _text(pl.Series(classes.tolist()))
    numeric = not as_numbers(known).has_nulls()
    text = _text(column)
    if pl.Boolean in {column.dtype, pl.Series(classes.tolist()).dtype} and known.str.to_lowercase().is_unique().all():
        known, text = known.str.to_lowercase(), text.str.to_lowercase()  # True, true and TRUE are the same
    positions = pl.Series(range(len(known)), dtype=pl.Int64)
    codes = text.replace_strict(known, positions, default=-1)
    if table.cells_are_text:
        codes = codes.zip_with(codes >= 0, _without_spaces(text).replace_strict(known, positions, default=-1))
    unlabelled = text.is_null() | ((codes < 0) & _marks_missing(text) if numeric else pl.Series([False]))
    unknown = ((codes < 0) & ~unlabelled).arg_true()
    if len(unknown) and strict:
        raise CommandError(
            f"{table.name}: column {shown(target)} holds {shown(text[unknown[0]])} in data row {unknown[0] + 1}, a "
            f"class the model does not know; it knows {listing(classes.tolist())}; correct the label or leave out the "
            "row"
        )
    return Labels(codes.to_numpy().astype(np.intp), classes)


def require_labels(table: Table, target: str, labels: Labels) -> None:
    """Raise CommandError if a row has no label."""
    without = np.flatnonzero(labels.codes < 0)
    if without.size:
        cell = table.frame[target][int(without[0])]
        where = f"first in data row {without[0] + 1}{'' if cell is None else f' ({shown(cell)})'}"
        raise CommandError(
            f"{table.name}: column {shown(target)} has {counted(without.size, 'missing label')}, "
            f"{where}; leave such rows out with --drop-unlabelled"
        )


def _require(table: Table, target: str, remedy: str) -> None:
    if target not in table.frame.columns:
        raise CommandError(
            f"{table.name} has no column {shown(target)} to take as target; it has {listing(table.frame.columns)}"
            f"{alike(target, table.frame.columns) or remedy}"
        )


def _as_labels(column: pl.Series, table: Table) -> pl.Series:
    """Return a column as text, truth values or whole numbers."""
    kind = column.dtype
    if kind in {pl.String, pl.Boolean}:
        return column
    if kind.is_float() or kind.is_decimal():
        column = column.fill_nan(None) if kind.is_float() else column
        whole = column.cast(pl.Int128, strict=False)
        decimals = (column.is_not_null() & (whole.cast(kind, strict=False) != column).fill_null(value=True)).arg_true()
        if len(decimals):
            raise CommandError(
                f"{table.name}: column {shown(column.name)} holds {_text(column)[decimals[0]]} in data row "
                f"{decimals[0] + 1}; a class is text, a whole number, or true or false; correct the cell"
            )
        column = whole
    if not (column.dtype.is_integer() or kind == pl.Null):
        raise CommandError(
            f"{table.name}: column {shown(column.name)} holds {kind} values; a class is text, a whole number, or true "
            "or false; convert the column"
        )
    return _smallest(column)


def _without_spaces(labels: pl.Series) -> pl.Series:
    """Return labels without the spaces around them, unless two labels would become the same."""
    stripped = labels.str.strip_chars()
    return stripped if stripped.n_unique() == labels.n_unique() else labels


def _are_numbers(column: pl.Series) -> bool:
    """Return whether all labels are numbers, leaving aside marks for a missing label such as NA."""
    others = column.drop_nulls().unique()
    others = others.filter(~_marks_missing(others))
    return len(others) > 0 and not as_numbers(others).has_nulls()


def _marks_missing(column: pl.Series) -> pl.Series:
    return column.str.strip_chars().str.to_lowercase().is_in(MISSING).fill_null(value=False)


def _integers_if_plain(labels: pl.Series) -> pl.Series:
    """Return labels as integers if that changes no letter of them."""
    whole = labels.cast(pl.Int64, strict=False)
    return whole if whole.cast(pl.String).equals(labels) else labels


def _smallest(column: pl.Series) -> pl.Series:
    """Return whole numbers as int64. If they are too large, return uint64, or text: NumPy has no larger integers."""
    for kind in (pl.Int64, pl.UInt64):
        small = column.cast(kind, strict=False)
        if small.null_count() == column.null_count():
            return small
    return column.cast(pl.String)


def _text(labels: pl.Series) -> pl.Series:
    return labels if labels.dtype == pl.String else labels.cast(pl.String)


def _array(classes: pl.Series) -> NDArray[Any]:
    """Return classes as an array. Texts become objects: in an array of texts, all take the memory of the longest."""
    if classes.dtype != pl.String:
        return classes.to_numpy()
    array = np.empty(len(classes), dtype=object)
    array[:] = classes.to_list()
    return array
