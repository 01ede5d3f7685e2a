"""What a call asks for: its logits, how their rows lie, the descriptor of the rows, and the reduction."""

from __future__ import annotations

from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks
from softmaxloss.core.layout import Layout, layout_of
from softmaxloss.core.rows import NO_LABELS, Reduction, RowOptions, Rows, describe, plain_labels

Array = NDArray[Any]


class Request(NamedTuple):
    """Checked arguments of a loss."""

    logits: Array
    layout: Layout
    rows: Rows
    reduction: Reduction


def request(logits: ArrayLike, targets: ArrayLike, axis: int, options: RowOptions) -> Request:
    """Return what these arguments ask for; ValueError or TypeError where they make no sense.

    Of class indices without anything else that has a number per row or class, only the indices are looked at when it
    was asked before: in a small call, checking the rest would take longer than the loss.
    """
    constant = type(axis) is int and _CONSTANT.issuperset(map(type, options.values()))
    if constant and type(logits) is np.ndarray and type(targets) is np.ndarray:
        arrays = (logits.shape, logits.dtype, targets.shape, targets.dtype)
        known = _known(arrays, axis, tuple(options), *options.values())
        if known is not None:
            _, layout, rows, reduction = known
            label = plain_labels(targets, layout.n_classes)
            if label is not None:
                return Request(logits, layout, Rows(label, *rows[1:]), reduction)
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    return Request(z, layout, *describe(targets, layout, **options))


_CONSTANT = {float, int, str, NoneType}  # what may change later, such as an array of no dimension, is not remembered


@lru_cache(maxsize=256, typed=True)
def _known(arrays: tuple[Any, ...], axis: int, names: tuple[str, ...], *values: Any) -> Request | None:
    """Return the request but for its labels; None where other values of targets may ask for something else."""
    shape, dtype, target_shape, target_dtype = arrays
    options: Any = dict(zip(names, values, strict=True))
    logits = np.broadcast_to(np.zeros((), dtype), shape)
    if target_dtype.kind not in "iu" or options.get("ignore_index") is not None or checks.logits(logits) is not logits:
        return None
    layout = layout_of(shape, checks.axis(axis, logits))
    if target_shape != layout.batch_shape or layout.n_rows == 0 or layout.n_classes == 0:
        return None
    rows, reduction = describe(np.broadcast_to(np.zeros((), target_dtype), target_shape), layout, **options)
    return Request(logits, layout, rows._replace(label=NO_LABELS), reduction)
