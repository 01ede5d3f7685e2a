"""Where a result of the shape of the logits goes: to a new array, or to that of the caller, which may be the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import checks
from softmaxloss.core.dtypes import result_dtype

Array = NDArray[Any]


def place_for(out: Array | None, logits: Array, dense_targets: Array | None = None) -> tuple[Array, Array]:
    """Return the array for a result of the shape of the logits, and the array to compute it in.

    They are the same, unless `out` overlaps an array that is read: then the second is a new array. If `out` is the
    logits themselves, no new array is needed.
    """
    if out is None:
        array = np.empty(logits.shape, result_dtype(logits.dtype))
        return array, array
    array = checks.out(out, logits)
    overlaps_targets = dense_targets is not None and _may_overlap(array, dense_targets)
    if overlaps_targets or (_may_overlap(array, logits) and not _same_place(array, logits)):
        return array, np.empty(logits.shape, result_dtype(logits.dtype))
    return array, array


def filled(array: Array, place: Array) -> Array:
    """Return the array for a result, filled from `place` if it was computed there."""
    if place is not array:
        array[...] = place
    return array


def _may_overlap(a: Array, b: Array) -> bool:
    """Return whether arrays may overlap. Two arrays that own their memory overlap only if they are the same one."""
    return (a is b or not (a.flags.owndata and b.flags.owndata)) and np.may_share_memory(a, b)


def _same_place(a: Array, b: Array) -> bool:
    return a is b or (a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.dtype == b.dtype)
