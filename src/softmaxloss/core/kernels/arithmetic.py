"""Small pieces of arithmetic that several kernels share."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from softmaxloss.core.kernels.compilation import STEP_OPTIONS, inline

# Terms that vector lanes add plainly, 4 to 8 in a lane; longer sums add the totals of runs with two_sum.
RUN = 256

# An index that cannot be negative needs no wrapping around, which would turn vector loads into gathers.
_UNSIGNED = np.uint64


@inline
def two_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum and exactly what rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@inline
def half_gap(z: float, peak: float) -> float:
    """Return (z - peak) / 2, which is finite even where z - peak is too large; -inf for z = -inf under any peak."""
    return 0.5 * z - 0.5 * peak if z > -math.inf else z


def class_weight_of(class_weight: Any, j: int) -> Any:
    """Return r_j, which is 1 where no class weights are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(class_weight_of, strict=False, jit_options=STEP_OPTIONS)
def _class_weight_of(class_weight: Any, j: int) -> Callable[..., Any]:
    if isinstance(class_weight, types.NoneType):
        return lambda class_weight, j: 1.0
    return lambda class_weight, j: class_weight[_UNSIGNED(j)]


def probability_of(dense: Any, i: int, j: int) -> Any:
    """Return P_ij, which is 0 where no target rows are given."""
    raise NotImplementedError  # compiled code has the versions below


@overload(probability_of, strict=False, jit_options=STEP_OPTIONS)
def _probability_of(dense: Any, i: int, j: int) -> Callable[..., Any]:
    if isinstance(dense, types.NoneType):
        return lambda dense, i, j: 0.0
    return lambda dense, i, j: dense[_UNSIGNED(i), _UNSIGNED(j)]
