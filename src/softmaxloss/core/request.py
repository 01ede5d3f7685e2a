"""What a call asks for: its logits, how their rows lie, the descriptor of the rows, and the reduction."""

from __future__ import annotations

from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import checks
from softmaxloss.core.layout import Layout, layout_of
from softmaxloss.core.rows import NO_LABELS, Reduction, Rows, describe, plain_labels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from softmaxloss.core.rows import RowOptions

_CONSTANT = {float, int, str, NoneType}  # what may change later, such as an array of no dimension, is not remembered
_PER_ROW = {"sample_weight", "ignore_index"}


# Logits as an array, and what is asked of them.
Request = tuple[NDArray[Any], Layout, Rows, Reduction]


def request(logits: ArrayLike, targets: ArrayLike, axis: int, options: RowOptions) -> Request:
    """Return what these arguments ask for; ValueError or TypeError where they make no sense.

    What class indices and plain options ask for depends on the shape and the dtype of the logits alone, but for the
    indices, and is remembered: to find it out takes longer than a small loss.
    """
    z, t = checks.as_array("logits", logits), checks.as_array("targets", targets)
    plain = t.dtype.kind in "iu" and z.dtype.kind in "fV" and type(axis) is int
    if plain and (not options or _CONSTANT.issuperset(map(type, options.values()))):
        known = _of_labels(z.shape, z.dtype, axis, *options.items())
        if known is not None and t.shape == known[0].batch_shape:
            layout, rows, reduction = known
            label = plain_labels(t, layout.n_classes)
            if label is not None:
                return z, layout, rows.with_labels(label), reduction
    z = checks.logits(z)
    layout = layout_of(z.shape, checks.axis(axis, z))
    return z, layout, *describe(t, layout, **options)


@lru_cache(maxsize=256)
def _of_labels(
    shape: tuple[int, ...], dtype: np.dtype[Any], axis: int, *constants: tuple[str, Any]
) -> tuple[Layout, Rows, Reduction] | None:
    """Return what any labels ask for, without them; None where some may ask for something else."""
    options: Any = dict(constants)
    if 0 in shape or any(options.get(name) is not None for name in _PER_ROW):
        return None
    logits = checks.logits(np.broadcast_to(np.zeros((), dtype), shape))
    layout = layout_of(shape, checks.axis(axis, logits))
    rows, reduction = describe(np.zeros(layout.batch_shape, np.int64), layout, **options)
    return layout, rows._replace(label=NO_LABELS), reduction
