"""Tables in text files. Encoding, separator and first line are detected. Python's csv or polars reads the cells.

The file has over 300 lines, because each thing that may be wrong with a text file has a message of its own.
"""

import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import BinaryIO

import polars as pl

from softmaxloss.cli import CommandError, counted
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.columns import as_numbers, is_missing, without_missing

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
SAMPLE_CHARACTERS, SAMPLE_ROWS = 1 << 16, 100
CHUNK_ROWS, CHUNK_BYTES = 10_000, 1 << 22
END = "\0end\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Open = Callable[[], BinaryIO]
"""Opens a file at its start, or bytes that are in memory."""
Chunks = Iterator[list[pl.Series]]
"""The columns of some rows, then those of the next."""


@dataclass(frozen=True)
class TextTable:
    """The columns of a text file: numbers if nothing needs their text, else text. Blank cells are null."""

    frame: pl.DataFrame
    separator: str
    notes: list[str]
    has_column_names: bool


class _NotPlainError(Exception):
    """The file must be read by Python's csv: polars might read it differently."""


def read_text_table(
    name: str, opened: Open, options: TextOptions, as_text: Callable[[Sequence[str]], Collection[str]]
) -> TextTable:
    """Read the table in a text file. If it is no table, a CommandError names the row and the cause.

    Given the names of all columns, `as_text` returns those whose text is needed. Other columns of numbers are read as
    numbers, which takes less memory.
    """
    notes: list[str] = []
    encoding = _encoding(name, opened, options.encoding, notes)
    csv.field_size_limit(sys.maxsize)
    with _decoded(opened, encoding) as text:
        sample = text.read(SAMPLE_CHARACTERS)
    if not sample.strip(' \t\r\n"'):
        raise CommandError(f"{name} is empty; write a line of column names, then one line per row")
    if "\0" in sample:
        raise CommandError(
            f"{name} is not a text file: it holds bytes that are 0; if it is compressed or a spreadsheet, save it as "
            "CSV"
        )
    separator = _separator(name, sample, options.separator)
    with _decoded(opened, encoding) as text:
        rows = _rows(name, text, separator)
        first = next(rows, [])
        top = list(islice(rows, SAMPLE_ROWS))
    has_names = not _holds_numbers(first, top) if options.header is None else options.header
    if not has_names and options.header is None:
        notes.append(
            f"the first line holds numbers, so it is read as data, and the columns are called column_1 to "
            f"column_{len(first)} (if it holds names, use --header)"
        )
    header = [cell.strip() for cell in first] if has_names else [f"column_{k}" for k in range(1, len(first) + 1)]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|,"):
        raise CommandError(
            f"{name} has one column only, {header[0]!r}, when it is separated by "
            f"{SEPARATORS.get(separator, separator)}; give the right character with --separator"
        )
    needed = as_text([title for title in header if title])
    text_only = [position for position, title in enumerate(header) if title in needed]
    try:
        chunks = partial(_chunks_without_quotes, opened, encoding, separator, len(header), has_names=has_names)
        columns = _columns(chunks, len(header), text_only)
    except _NotPlainError:
        chunks = partial(_chunks, name, opened, encoding, separator, len(header), has_names=has_names)
        columns = _columns(chunks, len(header), text_only)
    frame = named(name, header, columns, notes)
    return TextTable(frame, separator, notes, has_names)


def _encoding(name: str, opened: Open, wanted: str | None, notes: list[str]) -> str:
    """Return the encoding of a file: the wanted one, or the first of the usual ones that fits."""
    with opened() as file:
        start = file.read(200)
    if wanted is not None:
        has_mark = wanted.lower().replace("_", "-") in {"utf-8", "utf8"} and start.startswith(BYTE_ORDER_MARK)
        candidates = ["utf-8-sig" if has_mark else wanted]
    elif start.startswith((b"\xff\xfe", b"\xfe\xff")):
        candidates = ["utf-16"]
    elif start.count(0) > len(start) // 4:
        candidates = ["utf-16-le" if start[1:2] == b"\0" else "utf-16-be"]
    else:
        candidates = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in candidates:
        try:
            with _decoded(opened, encoding) as text:
                while text.read(SAMPLE_CHARACTERS):
                    pass
        except LookupError as error:
            raise CommandError(
                f"--encoding {encoding} is not known; use for example utf-8, utf-16 or latin-1"
            ) from error
        except UnicodeError:
            continue
        if encoding in {"cp1252", "latin-1"} and wanted is None:
            notes.append(f"the file is not UTF-8; it is read as {encoding} (if letters look wrong, use --encoding)")
        return encoding
    remedy = "; leave --encoding out to have it detected" if wanted else "; name its encoding with --encoding"
    raise CommandError(f"{name} is not text in {candidates[0]}{remedy}")


@contextmanager
def _decoded(opened: Open, encoding: str) -> Iterator[io.TextIOWrapper]:
    with opened() as file:
        yield io.TextIOWrapper(file, encoding, newline="")


def _separator(name: str, sample: str, wanted: str | None) -> str:
    """Return the wanted separator, or the one with which most lines of the sample have the same number of cells."""
    if wanted is not None:
        named = {word: mark for mark, word in SEPARATORS.items()} | {"\\t": "\t"}
        mark = named.get(wanted, wanted)
        if len(mark) != 1 or mark in '"\r\n':
            words = ", ".join(SEPARATORS.values())
            raise CommandError(f"--separator must be one character or one of {words}, got {wanted!r}")
        return mark
    if name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    if len(sample) == SAMPLE_CHARACTERS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, quality = ",", (0.0, 0)
    for mark in SEPARATORS:
        lines = list(islice(filter(None, _reader(sample.splitlines(keepends=True), mark)), SAMPLE_ROWS))
        width, count = Counter(map(len, lines)).most_common(1)[0]
        if width > 1 and (count / len(lines), width) > quality and (mark != " " or quality == (0.0, 0)):
            best, quality = mark, (count / len(lines), width)
    return best


def _reader(lines: Iterator[str] | Sequence[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _rows(name: str, lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """Yield the rows that are not blank.

    We append a last line, END. If a quotation mark is not closed, csv reads END as part of the last cell.
    """
    number, ended = 0, False
    for row in _reader(chain(_with_line_end(lines), [END]), separator):
        if row == [END.rstrip("\n")]:
            ended = True
        elif row and not (len(row) == 1 and not row[0].strip()):
            number += 1
            if row[-1].endswith(END):
                break
            yield row
    if not ended:
        raise CommandError(
            f'{name}: line {number} of the table opens a quote (") that is not closed before the end of the file; '
            'close it, or write "" for a quote within a cell'
        )


def _with_line_end(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines. The last one gets a line end if it has none."""
    for line in lines:
        yield line if line.endswith(("\n", "\r")) else f"{line}\n"


def _holds_numbers(first: list[str], top: list[list[str]]) -> bool:
    """Return whether the first line is data: above each column of numbers it has a number or a gap, and no word."""
    above = []
    for position, title in enumerate(first):
        cells = [row[position] for row in top if len(row) > position and not is_missing(row[position])]
        if cells and all(map(_is_number, cells)):
            above.append(_is_number(title) or is_missing(title))
    return bool(above) and all(above) and any(map(_is_number, first))


def _is_number(cell: str) -> bool:
    return not as_numbers(pl.Series([cell])).has_nulls()


def _chunks_without_quotes(opened: Open, encoding: str, separator: str, width: int, *, has_names: bool) -> Chunks:
    """Yield columns of text that polars reads, seven times as fast as csv. Raise _NotPlainError if csv might differ.

    Both read the same if there is no quotation mark, and all lines have as many separators as the first one.
    """
    if width == 1 or encoding != "utf-8-sig" or separator == " ":
        raise _NotPlainError
    with opened() as file:
        if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            file.seek(0)
        first = next((line for line in file if line.strip(b"\r\n")), b"")
        skipped, lines = int(has_names), file.read(CHUNK_BYTES) + file.readline()
        while True:
            # polars gets the first line of the file again above each chunk, so that it reads all chunks in the same way
            yield [_with_gaps(column) for column in _cells(first + lines, separator, width)[skipped:]]
            skipped, lines = 1, file.read(CHUNK_BYTES) + file.readline()
            if not lines:
                break


def _cells(content: bytes, separator: str, width: int) -> pl.DataFrame:
    if b'"' in content or content.count(b"\r") != content.count(b"\r\n"):
        raise _NotPlainError
    try:
        frame = pl.read_csv(content, has_header=False, infer_schema_length=0, quote_char=None, separator=separator)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _NotPlainError from error
    if frame.width != width or content.count(separator.encode()) != (width - 1) * frame.height:
        raise _NotPlainError
    # csv with skipinitialspace does the same
    return pl.DataFrame([c.str.strip_chars_start(" ") if c.str.starts_with(" ").any() else c for c in frame])


def _chunks(name: str, opened: Open, encoding: str, separator: str, width: int, *, has_names: bool) -> Chunks:
    """Yield columns of text. They are columns of polars, which take a fifth of the memory of Python's strings."""
    with _decoded(opened, encoding) as text:
        rows = islice(_rows(name, text, separator), int(has_names), None)
        read = 0
        while chunk := list(islice(rows, CHUNK_ROWS)):
            for number, row in enumerate(chunk, start=read + 1):
                if len(row) != width:
                    what = "the first line names" if has_names else "data row 1 has"
                    raise CommandError(
                        f"{name} is not a table: data row {number} has {counted(len(row), 'cell')}, but {what} {width} "
                        "columns; correct the row, or give another separator with --separator"
                    )
            yield [_with_gaps(pl.Series(texts, dtype=pl.String)) for texts in zip(*chunk, strict=True)]
            read += len(chunk)


def _with_gaps(column: pl.Series) -> pl.Series:
    """Return cells of text, with null for blank cells."""
    return column.set(column.str.contains(r"^\s*$"), None) if column.str.contains(r"^\s*$").any() else column


def _columns(chunks: Callable[[], Chunks], width: int, text_only: Collection[int]) -> list[pl.Series]:
    """Return columns: text at the positions `text_only`, and elsewhere numbers if nothing needs their text.

    A column begins as text. If a later chunk shows that a column is no numbers after all, we read everything again.
    """
    columns: list[list[pl.Series]] = [[] for _ in range(width)]
    texts, numeric = set(text_only), set[int]()
    for chunk in chunks():
        for position, (column, cells) in enumerate(zip(columns, chunk, strict=True)):
            numbers = None if position in texts else _numbers(cells)
            if numbers is None:
                texts.add(position)
            elif position not in numeric and _needs_no_text(cells, numbers):
                numeric.add(position)
                column[:] = map(as_numbers, column)
            column.append(cells if numbers is None or position not in numeric else numbers)
    if texts & numeric:
        columns.clear()
        return _columns(chunks, width, texts)
    return [pl.concat(columns.pop(0) or [pl.Series([], dtype=pl.String)], rechunk=True) for _ in range(width)]


def _numbers(cells: pl.Series) -> pl.Series | None:
    """Return cells of text as numbers; None if some are neither a number nor missing."""
    numbers = as_numbers(cells)
    if numbers.null_count() == cells.null_count():  # all cells that are not blank are numbers
        return numbers
    return None if (numbers.is_null() & without_missing(cells).is_not_null()).any() else numbers


def _needs_no_text(cells: pl.Series, numbers: pl.Series) -> bool:
    """Return whether only the numbers of a column are used, not their text.

    The text matters in empty columns, and in columns of IDs: whole numbers that are all written differently.
    """
    if numbers.null_count() == len(numbers):
        return False
    return bool((numbers != numbers.round()).any()) or cells.n_unique() < len(cells)


def named(name: str, header: list[str], columns: list[pl.Series], notes: list[str]) -> pl.DataFrame:
    """Return the columns under their names. Leave out unnamed columns that are empty or only count the rows."""
    kept: dict[str, pl.Series] = {}
    for position, (title, column) in enumerate(zip(header, columns, strict=True), start=1):
        if not title.strip():
            counted = as_numbers(column).cast(pl.Int64, strict=False)
            counts = len(column) > 1 and counted.equals(
                pl.Series(range(counted[0] or 0, (counted[0] or 0) + len(column)))
            )
            if not (counts or column.null_count() == len(column)):
                raise CommandError(f"{name}: column {position} has no name in the first line; name it or remove it")
            notes.append(
                f"column {position} has no name and {'only counts the rows' if counts else 'is empty'}: left out"
            )
        elif title in kept:
            raise CommandError(f"{name} has more than one column {title!r}; rename one of them in the first line")
        else:
            kept[title] = column
    return pl.DataFrame(kept)
