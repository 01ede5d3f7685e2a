"""The choice of columns: which hold numbers, words or dates, and which are left out as useless."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from softmaxloss.cli import CommandError, alike, counted
from softmaxloss.cli.data import Table, listing, shown, with_points
from softmaxloss.cli.labels import Labels, known_labels, require_labels
from softmaxloss.columns import as_dates, as_numbers, date_form, without_missing
from softmaxloss.model_file import TableModel
from softmaxloss.preparation import FaultyCellsError, TablePreparation

MOSTLY_NUMBERS = 0.95
"""If at least this share of the cells are numbers, the column holds numbers; its other cells are errors."""
FEW_ROWS = 20
"""A column must have this many rows before distinct values make it look like an ID."""
_ID_NAME = re.compile(r"(^|[^a-z])(id|ids|index|key|uuid|guid)$|^(id|row)[^a-z]|[a-z]I[dD]$|^(row|nr|no|number|id)$")


@dataclass(frozen=True)
class ColumnOptions:
    """The options of the user about columns."""

    features: Sequence[str] = ()
    drop: Sequence[str] = ()
    id: Sequence[str] = ()
    date: Sequence[str] = ()


@dataclass
class Columns:
    """The columns of a table, sorted into those of numbers, words and dates."""

    numbers: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The columns that are used."""
        return [*self.numbers, *self.words, *self.dates]


def choose_columns(table: Table, target: str, options: ColumnOptions) -> Columns:
    """Sort the columns into numbers, words and dates. A CommandError names all faulty cells, with advice."""
    named = {name: known_columns(table, name, given) for name, given in vars(options).items()}
    if target in {*named["features"], *named["drop"], *named["id"], *named["date"]}:
        raise CommandError(
            f"column {shown(target)} is the target; remove it from --features, --drop, --id and --date, or choose "
            "another --target"
        )
    _check_options(table, named)
    chosen = Columns()
    faults: list[str] = []
    for name in dict.fromkeys([*named["features"], *named["date"]]) if named["features"] else table.frame.columns:
        if name == target or name in {*named["drop"], *named["id"]}:
            continue
        column = table.frame[name]
        if name in named["date"]:
            _sort_date(column, chosen, faults)
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
            f"{table.name}: no column is left to learn from{f' ({notes})' if notes else ''}; name some with --features"
        )
    return chosen


def known_columns(table: Table, option: str, given: Sequence[str]) -> list[str]:
    """Return the columns that the user named. Raise CommandError if one does not exist."""
    names = given_names(table.frame.columns, given)
    unknown = [name for name in names if name not in table.frame.columns]
    if unknown:
        raise CommandError(
            f"--{option}: {table.name} has no column {listing(unknown)}; it has {listing(table.frame.columns, 12)}"
            f"{alike(unknown[0], table.frame.columns) or '; name some of these'}"
        )
    return [*dict.fromkeys(names)]


def given_names(columns: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the names that the user gave, as several words or with commas between them."""
    names = [name for word in given for name in ([word] if word in columns else word.split(","))]
    return [name.strip() for name in names if name.strip()]


def _check_options(table: Table, named: Mapping[str, Sequence[str]]) -> None:
    """Raise CommandError if options contradict each other, or if an ID cannot be copied into the predictions."""
    for one, other in (("features", "drop"), ("features", "id"), ("drop", "id"), ("date", "drop"), ("date", "id")):
        both = sorted(set(named[one]) & set(named[other]))
        if both:
            raise CommandError(f"column {shown(both[0])} is named by both --{one} and --{other}; remove one of them")
    for name in named["id"]:
        kind = table.frame[name].dtype
        if name in {"prediction", "probability", "classes", "file"} or name.startswith("probability_"):
            raise CommandError(f"--id: the output has its own column {shown(name)}; rename the column in your table")
        if kind.is_nested() or isinstance(kind, pl.Binary | pl.Object | pl.Duration):
            raise CommandError(
                f"--id: column {shown(name)} holds {kind} values, which no text file can hold; name another column"
            )


def _sort_date(column: pl.Series, chosen: Columns, faults: list[str]) -> None:
    form = date_form(column)
    wrong = (as_dates(column, form).is_null() & _present(column)).arg_true()
    if len(wrong):
        cell = f"{shown(column[wrong[0]])} in data row {wrong[0] + 1}"
        faults.append(f"column {shown(column.name)} holds {cell}, which is not a date")
    if form == "%d/%m/%Y" and not (as_dates(column, "%m/%d/%Y").is_null() & _present(column)).any():
        chosen.notes.append(
            f"column {shown(column.name)}: dates such as {column[0]} are read with the day first (if it is the month, "
            "write dates as 2020-12-31)"
        )
    chosen.dates.append(column.name)


def _present(column: pl.Series) -> pl.Series:
    return without_missing(column).is_not_null()


@dataclass(frozen=True)
class _Kind:
    """The kind of a column, and the reason why it should be left out or cannot be used, if there is one."""

    words: bool = False
    left_out: str = ""
    fault: str = ""


def _kind(column: pl.Series) -> _Kind:  # noqa: C901, PLR0911
    kind, name, present = column.dtype, column.name, _present(column)
    filled, different = int(present.sum()), column.filter(present).n_unique()
    is_text = kind in {pl.String, pl.Boolean}
    dates = _Kind(left_out=f"it holds dates; --date {name} makes features of them")
    if filled == 0:
        return _Kind(left_out="it is empty")
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return dates
    if not (kind.is_numeric() or is_text):
        return _Kind(fault=f"column {shown(name)} holds {kind} values where numbers or words belong")
    if kind != pl.Boolean:
        numbers = as_numbers(column)
        wrong = (numbers.is_null() & present).arg_true()
        if len(wrong) <= (1 - MOSTLY_NUMBERS) * filled:
            if len(wrong):
                cell = f"{shown(column[wrong[0]])} in data row {wrong[0] + 1}"
                return _Kind(fault=f"column {shown(name)} holds numbers, but {cell}")
            infinite = numbers.is_infinite().arg_true()
            if len(infinite):
                return _Kind(fault=f"column {shown(name)} is infinite in data row {infinite[0] + 1}")
            if different == len(column) >= FEW_ROWS and _counts_or_names(name, numbers):
                return _Kind(left_out=f"it looks like an ID; --id {name} keeps it beside the predictions")
            return _Kind()
    if different > FEW_ROWS // 2 and 2 * different > filled:
        if kind == pl.String and (as_dates(column, date_form(column)).is_not_null() | ~present).all():
            return dates
        return _Kind(
            words=True, left_out=f"it holds {different} different words in {filled} cells, like an ID or free text"
        )
    return _Kind(words=True)


def _counts_or_names(name: str, numbers: pl.Series) -> bool:
    """Return whether a column of different whole numbers only counts the rows, or has the name of an ID."""
    if (numbers != numbers.round()).any():
        return False
    counts = float(numbers.max()) - float(numbers.min()) == len(numbers) - 1  # type: ignore[arg-type]
    return counts or _ID_NAME.search(name if name[-2:] in {"Id", "ID"} else name.lower()) is not None


def prepared(
    name: str, frame: pl.DataFrame, rows: NDArray[np.intp], preparation: TablePreparation, *, fit: bool
) -> NDArray[np.float32]:
    """Return the features of `rows` of a table. Raise CommandError for a cell that cannot become a feature."""
    try:
        return preparation.fit_transform(frame) if fit else preparation.transform(frame)
    except FaultyCellsError as error:
        cells = [cell._replace(row=int(rows[cell.row])) for cell in error.cells]
        raise CommandError(f"{name}: {FaultyCellsError(cells)}") from error


def for_model(table: Table, model: TableModel) -> Table:
    """Return a table in the form that a model needs: with decimal points, and with names of columns if it has none."""
    if not table.has_column_names:
        table = _named_as(table, model)
    return with_points(table, {model.target_name, *model.id_columns})


def _named_as(table: Table, model: TableModel) -> Table:
    frame, target = table.frame, model.target_name
    given = [name for name in frame.columns if name != table.target]
    without_target = [name for name in model.column_names if name != target]
    for names in (model.column_names, without_target, model.preparation.columns):
        if len(given) == len(names) and (table.target is None or names is not model.column_names):
            return table.with_frame(frame.rename(dict(zip(given, names, strict=True))), table.notes)
    raise CommandError(
        f"{table.name} has {len(given)} columns without names; the model was trained on {len(without_target)}, beside "
        "the target; give the table these columns, in the order of training, or a first line with their names"
    )


def features_for(table: Table, model: TableModel, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    """Return the features that a model needs, by default of all rows. Columns are found by name, in any order."""
    needed = [*model.preparation.columns, *model.id_columns]
    missing = [name for name in needed if name not in table.frame.columns]
    if missing:
        raise CommandError(
            f"{table.name} lacks {listing(missing)}, which the model was trained on; it has "
            f"{listing(table.frame.columns, 12)}; add the columns, with empty cells if need be"
        )
    rows = np.arange(table.frame.height) if rows is None else rows
    frame = table.frame.select(model.preparation.columns)[rows]
    return prepared(table.name, frame, rows, model.preparation, fit=False)


def notes_for(table: Table, model: TableModel) -> list[str]:
    """Return notes for the user about a table that a model is applied to."""
    used = {*model.preparation.columns, *model.id_columns, model.target_name, table.target}
    extra = [name for name in table.frame.columns if name not in used]
    notes = [*table.notes]
    if extra:
        notes.append(f"columns not used by the model: {listing(extra)}")
    for name, count in model.preparation.unseen_words(table.frame).items():
        notes.append(
            f"column {shown(name)}: {count} cell{'s hold words' if count > 1 else ' holds a word'} new to the model"
        )
    return notes


def labels_for(table: Table, model: TableModel, *, drop_unlabelled: bool) -> tuple[Table, Labels]:
    """Return the rows that have a label, and their labels as positions in the model's classes."""
    target = table.target or model.target_name
    return with_labels(table, target, known_labels(table, target, model.classifier.classes_), drop=drop_unlabelled)


def with_labels(table: Table, target: str, labels: Labels, *, drop: bool) -> tuple[Table, Labels]:
    """Return the rows that have a label. Raise CommandError if a row has none, unless such rows are dropped."""
    if not drop:
        require_labels(table, target, labels)
        return table, labels
    kept = labels.codes >= 0
    if kept.all():
        return table, labels
    if not kept.any():
        raise CommandError(f"{table.name}: no row has a label in column {shown(target)}; give some rows a label")
    n = int((~kept).sum())
    notes = [*table.notes, f"{counted(n, 'row')} without a label {'are' if n > 1 else 'is'} left out"]
    return table.with_frame(table.frame.filter(pl.Series(kept)), notes), Labels(labels.codes[kept], labels.classes)
