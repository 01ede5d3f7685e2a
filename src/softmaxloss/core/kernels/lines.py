"""Rows side by side: copied to where each class of theirs is one line, and back."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from softmaxloss.core.kernels.bits import CACHE_LINE, SQUARE_BYTES, decoded, prefetch, transpose
from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline
from softmaxloss.core.kernels.scaling import numbers_before_line, store
from softmaxloss.core.kernels.tiles import MOST_ROWS

# The logits of a tile stay in a second-level cache: so many, or MOST_ROWS rows of few classes. Each line begins with a
# cache line: where vectors straddle two of these it takes an eighth longer.
FEWEST_ROWS = 16
TILE_ELEMENTS = 1 << 14


def room_for_lines(n_classes: int, *, turned: bool) -> tuple[int, int]:
    """Return the shape of the room for the classes of some rows, and for as much again where rows are to be turned.

    There are few classes then, and all lines have the length MOST_ROWS: the compiler knows it, which spares 2 to 5 %.
    """
    if turned:
        return 1 + 2 * n_classes, MOST_ROWS  # one line more, to begin within it
    n_rows = min(MOST_ROWS, TILE_ELEMENTS // max(n_classes, 1)) // FEWEST_ROWS * FEWEST_ROWS
    return 1 + n_classes, max(FEWEST_ROWS, n_rows)


@inline
def lines_and_spare(logits: Any, room: Any) -> tuple[Any, Any]:
    """Return room for classes of rows that are computed side by side, and to turn rows by way of."""
    n_rows, numbers = room.shape[1], room.reshape(room.size)
    begin = numbers_before_line(room)
    end = begin + logits.n_classes * n_rows
    return numbers[begin:end].reshape(logits.n_classes, n_rows), numbers[end:]


@inline
def place_of(array: Any, group: int, j: int, row: int) -> int:
    """Return where class j of a row of a group stands in the flat array."""
    return group * array.group_stride + j * array.class_stride + row * array.row_stride


@inline
def rows_before_line(array: Any) -> int:
    """Return how many rows of a group lie before the first that begins a cache line in all classes; 0 if none does.

    Where tiles end there, they share no cache lines: a fifth of the time of 8x21x256x256, see ask_for_shared.
    """
    per_line = CACHE_LINE // array.flat.itemsize
    alike = array.class_stride % per_line == 0 and (array.groups == 1 or array.group_stride % per_line == 0)
    return numbers_before_line(array.flat) if array.row_stride == 1 and alike else 0


@inline
def rows_of_step(begin: int, step: int, skew: int, n_rows: int) -> tuple[int, int]:
    """Return the first row of a step and the row after its last; `skew` is what rows_before_line returns."""
    return begin + skew if begin > 0 else 0, min(begin + step + skew, n_rows)


@inline
def next_tile(logits: Any, lines: Any, skew: int, row: int, end: int) -> tuple[int, int, int]:
    """Return the group, the place in it, and the size of the tile that begins with a row; gradients have this format.

    What is left of a group or a step, and fits, is not cut.
    """
    group, start = row // logits.width, row % logits.width
    left, size = min(logits.width - start, end - row), lines.shape[1]
    beyond = (start + size - skew) % (CACHE_LINE // logits.flat.itemsize) if skew > 0 else 0
    if beyond < size < left:
        return group, start, size - beyond
    return group, start, min(size, left)


@inline
def read_tile(logits: Any, class_mask: Any, lines: Any, spare: Any, group: int, start: int, size: int) -> None:
    """Copy rows of a group so that each class is a line; classes that do not exist are -inf."""
    if logits.row_stride == 1:
        for j in range(logits.n_classes):
            at = place_of(logits, group, j, start)
            copy_line(logits.flat[at:], lines[j][:size])
    else:
        place = place_of(logits, group, 0, start)
        rows = computed(logits.flat[place : place + size * logits.row_stride], spare)
        turn(rows, logits.row_stride, size, lines.reshape(lines.size), MOST_ROWS, logits.n_classes, True)
    for j in range(class_mask.size):
        if not class_mask[j]:
            lines[j][:size] = -math.inf


def computed(stored: Any, spare: Any) -> Any:
    """Return numbers in the precision they are computed in: themselves, or a copy in the spare room."""
    raise NotImplementedError  # compiled code has the versions below


@overload(computed, strict=False, jit_options=STEP_OPTIONS)
def _computed(stored: Any, spare: Any) -> Callable[..., Any]:
    def copied(stored: Any, spare: Any) -> Any:
        copy_line(stored, spare[: stored.size])
        return spare

    return (lambda stored, spare: stored) if stored.dtype == spare.dtype else copied


@inline
def ask_for_next(logits: Any, group: int, start: int, size: int, begin: int, end: int) -> None:
    """Ask the caches for some classes of the rows that follow a tile, or as much of these rows if classes come last."""
    line = CACHE_LINE // logits.flat.itemsize
    if logits.class_stride == 1:
        first = place_of(logits, group, 0, start + size)
        stop = min(first + end * size, logits.flat.size)
        for place in range(first + begin * size, stop, line):
            prefetch(logits.flat, place)
    else:
        ahead = min(size, logits.width - start - size)
        for j in range(begin, end):
            first = place_of(logits, group, j, start + size)
            for place in range(first, first + ahead, line):
                prefetch(logits.flat, place)


@inline
def ask_for_shared(out: Any, group: int, stop: int) -> None:
    """Ask for the cache lines that a tile which ends before row `stop` of a group shares with the tile after it.

    They are written in parts, which hold up all others while they are fetched: a seventh of the time of 8x21x250x250.
    """
    per_line, before = CACHE_LINE // out.flat.itemsize, numbers_before_line(out.flat)
    for j in range(out.n_classes if out.row_stride == 1 else 0):
        place = place_of(out, group, j, stop)
        if (place - before) % per_line != 0:
            prefetch(out.flat, place - 1)


@inline
def write_tile(lines: Any, spare: Any, out: Any, group: int, start: int, size: int, past_caches: bool) -> None:
    """Copy lines back to where the rows belong."""
    one = lines.dtype.type(1)
    if out.row_stride == 1:
        for j in range(out.n_classes):
            at = place_of(out, group, j, start)
            store(lines[j][:size], one, out.flat[at : at + size], past_caches)
    else:
        first = place_of(out, group, 0, start)
        rows = out.flat[first : first + size * out.row_stride]
        turned = room_for_rows(rows, spare, past_caches)
        turn(lines.reshape(lines.size), MOST_ROWS, lines.shape[0], turned, lines.shape[0], size, False)
        if past_caches or spare.itemsize != rows.itemsize:
            store(turned[: rows.size], one, rows, past_caches)


def room_for_rows(rows: Any, spare: Any, past_caches: bool) -> Any:
    """Return where to turn lines to: rows that are stored in this precision, or else the spare room."""
    raise NotImplementedError  # compiled code has the versions below


@overload(room_for_rows, strict=False, jit_options=STEP_OPTIONS)
def _room_for_rows(rows: Any, spare: Any, past_caches: bool) -> Callable[..., Any]:
    def either(rows: Any, spare: Any, past_caches: bool) -> Any:
        if past_caches:
            return spare
        return rows

    return either if rows.dtype == spare.dtype else lambda rows, spare, past_caches: spare


@inline
def copy_line(source: Any, line: Any) -> None:
    """Copy stored numbers into a line."""
    for c in range(line.size):
        line[c] = decoded(source[c])


@inline
def turn(source: Any, stride: int, n_rows: int, out: Any, out_stride: int, n_columns: int, columns_first: bool) -> None:
    """Copy the matrix source[i * stride + j] to out[j * out_stride + i] in squares, down the columns first or not.

    Whichever goes along the lines needs only a few numbers of each row to stay in a first-level cache.
    """
    side = SQUARE_BYTES // out.itemsize
    if n_rows < side or n_columns < side:
        turn_one_by_one(source, stride, n_rows, out, out_stride, n_columns)
        return
    outer, inner = (n_columns, n_rows) if columns_first else (n_rows, n_columns)
    for first in range(0, outer, side):
        a = min(first, outer - side)  # the last squares overlap those before them
        for second in range(0, inner, side):
            b = min(second, inner - side)
            i, j = (b, a) if columns_first else (a, b)
            transpose(source, i * stride + j, stride, out, j * out_stride + i, out_stride)


@inline
def turn_one_by_one(source: Any, stride: int, n_rows: int, out: Any, out_stride: int, n_columns: int) -> None:
    """Do so number by number."""
    for i in range(n_rows):
        for j in range(n_columns):
            place = np.uint64(j * out_stride + i)
            out[place] = source[np.uint64(i * stride + j)]
