"""Rows side by side: copied to a tile, where each class is one column, and back.

A column is contiguous in memory: columns[j] holds the logits, or the probabilities, of class j for all rows of a tile.
"""

from typing import Any, NamedTuple

from numba import types

from softmaxloss.kernels.machine.cache_lines import numbers_before_cache_line, store
from softmaxloss.kernels.machine.compilation import by_type, inline
from softmaxloss.kernels.machine.half import decoded
from softmaxloss.kernels.machine.intrinsics import CACHE_LINE, prefetch
from softmaxloss.kernels.machine.transpose import transpose
from softmaxloss.kernels.row import DenseTile
from softmaxloss.kernels.tile import MOST_ROWS

# A tile has up to TILE_ELEMENTS logits, or MOST_ROWS rows of few classes, and stays in a second-level cache. Each
# column begins with a cache line: with vectors that straddle two cache lines, it takes an eighth longer.
FEWEST_ROWS = 16
TILE_ELEMENTS = 1 << 14


class ClassMajor(NamedTuple):
    """A flat array of groups of rows; kernels get its fields as a plain tuple, whose type Numba finds sooner.

    Class j of row c in group g, which has `width` rows, is flat[g * group_stride + j * class_stride + c * row_stride].
    """

    flat: Any
    groups: int
    n_classes: int
    width: int
    group_stride: int
    class_stride: int
    row_stride: int


@inline
def place_of(array: Any, group: int, j: int, row: int) -> int:
    """Return the index in the flat array of class j of a row in a group."""
    return group * array.group_stride + j * array.class_stride + row * array.row_stride


def columns_shape(n_classes: int, *, transposed: bool) -> tuple[int, int]:
    """Return the shape of the scratch array for the columns of a tile. If rows are transposed, it has twice as many.

    In this case there are few classes, and all columns have the length MOST_ROWS. The compiler knows this length: that
    saves 2 to 5 %.
    """
    if transposed:
        return 1 + 2 * n_classes, MOST_ROWS  # one more, as the first column begins at a cache line
    n_rows = min(MOST_ROWS, TILE_ELEMENTS // max(n_classes, 1)) // FEWEST_ROWS * FEWEST_ROWS
    return 1 + n_classes, max(FEWEST_ROWS, n_rows)


@inline
def columns_in(scratch: Any, n_classes: int) -> tuple[Any, Any]:
    """Return the columns, and the rest of the scratch array, which serves to transpose rows."""
    n_rows, numbers = scratch.shape[1], scratch.reshape(scratch.size)
    begin = numbers_before_cache_line(scratch)
    end = begin + n_classes * n_rows
    return numbers[begin:end].reshape(n_classes, n_rows), numbers[end:]


@inline
def rows_before_cache_line(array: Any) -> int:
    """Return how many rows of a group lie before the first that begins a cache line in all classes; 0 if none does.

    Tiles that end there share no cache lines, which saves a fifth of the time of 8x21x256x256: see prefetch_shared.
    """
    per_line = CACHE_LINE // array.flat.itemsize
    alike = array.class_stride % per_line == 0 and (array.groups == 1 or array.group_stride % per_line == 0)
    return numbers_before_cache_line(array.flat) if array.row_stride == 1 and alike else 0


@inline
def next_tile(logits: Any, columns: Any, skew: int, row: int, end: int) -> tuple[int, int, int]:
    """Return the group, the place in it, and the size of the tile that begins with a row.

    The last rows of a group or a share are one tile if they fit. `skew` is from rows_before_cache_line; gradients have
    the format of the logits.
    """
    group, start = row // logits.width, row % logits.width
    left, size = min(logits.width - start, end - row), columns.shape[1]
    beyond = (start + size - skew) % (CACHE_LINE // logits.flat.itemsize) if skew > 0 else 0
    if beyond < size < left:
        return group, start, size - beyond
    return group, start, min(size, left)


@inline
def read_tile(logits: Any, columns: Any, scratch: Any, group: int, start: int, size: int) -> None:
    """Copy rows of a group to columns."""
    if logits.row_stride == 1:
        for j in range(logits.n_classes):
            _decode(logits.flat[place_of(logits, group, j, start) :], columns[j][:size])
    else:
        place = place_of(logits, group, 0, start)
        rows = _computed(logits.flat[place : place + size * logits.row_stride], scratch)
        flat = columns.reshape(columns.size)
        transpose(rows, logits.row_stride, size, flat, MOST_ROWS, logits.n_classes, True)


@by_type
def dense_tile(dense: Any, scratch: Any, group: int, start: int, size: int) -> Any:
    """Return the target distributions of rows of a group, copied to columns; or None if there are none."""

    def copied(dense: Any, scratch: Any, group: int, start: int, size: int) -> Any:
        probabilities = ClassMajor(*dense)
        columns, rest = columns_in(scratch, probabilities.n_classes)
        read_tile(probabilities, columns, rest, group, start, size)
        return DenseTile(columns)

    return (lambda dense, scratch, group, start, size: None) if isinstance(dense, types.NoneType) else copied


@by_type
def _computed(stored: Any, scratch: Any) -> Any:
    """Return numbers in the precision they are computed in: themselves, or a copy in the scratch array."""

    def copied(stored: Any, scratch: Any) -> Any:
        _decode(stored, scratch[: stored.size])
        return scratch

    return (lambda stored, scratch: stored) if stored.dtype == scratch.dtype else copied


@inline
def _decode(stored: Any, out: Any) -> None:
    for c in range(out.size):
        out[c] = decoded(stored[c])


@inline
def prefetch_next(logits: Any, group: int, start: int, size: int, begin: int, end: int) -> None:
    """Prefetch some classes of the rows after a tile; where classes come last, as many numbers of these rows."""
    per_line = CACHE_LINE // logits.flat.itemsize
    if logits.class_stride == 1:
        first = place_of(logits, group, 0, start + size)
        stop = min(first + end * size, logits.flat.size)
        for place in range(first + begin * size, stop, per_line):
            prefetch(logits.flat, place)
    else:
        ahead = min(size, logits.width - start - size)
        for j in range(begin, end):
            first = place_of(logits, group, j, start + size)
            for place in range(first, first + ahead, per_line):
                prefetch(logits.flat, place)


@inline
def prefetch_shared(out: Any, group: int, stop: int) -> None:
    """Prefetch the cache lines that a tile, which ends before row `stop` of a group, shares with the next tile.

    They are written in parts. Fetched only then, they delay all other stores: a seventh of the time of 8x21x250x250.
    """
    per_line, before = CACHE_LINE // out.flat.itemsize, numbers_before_cache_line(out.flat)
    for j in range(out.n_classes if out.row_stride == 1 else 0):
        place = place_of(out, group, j, stop)
        if (place - before) % per_line != 0:
            prefetch(out.flat, place - 1)


@inline
def write_tile(columns: Any, scratch: Any, out: Any, group: int, start: int, size: int, streamed: bool) -> None:
    """Copy columns back to the rows that they belong to."""
    one = columns.dtype.type(1)
    if out.row_stride == 1:
        for j in range(out.n_classes):
            at = place_of(out, group, j, start)
            store(columns[j][:size], one, out.flat[at : at + size], streamed)
    else:
        first = place_of(out, group, 0, start)
        rows = out.flat[first : first + size * out.row_stride]
        transposed = _transposed_to(rows, scratch, streamed)
        flat = columns.reshape(columns.size)
        transpose(flat, MOST_ROWS, columns.shape[0], transposed, columns.shape[0], size, False)
        if streamed or scratch.itemsize != rows.itemsize:
            store(transposed[: rows.size], one, rows, streamed)


@by_type
def _transposed_to(rows: Any, scratch: Any, streamed: bool) -> Any:
    """Return where to transpose columns to: the rows if they have its precision and are not streamed, else there."""

    def either(rows: Any, scratch: Any, streamed: bool) -> Any:
        if streamed:
            return scratch
        return rows

    return either if rows.dtype == scratch.dtype else lambda rows, scratch, streamed: scratch
