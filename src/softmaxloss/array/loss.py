"""The loss of rows and its gradient, y - t, in array operations.

The names q and t are explained in wanted.py; dot, mass and heat in summary.py; all others in rows.py (share and excess
at `View`). With z-loss factor zeta and row weight w:

    loss  = w (q_t cost + dot + mass excess + zeta lse**2)      no term is negative: nothing cancels
    more  = mass + 2 zeta lse                                   a = q_t + more
    dz_j  = w (a p_j - q_j)                                     y - t
    dz_t  = w (more - a miss)                                   if a miss <= q_t: its terms are smaller; else as dz_j
    entropy = p_t cost + share (heat + rest excess)             no term is negative
"""

from __future__ import annotations

from typing import Any, NamedTuple

from softmaxloss.array.rows import Array, View, frame_of
from softmaxloss.array.summary import Look, Summary, look, summarize, times, whole
from softmaxloss.array.wanted import Options, Wanted, wanted

__all__ = [
    "gradient_of",
    "gradients",
    "gradients_of_log_probs",
    "log_probs",
    "log_probs_of",
    "loss_of",
    "losses",
    "losses_and_gradients",
    "row_weights",
]


def losses(logits: Array, targets: Array, **options: Any) -> Array:
    """Return the cross-entropy between targets and the softmax of logits, as `softmaxloss.cross_entropy` does.

    Parameters
    ----------
    logits : array
        Real numbers with the V classes on the axis `axis`, by default the last one.
    targets : array
        Class indices in the shape of the logits without the axis of the classes. Or distributions: bools or real
        numbers in the shape of the logits. A label that is not a class raises no error here: it makes its row NaN.
    **options
        See `Options`.

    Returns
    -------
    array
        One number, or with reduction "none" one per row; float32 for half precision, else the dtype of the logits.

    Examples
    --------
    >>> import numpy as np
    >>> float(losses(np.asarray([[0.0, -40.0]]), np.asarray([0])))
    4.248354255291589e-18
    """
    return _reduced(_Known.of(logits, targets, options))


def losses_and_gradients(
    logits: Array, targets: Array, *, upstream: float | Array | None = None, **options: Any
) -> tuple[Array, Array]:
    """Return the loss and its gradient with respect to the logits, as `softmaxloss.cross_entropy_and_grad` does.

    `upstream` is the derivative of the final objective with respect to the loss: a number, or with reduction "none" one
    per row.
    """
    known = _Known.of(logits, targets, options)
    return _reduced(known), _gradient(known, upstream, logits.dtype)


def gradients(logits: Array, targets: Array, *, upstream: float | Array | None = None, **options: Any) -> Array:
    """Return only the gradient. Its derivatives are products with the Hessian."""
    return _gradient(_Known.of(logits, targets, options), upstream, logits.dtype)


def log_probs(logits: Array, targets: Array, **options: Any) -> tuple[Array, Array]:
    """Return the log-probabilities of labels and the entropies of rows, as `softmaxloss.log_probs` does.

    The options are axis, ignore_index, class_mask, softcap, temperature and xp.
    """
    rows, _, summary, seen = _Known.of(logits, targets, {**options, "reduction": "none"}, entropy=True)
    log_prob, entropy = log_probs_of(rows, summary, seen)
    return _squeezed(rows, log_prob), _squeezed(rows, entropy)


def row_weights(logits: Array, targets: Array, **options: Any) -> tuple[Array, Array]:
    """Return for each row its weight, which is 0 if it does not count, and its share of the divisor of the mean.

    Of the logits only the shape is used.
    """
    rows = _wanted(logits, targets, {**options, "reduction": "none"})
    return _squeezed(rows, rows.weight), _squeezed(rows, rows.weight * rows.unsmoothed)


class _Known(NamedTuple):
    """Rows of logits, and all numbers that have been computed from them."""

    rows: Wanted
    looked: Look
    summary: Summary
    seen: View

    @classmethod
    def of(cls, logits: Array, targets: Array, options: dict[str, Any], *, entropy: bool = False) -> _Known:
        rows = _wanted(logits, targets, options)
        looked = look(rows, logits)
        summary = summarize(rows, looked, entropy=entropy)
        return cls(rows, looked, summary, whole(rows, summary))


def _wanted(logits: Array, targets: Array, options: dict[str, Any]) -> Wanted:
    chosen = Options(**options)
    return wanted(frame_of(logits, chosen.axis, chosen.xp), targets, chosen)


def _squeezed(rows: Wanted, numbers: Array) -> Array:
    return rows.frame.xp.squeeze(numbers, axis=rows.frame.axis)


def _reduced(known: _Known) -> Array:
    rows, _, summary, seen = known
    loss = loss_of(rows, summary, seen)
    return _squeezed(rows, loss) if rows.options.reduction == "none" else rows.frame.xp.sum(loss)


def _gradient(known: _Known, upstream: float | Array | None, dtype: Any) -> Array:
    frame = known.rows.frame
    arrives = None if upstream is None else frame.numbers(upstream)
    if arrives is not None and arrives.ndim:
        arrives = frame.per_row(arrives)
    return frame.xp.astype(gradient_of(*known, arrives), dtype, copy=False)


def loss_of(rows: Wanted, summary: Summary, seen: View) -> Array:
    """Return the weighted losses of rows."""
    frame, z_loss = rows.frame, rows.options.z_loss
    loss = times(frame, rows.q_t, seen.cost)
    if summary.dot is not None:
        loss = loss + (summary.dot + times(frame, summary.mass, seen.excess))
    if z_loss:
        loss = loss + z_loss * seen.lse * seen.lse
    if rows.live is not None:  # rows of weight 0 are not read, not even for the derivative with respect to their weight
        loss = frame.xp.where(rows.live, loss, 0.0)
    return rows.weight * loss


def gradient_of(rows: Wanted, looked: Look, summary: Summary, seen: View, upstream: Array | None = None) -> Array:
    """Return the gradient with respect to the logits in `looked`, which must use the peak of the whole rows."""
    options, where = rows.options, rows.frame.xp.where
    more = 0.0 if summary.mass is None else summary.mass
    if options.z_loss:
        more = more + 2 * options.z_loss * seen.lse
    a = rows.q_t + more
    near = (a > 0) & (a * seen.miss <= rows.q_t)
    dz_t = where(near, more - a * seen.miss, a * seen.p_t - rows.q_t)

    scale = rows.weight / options.temperature
    if upstream is not None:
        scale = (upstream if rows.live is None else where(rows.live, upstream, 0.0)) * scale
    is_t, y = looked.others.is_t, looked.others.y
    dx = y * (scale * a * seen.share)
    if not rows.is_sharp:
        dx = dx - scale * rows.q()
    return _of_classes(rows, looked, where(is_t, scale * dz_t, dx))


def log_probs_of(rows: Wanted, summary: Summary, seen: View) -> tuple[Array, Array]:
    """Return the log-probabilities of the classes t of rows, and the entropies."""
    frame = rows.frame
    of_target = times(frame, seen.p_t, seen.cost)
    of_others = seen.share * summary.heat + times(frame, seen.share * summary.rest, seen.excess)
    return rows.weight * -seen.cost, rows.weight * (of_target + of_others)


def gradients_of_log_probs(rows: Wanted, looked: Look, summary: Summary, seen: View) -> tuple[Array, Array]:
    """Return the gradients of log-probabilities, [j = t] - p, and of entropies H, -p (log p + H).

    They are gradients with respect to the logits.
    """
    frame, where = rows.frame, rows.frame.xp.where
    is_t, _, gap, y = looked.others
    scale, (_, entropy) = rows.weight / rows.options.temperature, log_probs_of(rows, summary, seen)
    p = where(is_t, seen.p_t, y * seen.share)
    surprise = where(is_t, seen.cost, seen.excess - gap)
    of_log_prob = scale * where(is_t, seen.miss, -p)
    of_entropy = scale * (times(frame, p, surprise) - p * entropy)
    return _of_classes(rows, looked, of_log_prob), _of_classes(rows, looked, of_entropy)


def _of_classes(rows: Wanted, looked: Look, dx: Array) -> Array:
    """Return a gradient with respect to the logits before the soft cap; it is 0 for classes that do not exist."""
    if looked.slope is not None:
        dx = dx * looked.slope
    return dx if rows.exists is None else rows.frame.xp.where(rows.exists, dx, 0.0)  # 0 even in a row that is NaN
