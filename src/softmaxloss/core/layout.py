"""Where the classes of an n-d array lie, and how its rows look to a kernel.

The batch is all axes except the class axis. A row is the logits of all classes at one position of the batch. Kernels
that go row by row take a matrix (rows, classes). Another kernel computes many rows side by side, and arrays are not
transposed for it: see `ClassMajor`. It is taken for few classes, and for classes that lie further apart in memory than
rows do, as in images (N, C, H, W).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from softmaxloss.core.memory import FEWEST_BYTES, reused_empty
from softmaxloss.kernels.side_by_side.columns import columns_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Array = NDArray[Any]

# A piece takes a kernel some 50 to 100 microseconds, ten times the cost of handing it to a thread. Each row costs as
# much time as its elements plus ROW_ELEMENTS further ones, or plus SIDE_BY_SIDE_ELEMENTS if many rows are computed side
# by side.
PIECE_ELEMENTS = 1 << 18
ROW_ELEMENTS = 256
SIDE_BY_SIDE_ELEMENTS = 16
# Fewer neighbouring rows than this are not computed side by side: they are copied into a matrix, piece by piece.
SIDE_BY_SIDE = 8
# From an array that is not copied, a thread takes this many elements at a time, for some 20 microseconds. Rows that
# are computed side by side are taken in multiples of SHARE_ROWS, so that most tiles are full.
SHARE_ELEMENTS = 1 << 15
SHARE_ROWS = 128
# Up to this many classes, rows are computed side by side wherever they lie.
FEW_CLASSES = 160


class Piece(NamedTuple):
    """Some neighbouring rows: where they are in the flattened batch, and their slices of the axes of the batch."""

    rows: slice
    slices: tuple[slice, ...]


Arranged = Array | tuple[Any, ...]  # a matrix (rows, classes), or the fields of ClassMajor


@lru_cache(maxsize=256)
def layout_of(shape: tuple[int, ...], axis: int = -1) -> Layout:
    """Return the layout of logits of a shape with classes on an axis."""
    return Layout(shape, axis)


class Layout:
    """The shape of the logits, divided into batch and classes.

    Attributes
    ----------
    shape, batch_shape : tuple of int
        The shape of the logits, with and without the class axis.
    axis : int
        The class axis, counted from 0.
    n_rows, n_classes : int
    whole : Piece
        The whole batch.
    class_major : bool
        Whether rows are computed side by side. They are if there are few classes. They also are if rows would be
        neighbours in memory in an array of this shape in C order. How an array really lies in memory has no influence,
        so no bit of a result depends on it.
    in_order : bool
        Whether there are rows, and kernels can take an array of this shape directly if it is in C order.
    empty : function (shape, dtype)
        Return an uninitialized array for one call. It is `reused_empty` of core/memory.py. If all arrays of a call are
        small, it is np.empty, which takes 0.1 microseconds less.
    scratch : tuple of int
        The shape of the scratch memory that kernels need to compute rows side by side.
    share, n_shares : int
        How many neighbouring rows a thread takes at a time, its share, and how many shares there are.
    """

    def __init__(self, shape: tuple[int, ...], axis: int = -1, *, side_by_side: bool = True) -> None:
        self.shape = shape
        self.axis = axis % len(shape)
        self.batch_shape = shape[: self.axis] + shape[self.axis + 1 :]
        self.n_rows = prod(self.batch_shape)
        self.n_classes = shape[self.axis]
        self.whole = Piece(slice(0, self.n_rows), (slice(None),) * len(self.batch_shape))
        last = self.axis == len(shape) - 1
        self.classes_last = last or prod(shape[self.axis + 1 :]) < SIDE_BY_SIDE or not side_by_side
        self.class_major = side_by_side and (not self.classes_last or self.n_classes <= FEW_CLASSES)
        self.in_order = self.n_rows > 0 and (last or not self.classes_last)
        self._size = self.n_rows * self.n_classes
        # the fields of ClassMajor after the first, for an array in C order
        width = self.n_rows if self.classes_last else prod(shape[self.axis + 1 :])
        apart = (1, self.n_classes) if self.classes_last else (width, 1)
        self._strides = (self.n_rows // max(width, 1), self.n_classes, width, self.n_classes * width, *apart)
        self.scratch = columns_shape(self.n_classes, transposed=self.classes_last)
        self.empty: Callable[[tuple[int, ...], np.dtype[Any]], Array]
        self.empty = reused_empty if 8 * max(self.n_rows, prod(self.scratch)) >= FEWEST_BYTES else np.empty
        self.share = self._rows_of(SHARE_ELEMENTS)
        if self.class_major:
            self.share = -(-self.share // SHARE_ROWS) * SHARE_ROWS
        self.n_shares = -(-self.n_rows // self.share)

    @cached_property
    def row_by_row(self) -> Layout:
        """Return the same layout for kernels that only go row by row."""
        return Layout(self.shape, self.axis, side_by_side=False)

    def pieces(self) -> list[Piece]:
        """Return pieces that cover the batch, each of neighbouring rows in the order of the flattened batch."""
        return list(_split(self.batch_shape, self._rows_of(PIECE_ELEMENTS))) if self.n_rows else []

    def _rows_of(self, elements: int) -> int:
        extra, fewest = (SIDE_BY_SIDE_ELEMENTS, 2 * SIDE_BY_SIDE) if self.class_major else (ROW_ELEMENTS, 1)
        return max(fewest, elements // (self.n_classes + extra))

    def part(self, array: Array, piece: Piece) -> Array:
        """Return a piece of an array of this shape, with the classes on the last axis if `classes_last`."""
        if piece is not self.whole:
            array = array[(*piece.slices[: self.axis], slice(None), *piece.slices[self.axis :])]
        return np.moveaxis(array, self.axis, -1) if self.classes_last and self.axis < array.ndim - 1 else array

    def whole_of(self, array: Array, *, read_only: bool = False) -> Arranged:
        """Return a view of an array in C order as kernels take it."""
        if self.class_major:
            flat = array.ravel()
            if read_only:
                flat.setflags(False)  # type: ignore[call-arg]  # a keyword would take 0.1 us
            return (flat, *self._strides)
        return _sealed(array.reshape(self.n_rows, self.n_classes), read_only=read_only)

    def arranged(self, part: Array, *, read_only: bool = False) -> Arranged:
        """Return a part as kernels take it: a matrix (rows, classes) or the fields of ClassMajor.

        It is a view if possible, else a copy. With `read_only` it is marked as read-only. If a kernel only reads an
        array, it is compiled for read-only arrays.
        """
        flags = part.flags
        if part.size == self._size > 0 and flags.c_contiguous and flags.aligned:
            return self.whole_of(part, read_only=read_only)
        if self.classes_last:
            matrix = part.reshape(-1, self.n_classes)
            if not (matrix.flags.c_contiguous and matrix.flags.aligned):
                matrix = np.require(matrix, requirements=["C_CONTIGUOUS", "ALIGNED"])
            if not self.class_major:
                return _sealed(matrix, read_only=read_only)
            flat, n_rows, n_classes = _sealed(matrix.reshape(-1), read_only=read_only), len(matrix), self.n_classes
            return flat, 1, n_classes, n_rows, n_rows * n_classes, 1, n_classes
        groups = prod(part.shape[: self.axis])
        width = prod(part.shape[self.axis + 1 :])
        block = np.require(part.reshape(groups, self.n_classes, width), requirements=["ALIGNED"])
        strides = [stride // block.itemsize for stride in block.strides]
        if groups == 1 and strides[1] >= width and strides[2] == 1:
            # between the rows of this piece lie rows of other pieces: the kernel skips them
            length = (self.n_classes - 1) * strides[1] + width
            flat = as_strided(block, (length,), (block.itemsize,), writeable=block.flags.writeable)
            return _sealed(flat, read_only=read_only), 1, self.n_classes, width, length, strides[1], 1
        flat = _sealed(np.ascontiguousarray(block).reshape(-1), read_only=read_only)
        return flat, groups, self.n_classes, width, self.n_classes * width, width, 1


def _sealed(array: Array, *, read_only: bool) -> Array:
    """Return the array itself, marked read-only if asked for. It must be a new view: nothing else may refer to it."""
    if read_only:
        array.setflags(write=False)
    return array


def _split(shape: tuple[int, ...], most: int, outer: tuple[slice, ...] = (), first: int = 0) -> Iterator[Piece]:
    """Cut a batch into pieces of at most `most` rows. Their sizes are as equal as the axes allow."""
    n_rows, everything = prod(shape), slice(None)
    if n_rows <= most:
        yield Piece(slice(first, first + n_rows), (*outer, *(everything,) * len(shape)))
        return
    below = n_rows // shape[0]
    n_steps = -(-shape[0] // max(1, most // below))
    step = -(-shape[0] // n_steps)
    for start in range(0, shape[0], step):
        some = slice(start, min(start + step, shape[0]))
        here = first + start * below
        if below > most:
            yield from _split(shape[1:], most, (*outer, some), here)
        else:
            rows = slice(here, first + some.stop * below)
            yield Piece(rows, (*outer, some, *(everything,) * (len(shape) - 1)))
