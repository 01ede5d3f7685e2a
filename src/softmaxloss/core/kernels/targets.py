"""The one reading of one-hot and soft targets: which rows are one-hot, how much they weigh, what is wrong."""

import math
from typing import Any

from softmaxloss.core.kernels.arithmetic import LANES, class_weight_of, clear, lane_sum, lanes_for, two_sum
from softmaxloss.core.kernels.blocks import BLOCK
from softmaxloss.core.kernels.compilation import inline, kernel


@kernel
def all_within(labels: Any, n_classes: int) -> bool:
    """Return whether all class indices lie in 0..n_classes-1."""
    outside = 0
    for i in range(labels.size):
        outside += labels[i] < 0 or labels[i] >= n_classes
    return outside == 0


@kernel
def read_dense_rows(
    dense: Any, weight: Any, class_weight: Any, class_mask: Any, label: Any, share: Any, wrong_class: Any
) -> None:
    """Fill label (where one-hot), share = sum_j r_j P_j and the first wrong class of each row of nonzero weight."""
    lanes = lanes_for(0.0)
    for i in range(dense.shape[0]):
        if weight[i] == 0.0:
            continue
        row = dense[i]
        total, lost, nonzero, negative = 0.0, 0.0, 0, 0
        for start in range(0, row.size, BLOCK):
            block = row[start : start + BLOCK]
            total, error = two_sum(total, weighted_sum(block, class_weight, start, lanes))
            lost += error
            for j in range(block.size):
                nonzero += block[j] != 0
                negative += block[j] < 0
        share[i] = total + lost
        if negative > 0 or not math.isfinite(share[i]):
            wrong_class[i] = _first_wrong(row)
        elif class_mask.size > 0 and _first_masked(row, class_mask) < row.size:
            wrong_class[i] = _first_masked(row, class_mask)
        elif nonzero == 1:
            j = _first_nonzero(row)
            if row[j] == 1:
                label[i] = j
                share[i] = class_weight_of(class_weight, j)


@inline
def weighted_sum(block: Any, class_weight: Any, start: int, lanes: Any) -> float:
    """Return sum_j r_j P_j over a block."""
    clear(lanes.first)
    for begin in range(0, block.size, LANES):
        line = block[begin : begin + LANES]
        for lane in range(line.size):
            lanes.first[lane] += class_weight_of(class_weight, start + begin + lane) * line[lane]
    return lane_sum(lanes.first)


@inline
def _first_masked(row: Any, class_mask: Any) -> int:
    """Return the first class that does not exist but is wanted, or the number of classes."""
    first = row.size
    for j in range(row.size):
        first = min(first, j if row[j] != 0 and not class_mask[j] else row.size)
    return first


@inline
def _first_wrong(row: Any) -> int:
    for j in range(row.size):
        if not (row[j] >= 0 and math.isfinite(row[j])):
            return j
    return -1  # all entries are fine: their sum overflows


@inline
def _first_nonzero(row: Any) -> int:
    j = 0
    while row[j] == 0:
        j += 1
    return j
