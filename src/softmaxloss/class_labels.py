"""The labels of a classifier: one class per sample, or soft labels, which are one number per class for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import checks

Array = NDArray[Any]


def is_soft(y: Any) -> bool:
    """Return whether y holds soft labels."""
    if getattr(y, "ndim", 2) != 2:
        return False
    try:
        array = np.asarray(y)
    except (TypeError, ValueError):
        return False
    return array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f"


def classes_of_stream(y: Array, classes: Any, known: Array | None) -> Array:
    """Return the classes of a stream: those of an earlier batch, or in the first batch those that the caller gives."""
    given = None if classes is None else np.unique(classes)
    if y.ndim == 2:
        columns = np.arange(y.shape[1])
        known = columns if known is None else known
        if not np.array_equal(columns, known):
            raise ValueError(
                f"soft labels must have a column for each class 0, 1, ..., got {len(columns)} columns and the classes "
                f"{_listed(known)}; pass one column per class, or labels"
            )
    if known is None and given is None:
        raise ValueError(
            "classes must hold all labels of the stream in the first call of partial_fit, got None; pass for example "
            "np.unique of all labels"
        )
    if known is not None and given is not None and not np.array_equal(given, known):
        raise ValueError(
            f"classes must be those of the first call, {_listed(known)}, got {_listed(given)}; to add a class, start "
            "again with a clone of the estimator"
        )
    return given if known is None else known  # type: ignore[return-value]


def positions(y: Array, classes: Array) -> Array:
    """Return the positions of labels among sorted classes; soft labels are returned unchanged."""
    if y.ndim == 2:
        return y
    places: Array = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    unknown = np.flatnonzero(classes[places] != y)
    if unknown.size:
        got = checks.shown(y[unknown].tolist()[0])
        raise ValueError(
            f"y must hold labels among the classes {_listed(classes)}, got {got} at position {unknown[0]}; pass all "
            "classes of the stream to the first call of partial_fit"
        )
    return places


def _listed(classes: Array) -> str:
    """Return classes as a message shows them."""
    return checks.shown(classes.tolist())
