"""The public function that returns summaries of rows, which machines that share a vocabulary exchange."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Unpack

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import RowOptions, Slice, describe, with_row_options
from softmaxloss.core.summary import RowSummary, merge

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["RowSummary", "merge", "summarize"]


NOT_TAKEN = dict.fromkeys(("reduction", "normalizer"), "there is one summary for each row") | {
    "z_loss": "pass it to the method losses of the summary"
}


@partial(with_row_options, but=NOT_TAKEN)
def summarize(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    first_class: int = 0,
    n_classes: int | None = None,
    **options: Unpack[RowOptions],
) -> RowSummary:
    """Return the summaries of rows of logits, over all classes or over a slice of them.

    ``summarize(z, t).losses()`` equals ``cross_entropy(z, t, reduction="none").ravel()``, up to rounding.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        As in `cross_entropy`; for a slice of the vocabulary, the logits of its classes alone.
    targets : array_like
        Class indices, counted from the first class of the whole vocabulary. Or one-hot or soft rows of the shape of
        `logits`.
    axis : int, default -1
        The class axis.
    first_class : int, default 0
        The index of the first class of the slice.
    n_classes : int, optional
        The number of classes of the whole vocabulary, without padding. It is needed for a slice. Label smoothing is
        spread evenly over these classes.
    **options
        The row options of `cross_entropy` except reduction, normalizer and z_loss. `class_weight` and `class_mask` have
        one entry per class of `logits`. The summary of a row that is ignored or has weight 0 has no meaning. Otherwise
        the weight of a row has no influence.

    Returns
    -------
    RowSummary
        One entry for each row of the flattened batch.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if the slice does not lie within the vocabulary.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.summarize([[0.3, 2.9, 4.0]], [2]).losses().round(3)
    array([0.306])
    """
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    checks.refused(options, NOT_TAKEN)
    options["reduction"] = "sum"
    first = checks.integer("first_class", first_class)
    if n_classes is None and first == 0:
        rows, _ = describe(targets, layout, **options)
    else:
        total = checks.count("n_classes", n_classes)
        rows, _ = describe(targets, layout, Slice(first, total, total), **options)
        last = first + (int(rows.class_mask.sum()) or layout.n_classes) - 1
        if first < 0 or last >= total:
            raise ValueError(
                f"first_class must place the logits within the n_classes={total} classes, from 0 to {total - 1}, got "
                f"first_class={first}, which makes them classes {first} to {last}"
            )
    return rowwise.summarize(z, rows, layout)
