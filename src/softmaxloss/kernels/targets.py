"""The passes that check targets. That over one-hot and soft targets also finds one-hot rows and sum_j r_j P_j."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.by_row.blocks import BLOCK, first_index, highest, highest_negated
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.intrinsics import higher
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
    """Give weight 0 to ignored rows, and label 0 to rows of weight 0.

    Return how many rows of nonzero weight have a wrong label: no class, or one that does not exist.
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
    """Set `unsmoothed` (sum_j r_j P_j), `rows.label` and `wrong` of each row of nonzero weight.

    The label of a row that is not one-hot is -1 - t, with t a class of the largest q. P is wrong if it holds a
    negative number, NaN or inf, or is not 0 for a class that does not exist.
    """
    rows, lanes = rows_of(rows), lanes_for(0.0)
    for i in range(dense.shape[0]):
        if rows.weight[i] == 0.0:
            continue
        row, total, low, top, bottom = dense[i], 0.0, 0.0, dense.dtype.type(0), dense.dtype.type(0)
        for start in range(0, row.size, BLOCK):
            block, r = row[start : start + BLOCK], rows.class_weight[start : start + BLOCK]
            top, bottom = higher(top, highest(block)), higher(bottom, highest_negated(block))
            total, error = two_sum(total, _weighted_sum(block, r, lanes.first))
            low += error
        unsmoothed[i] = total + low
        if bottom > 0 or not math.isfinite(total) or rows.class_mask.size > 0:
            wrong[i] = _is_wrong(row, rows.class_mask)
        is_one_hot = top == 1 and _count_nonzero(row) == 1
        # without class weights the highest P has the largest q, so q need not be computed
        has_largest_q = is_one_hot or (top > 0 and rows.class_weight.size == 0)
        place = _first_of(row, top) if has_largest_q else _first_wanted(row, rows)
        rows.label[i] = place if is_one_hot else -1 - place


@inline
def _weighted_sum(block: Any, class_weight: Any, lanes: Any) -> float:
    """Return sum_j r_j P_j over a block."""
    lanes = lanes[: min(LANES, block.size)]
    clear(lanes)
    for begin in range(0, block.size, LANES):
        part, r = block[begin : begin + LANES], class_weight[begin : begin + LANES]
        for lane in range(part.size):
            lanes[lane] += class_weight_of(r, lane) * part[lane]
    return lane_sum(lanes)


@inline
def _is_wrong(row: Any, class_mask: Any) -> bool:
    wrongs = 0
    for j in range(row.size):
        wrongs += not 0 <= row[j] < math.inf
    for j in range(class_mask.size):
        wrongs += row[j] != 0 and not class_mask[j]
    return wrongs > 0


@inline
def _count_nonzero(row: Any) -> int:
    count = 0
    for j in range(row.size):
        count += row[j] != 0
    return count


@inline
def _first_of(row: Any, value: Any) -> int:
    """Return the first class with this probability, or 0."""
    for start in range(0, row.size, BLOCK):
        block = row[start : start + BLOCK]
        j = first_index(block, value)
        if j < block.size:
            return start + j
    return 0


@inline
def _first_wanted(row: Any, rows: Any) -> int:
    """Return the first existing class whose q is the largest, up to rounding; 0 if there is none."""
    most = 0.0
    for j in range(row.size):
        most = higher(most, np.float64(q_of(rows, class_weight_of(rows.class_weight, j), row[j])))
    for j in range(row.size):
        q = q_of(rows, class_weight_of(rows.class_weight, j), row[j])
        if q >= most * (1.0 - 2.0**-40) and (rows.class_mask.size == 0 or rows.class_mask[j]):
            return j
    return 0
