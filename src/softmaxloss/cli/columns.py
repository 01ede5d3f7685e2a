"""The features of a table: which columns hold numbers, words or dates, and which say nothing and are left out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError
from softmaxloss.cli.data import Table, listing, shown
from softmaxloss.cli.labels import Labels, known_labels, require_labels
from softmaxloss.model_file import TableModel
from softmaxloss.preparation import FaultyCellError, TablePreparation, as_dates, as_numbers, without_missing

MOSTLY_NUMBERS = 0.95
"""With this share of numbers a column holds numbers, and the other cells are faults."""
FEW_ROWS = 20
"""In fewer rows, values that all differ mean nothing."""
_ID_NAME = re.compile(r"(^|[^a-z])(id|ids|index|key|uuid|guid)$|^(id|row)[^a-z]|[a-z]I[dD]$|^(row|nr|no|number|id)$")


@dataclass(frozen=True)
class ColumnOptions:
    """What the user said about columns."""

    features: Sequence[str] = ()
    drop: Sequence[str] = ()
    id: Sequence[str] = ()
    date: Sequence[str] = ()


@dataclass
class Columns:
    """The columns of a table by what they hold."""

    numbers: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The columns that are used."""
        return [*self.numbers, *self.words, *self.dates]


def choose_columns(table: Table, target: str, options: ColumnOptions) -> Columns:
    """Sort the columns by what they hold; raise CommandError that names all faulty cells and what to do."""
    named = {name: known_columns(table, name, given) for name, given in vars(options).items()}
    if target in {*named["features"], *named["drop"], *named["id"], *named["date"]}:
        raise CommandError(f"column {shown(target)} is the target; it cannot be a feature, an ID or left out")
    chosen = Columns()
    faults: list[str] = []
    for name in named["features"] or table.frame.columns:
        if name == target or name in {*named["drop"], *named["id"]}:
            continue
        column = table.frame[name]
        if name in named["date"]:
            _sort_date(table, name, chosen, faults)
            continue
        kind = _kind(column)
        if kind.fault:
            faults.append(kind.fault)
        elif kind.left_out and name not in named["features"]:
            chosen.notes.append(f"column {shown(name)} is left out: {kind.left_out}")
        else:
            (chosen.words if kind.words else chosen.numbers).append(name)
    if faults:
        more = f"; and {len(faults) - 3} more columns" if len(faults) > 3 else ""
        raise CommandError(
            f"{table.name}: {'; '.join(faults[:3])}{more}; correct the cells, empty them, or leave the columns out "
            "with --drop"
        )
    if not chosen.names:
        notes = "; ".join(chosen.notes)
        raise CommandError(
            f"{table.name}: no column is left to learn from{f' ({notes})' if notes else ''}; see --features"
        )
    return chosen


def known_columns(table: Table, option: str, given: Sequence[str]) -> list[str]:
    """Return columns that the user named, one by one or with commas between them."""
    names = [name for word in given for name in ([word] if word in table.frame.columns else word.split(","))]
    names = [name.strip() for name in names if name.strip()]
    unknown = [name for name in names if name not in table.frame.columns]
    if unknown:
        raise CommandError(
            f"--{option}: {table.name} has no column {listing(unknown)}; it has {listing(table.frame.columns, 12)}"
        )
    return names


def _sort_date(table: Table, name: str, chosen: Columns, faults: list[str]) -> None:
    column = table.frame[name]
    wrong = (as_dates(column).is_null() & _present(column)).arg_true()
    if len(wrong):
        faults.append(
            f"column {shown(name)} holds {shown(column[wrong[0]])} in data row {wrong[0] + 1}, which is no date"
        )
    chosen.dates.append(name)


def _present(column: pl.Series) -> pl.Series:
    return (without_missing(column) if column.dtype == pl.String else column).is_not_null()


@dataclass(frozen=True)
class _Kind:
    """What a column holds, and why it should be left out, or cannot be used."""

    words: bool = False
    left_out: str = ""
    fault: str = ""


def _kind(column: pl.Series) -> _Kind:  # noqa: PLR0911
    kind, name, present = column.dtype, column.name, _present(column)
    filled, different = int(present.sum()), column.filter(present).n_unique()
    is_text = kind in {pl.String, pl.Boolean} or isinstance(kind, pl.Categorical | pl.Enum)
    dates = _Kind(left_out=f"it holds dates; --date {name} makes features of them")
    if filled == 0:
        return _Kind(left_out="it is empty")
    if kind.is_temporal():
        return dates
    if not (kind.is_numeric() or is_text):
        return _Kind(fault=f"column {shown(name)} holds {kind} values where numbers or words belong")
    if kind != pl.Boolean:
        numbers = as_numbers(column)
        wrong = (numbers.is_null() & present & ~_is_nan(column)).arg_true()
        if len(wrong) <= (1 - MOSTLY_NUMBERS) * filled:
            if len(wrong):
                cell = f"{shown(column[wrong[0]])} in data row {wrong[0] + 1}"
                return _Kind(fault=f"column {shown(name)} holds numbers, but {cell}")
            if different == len(column) >= FEW_ROWS and _counts_or_names(name, numbers):
                return _Kind(left_out=f"it looks like an ID; --id {name} keeps it beside the predictions")
            return _Kind()
    if different > FEW_ROWS // 2 and 2 * different > filled:
        if kind == pl.String and (as_dates(column).is_not_null() | ~present).all():
            return dates
        return _Kind(words=True, left_out=f"{different} of its {filled} words differ, as in an ID or a text")
    return _Kind(words=True)


def _is_nan(column: pl.Series) -> pl.Series:
    return column.is_nan().fill_null(value=False) if column.dtype.is_float() else column.is_null()


def _counts_or_names(name: str, numbers: pl.Series) -> bool:
    """Return whether different whole numbers only count the rows, or their column is called an ID."""
    if (numbers != numbers.round()).any():
        return False
    counts = float(numbers.max()) - float(numbers.min()) == len(numbers) - 1  # type: ignore[arg-type]
    return counts or _ID_NAME.search(name if name[-2:] in {"Id", "ID"} else name.lower()) is not None


def prepared(table: Table, rows: NDArray[np.intp], preparation: TablePreparation, *, fit: bool) -> NDArray[np.float32]:
    """Return the features of rows of a table; a cell that none can be made of raises CommandError."""
    frame = table.frame.select(preparation.columns)[rows]
    try:
        return preparation.fit_transform(frame) if fit else preparation.transform(frame)
    except FaultyCellError as error:
        cell = FaultyCellError(error.column, int(rows[error.row]), error.fault)
        raise CommandError(f"{table.name}: {cell}; correct it or empty it") from error


def features_for(table: Table, model: TableModel) -> NDArray[np.float32]:
    """Return the features that a model needs, by name, whatever the order of the columns; shape (N, D)."""
    preparation = model.preparation
    frame, needed = table.frame, preparation.columns
    if not table.has_column_names:
        given = [name for name in frame.columns if name not in {model.target_name, table.target}]
        if not set(needed) <= set(given):
            if len(given) != len(needed):
                raise CommandError(f"{table.name}: X has {len(given)} columns; the model needs {len(needed)}")
            frame = frame.select(given).rename(dict(zip(given, needed, strict=True)))
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise CommandError(
            f"{table.name} lacks {listing(missing)}, which the model was trained on; it has "
            f"{listing(frame.columns, 12)}"
        )
    return prepared(table.with_frame(frame, table.notes), np.arange(frame.height), preparation, fit=False)


def notes_for(table: Table, model: TableModel) -> list[str]:
    """Return what is worth knowing about a table that a model is applied to."""
    used = {*model.preparation.columns, *model.id_columns, model.target_name, table.target}
    extra = [name for name in table.frame.columns if name not in used]
    notes = [*table.notes]
    if extra and table.has_column_names:
        notes.append(f"not used by the model: {listing(extra)}")
    if table.has_column_names:
        for name, count in model.preparation.unseen_words(table.frame).items():
            notes.append(f"column {shown(name)}: {count} words that training did not see count as other")
    return notes


def labels_for(table: Table, model: TableModel, *, drop_unlabelled: bool) -> tuple[Table, Labels]:
    """Return the rows that have a label, and their labels as positions in the model's classes."""
    target = table.target or model.target_name
    return with_labels(table, target, known_labels(table, target, model.classifier.classes_), drop=drop_unlabelled)


def with_labels(table: Table, target: str, labels: Labels, *, drop: bool) -> tuple[Table, Labels]:
    """Return the rows that have a label; CommandError where one has none and none may be dropped."""
    if not drop:
        require_labels(table, target, labels)
        return table, labels
    kept = labels.codes >= 0
    if not kept.any():
        raise CommandError(f"{table.name}: no row has a label in column {shown(target)}")
    notes = [*table.notes, f"{(~kept).sum()} rows without a label are left out"] if not kept.all() else table.notes
    return table.with_frame(table.frame.filter(pl.Series(kept)), notes), Labels(labels.codes[kept], labels.classes)
