"""The pass that checks one-hot and soft targets, for many rows side by side; kernels/targets.py goes row by row."""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.intrinsics import stack_arrays
from softmaxloss.kernels.numerics.double_double import two_sum
from softmaxloss.kernels.numerics.lanes import clear
from softmaxloss.kernels.row import class_weight_of, q_of, rows_of
from softmaxloss.kernels.side_by_side.columns import ClassMajor, columns_in, next_tile, read_tile
from softmaxloss.kernels.tile import MOST_ROWS, Doubles, Indices, Reals


class Seen(NamedTuple):
    """The state of each row of a tile, while the classes are read one after the other."""

    total: Doubles  # sum_j r_j P_j: the high part
    low: Doubles  # and the low part
    highest: Reals  # the highest P
    place: Indices  # the first class that has it
    largest_q: Doubles  # the largest q; used where there are class weights
    wanted: Indices  # the first class that has it
    nonzero: Indices  # how many P are not 0
    wrong: Indices  # how many P will be refused


seen_for = stack_arrays(Seen, MOST_ROWS)


@kernel
def read_dense_rows(dense: Any, rows: Any, scratch: Any, unsmoothed: Any, wrong: Any) -> None:
    """Fill the same arrays as `read_dense_rows` of kernels/targets.py, which says what they hold."""
    dense, rows = ClassMajor(*dense), rows_of(rows)
    columns, rest = columns_in(scratch, dense.n_classes)
    seen, n_rows, row, first = seen_for(columns[0, 0]), dense.groups * dense.width, 0, 0
    while first < rows.class_mask.size and not rows.class_mask[first]:
        first += 1
    while row < n_rows:
        group, start, size = next_tile(dense, columns, 0, row, n_rows)
        read_tile(dense, columns, rest, group, start, size)
        for values in (seen.total, seen.low, seen.largest_q):
            clear(values[:size])
        for counts in (seen.nonzero, seen.wrong):  # Numba wants one dtype in a tuple
            clear(counts[:size])
        seen.highest[:size] = 0
        seen.place[:size], seen.wanted[:size] = first, first
        for j in range(dense.n_classes):
            exists = rows.class_mask.size == 0 or rows.class_mask[j]
            r = class_weight_of(rows.class_weight, j)
            _see(columns[j][:size], r, j, exists, seen)
            if rows.class_weight.size > 0:
                _see_q(columns[j][:size], rows, r, j, seen)
        for c in range(size):
            if rows.weight[row + c] != 0.0:
                is_one_hot = seen.nonzero[c] == 1 and seen.highest[c] == 1
                target = seen.place[c] if rows.class_weight.size == 0 else seen.wanted[c]
                rows.label[row + c] = seen.place[c] if is_one_hot else -1 - target
                unsmoothed[row + c] = seen.total[c] + seen.low[c]
                wrong[row + c] = seen.wrong[c] > 0
        row += size


@inline
def _see(column: Any, r: float, j: int, exists: bool, seen: Seen) -> None:
    """Take one more class into account."""
    limit = column.dtype.type(math.inf if exists else 0.0)
    for c in range(column.size):
        p = column[c]
        seen.total[c], error = two_sum(seen.total[c], r * p)
        seen.low[c] += error
        seen.place[c] = np.int32(j) if p > seen.highest[c] else seen.place[c]
        seen.highest[c] = p if p > seen.highest[c] else seen.highest[c]
        seen.nonzero[c] += np.int32(1) if p != 0 else np.int32(0)
        seen.wrong[c] += np.int32(0) if p == 0 or 0 < p < limit else np.int32(1)


@inline
def _see_q(column: Any, rows: Any, r: float, j: int, seen: Seen) -> None:
    for c in range(column.size):
        q = q_of(rows, r, column[c])
        seen.wanted[c] = np.int32(j) if q > seen.largest_q[c] else seen.wanted[c]
        seen.largest_q[c] = q if q > seen.largest_q[c] else seen.largest_q[c]
