"""The log-probability of a class, the entropy of its row, and their gradients, as policy gradients need them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import RowOptions, describe_labels, per_row, with_row_options
from softmaxloss.core.results import filled, place_for
from softmaxloss.core.rowwise import LogProbs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.layout import Layout

    Array = NDArray[Any]

__all__ = ["NOT_TAKEN", "LogProbs", "derivatives", "log_probs", "log_probs_and_grad", "results"]

NOT_TAKEN = {
    **dict.fromkeys(
        ("class_weight", "label_smoothing", "z_loss"),
        "a log-probability belongs to a single class, without weights and smoothing",
    ),
    **dict.fromkeys(("reduction", "normalizer"), "there are two numbers for each row, which are not averaged"),
    "sample_weight": "multiply d_log_prob and d_entropy by it, and use ignore_index to leave out rows",
}


@partial(with_row_options, but=NOT_TAKEN)
def log_probs(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> LogProbs:
    """Return the log-probability of each target and the entropy of each row.

    With ``p = softmax(logits)`` and ``log_p = log_softmax(logits)`` they equal ``log_p[np.arange(N), targets]`` and
    ``-(p * log_p).sum(-1)``. A tiny value is not rounded to 0.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Unnormalised log-probabilities of V classes. Integers become float64.
    targets : array_like
        Class indices, or one-hot rows, as in `cross_entropy`.
    axis, ignore_index, class_mask, softcap, temperature
        As in `cross_entropy`.

    Returns
    -------
    LogProbs
        (log_prob, entropy), in nats: arrays of the batch's shape in the dtype of the logits, or float32 for half
        precision. Both are 0 for a row that is ignored, and NaN for a row that holds NaN or inf, or only -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if a row's target is not one class.

    References
    ----------
    Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, Machine
    Learning 8 (1992).

    Examples
    --------
    >>> import softmaxloss
    >>> log_prob, entropy = softmaxloss.log_probs([[0.3, 2.9, 4.0], [0.0, 0.0, 0.0]], [2, 0])
    >>> log_prob.round(3), entropy.round(3)
    (array([-0.306, -1.099]), array([0.643, 1.099]))
    """
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    rows = describe_labels(targets, layout, options, NOT_TAKEN)
    return results(rowwise.log_probs(z, rows, layout), layout, z.dtype)


@partial(with_row_options, but=NOT_TAKEN)
def log_probs_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    d_log_prob: ArrayLike = 1.0,
    d_entropy: ArrayLike = 0.0,
    out: Array | None = None,
    **options: Unpack[RowOptions],
) -> tuple[LogProbs, Array]:
    """Return the log-probabilities and entropies, and the gradient of a function of them.

    With z = logits / temperature, p = softmax(z), and H the entropy of the row,

        d_z_j = d_log_prob * ([j = target] - p_j) - d_entropy * p_j * (log(p_j) + H)

    and d_logits is d_z / temperature, times the derivative of the soft cap if there is one.

    Parameters
    ----------
    logits, targets, axis, **options
        As in `log_probs`.
    d_log_prob, d_entropy : float, or array_like of the batch's shape
        Derivatives of your function with respect to each log-probability and each entropy. By default it is the sum
        of the log-probabilities.
    out : array of the shape and dtype of the logits, optional
        Array that receives the gradient; ``out=logits`` overwrites the logits with it.

    Returns
    -------
    log_probs : LogProbs
        As from `log_probs`.
    d_logits : array of the shape and dtype of the logits
        The error of each entry is at most 4 units in the last place of the largest term in the formula above. Entries
        are exactly 0 in rows that are ignored, and for classes that do not exist according to `class_mask`.

    Raises
    ------
    TypeError, ValueError
        As `log_probs`, and if `d_log_prob`, `d_entropy` or `out` does not fit.

    Examples
    --------
    >>> import softmaxloss
    >>> _, d_logits = softmaxloss.log_probs_and_grad([[0.3, 2.9, 4.0]], [2], d_log_prob=0.0, d_entropy=1.0)
    >>> d_logits.round(3)
    array([[ 0.061,  0.187, -0.248]])
    """
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    rows = describe_labels(targets, layout, options, NOT_TAKEN)
    d_rows = derivatives(layout, d_log_prob, d_entropy)
    array, place = place_for(out, z)
    found = rowwise.log_probs(z, rows, layout, d_rows, place)
    return results(found, layout, z.dtype), filled(array, place)


def derivatives(layout: Layout, d_log_prob: ArrayLike, d_entropy: ArrayLike) -> list[NDArray[np.float64]]:
    """Check d_log_prob and d_entropy, and return them flat: one number per row, or one for all rows."""
    named = (("d_log_prob", d_log_prob), ("d_entropy", d_entropy))
    return [checks.upstream(value, layout.batch_shape, name).reshape(-1) for name, value in named]


def results(found: LogProbs, layout: Layout, dtype: np.dtype[Any]) -> LogProbs:
    """Return the numbers of rows in the batch's shape, and in the dtype that losses have."""
    return LogProbs(*(per_row(values, layout.batch_shape, dtype) for values in found))
