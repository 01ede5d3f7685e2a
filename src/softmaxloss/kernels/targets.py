"""The pass that checks one-hot and soft targets: it finds one-hot rows, how much rows weigh, and wrong values."""

import math
from typing import Any

from softmaxloss.kernels.by_row.blocks import BLOCK, highest
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.numerics.double_double import two_sum
from softmaxloss.kernels.numerics.lanes import LANES, clear, lane_sum, lanes_for
from softmaxloss.kernels.row import class_weight_of, q_of, rows_of


@kernel
def all_within(labels: Any, n_classes: int) -> bool:
    """Return whether all class indices lie in 0..n_classes-1."""
    outside = 0
    for i in range(labels.size):
        outside += labels[i] < 0 or labels[i] >= n_classes
    return outside == 0


@kernel
def read_labels(labels: Any, ignores: bool, ignored: int, exists: Any, n_classes: int, weight: Any) -> int:
    """Give weight 0 to ignored rows and label 0 to rows of weight 0; return how many other labels are no such class.

    Such a class lies in 0..n_classes-1 and exists.
    """
    wrong = 0
    for i in range(labels.size):
        label = labels[i]
        if ignores and label == ignored:
            weight[i] = 0.0
        if weight[i] == 0.0:
            labels[i] = 0
        elif not 0 <= label < n_classes or (exists.size and not exists[label]):
            wrong += 1
    return wrong


@kernel
def read_dense_rows(dense: Any, rows: Any, unsmoothed: Any, wrong: Any) -> None:
    """Fill unsmoothed = sum_j r_j P_j, the label, and whether P is wrong, of each row of nonzero weight.

    The label of a row that is not one-hot is -1 - t, with t a class of the largest q. P is wrong if it holds a
    negative number, NaN or inf, or is not 0 for a class that does not exist.
    """
    rows, lanes = rows_of(rows), lanes_for(0.0)
    for i in range(dense.shape[0]):
        if rows.weight[i] == 0.0:
            continue
        row, total, low, nonzero, ones, places, wrongs = dense[i], 0.0, 0.0, 0, 0, 0, 0
        clear(lanes.second)
        for start in range(0, row.size, BLOCK):
            block = row[start : start + BLOCK]
            total, error = two_sum(total, _weighted_sum(block, rows, start, lanes))
            low += error
            for j in range(block.size):
                nonzero += block[j] != 0
                ones += block[j] == 1
                places += start + j if block[j] == 1 else 0
                wrongs += not 0 <= block[j] < math.inf
        for j in range(rows.class_mask.size):
            wrongs += row[j] != 0 and not rows.class_mask[j]
        unsmoothed[i] = total + low
        wrong[i] = wrongs > 0
        rows.label[i] = -1 - _first_wanted(row, rows, highest(lanes.second))
        if nonzero == 1 and ones == 1:
            rows.label[i], unsmoothed[i] = places, class_weight_of(rows.class_weight, places)


@inline
def _weighted_sum(block: Any, rows: Any, start: int, lanes: Any) -> float:
    """Return sum_j r_j P_j over a block; meanwhile lanes.second keeps the largest q."""
    clear(lanes.first)
    for begin in range(0, block.size, LANES):
        part = block[begin : begin + LANES]
        for lane in range(part.size):
            r = class_weight_of(rows.class_weight, start + begin + lane)
            lanes.first[lane] += r * part[lane]
            q = q_of(rows, r, part[lane])
            lanes.second[lane] = q if q > lanes.second[lane] else lanes.second[lane]
    return lane_sum(lanes.first)


@inline
def _first_wanted(row: Any, rows: Any, most: float) -> int:
    """Return the first existing class whose q is the largest, up to rounding; 0 if there is none."""
    for j in range(row.size):
        q = q_of(rows, class_weight_of(rows.class_weight, j), row[j])
        if q >= most * (1.0 - 2.0**-40) and (rows.class_mask.size == 0 or rows.class_mask[j]):
            return j
    return 0
