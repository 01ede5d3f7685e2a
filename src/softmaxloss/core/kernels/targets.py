"""The one reading of one-hot and soft targets: which rows are one-hot, how much they weigh, what is wrong."""

import math
from typing import Any

from softmaxloss.core.kernels.arithmetic import RUN, class_weight_of, two_sum
from softmaxloss.core.kernels.compilation import inline, kernel, reduction


@kernel
def read_dense_rows(dense: Any, weight: Any, class_weight: Any, label: Any, share: Any, wrong_class: Any) -> None:
    """Fill label (where one-hot), share = sum_j r_j P_j and the first wrong class of each row of nonzero weight."""
    for i in range(dense.shape[0]):
        if weight[i] == 0.0:
            continue
        row = dense[i]
        total, lost, nonzero, negative = 0.0, 0.0, 0, 0
        for start in range(0, row.size, RUN):
            run_total, run_nonzero, run_negative = _census(row[start : start + RUN], class_weight, start)
            total, error = two_sum(total, run_total)
            lost += error
            nonzero += run_nonzero
            negative += run_negative
        share[i] = total + lost
        if negative > 0 or not math.isfinite(share[i]):
            wrong_class[i] = _first_wrong(row)
        elif nonzero == 1:
            j = _first_nonzero(row)
            if row[j] == 1:
                label[i] = j
                share[i] = class_weight_of(class_weight, j)


@reduction
def _census(run: Any, class_weight: Any, start: int) -> tuple[float, int, int]:
    total, nonzero, negative = 0.0, 0, 0
    for j in range(run.size):
        total += class_weight_of(class_weight, start + j) * run[j]
        nonzero += run[j] != 0
        negative += run[j] < 0
    return total, nonzero, negative


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
