"""The loss of rows and its gradient, y - t, in array operations.

With target distribution P, class weights r, smoothing eps over V classes, z-loss factor zeta and row weight w, and the
row seen from its target as in rows.py:

    q_j  = r_j ((1 - eps) P_j + eps / V)              the effective target
    t    = argmax_j q_j                               known before any logit is read
    dot  = sum over j != t of q_j (lse - z_j)         nothing for a label without smoothing
    loss = w (q_t cost + dot + zeta lse**2)           no term is negative: nothing cancels
    more = sum over j != t of q_j, plus 2 zeta lse    a = q_t + more
    dz_j = w (a p_j - q_j)                            y - t
    dz_t = w (more - a miss)                          where a miss <= q_t: its terms are smaller there
"""

from __future__ import annotations

from math import inf, nan
from typing import Any, NamedTuple

from softmaxloss.array.rows import Array, Frame, View, frame_of, view

__all__ = ["Options", "gradients", "log_probs", "losses", "losses_and_gradients", "row_weights"]


class Options(NamedTuple):
    """The options of the loss, which `softmaxloss.cross_entropy` documents.

    Arrays are of the namespace and on the device of the logits. Numbers are Python's, as they decide what is computed.
    """

    axis: int = -1
    class_weight: Array | None = None
    sample_weight: Array | None = None
    ignore_index: int | None = None
    class_mask: Array | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    reduction: str = "mean"
    normalizer: float | Array | None = None
    xp: Any = None  # the namespace; array_api_compat finds it, but torch.compile warns of the way it does


def losses(logits: Array, targets: Array, **options: Any) -> Array:
    """Return the cross-entropy between targets and the softmax of logits, as `softmaxloss.cross_entropy` does.

    Parameters
    ----------
    logits : array
        Real numbers with the V classes on the axis `axis`, by default the last one.
    targets : array
        Class indices of the batch's shape, or rows of bools or real numbers of the shape of the logits. A label that is
        no class cannot raise here: it makes its row NaN.
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
    return _loss(_rows(logits, targets, Options(**options)))


def losses_and_gradients(
    logits: Array, targets: Array, *, upstream: float | Array | None = None, **options: Any
) -> tuple[Array, Array]:
    """Return the loss and its gradient in the logits, as `softmaxloss.cross_entropy_and_grad` does.

    `upstream` is the gradient that arrives from above: a number, or with reduction "none" one per row.
    """
    rows = _rows(logits, targets, Options(**options))
    return _loss(rows), _gradient(rows, upstream, logits.dtype)


def gradients(logits: Array, targets: Array, *, upstream: float | Array | None = None, **options: Any) -> Array:
    """Return the gradient alone; its derivatives are products with the Hessian."""
    return _gradient(_rows(logits, targets, Options(**options)), upstream, logits.dtype)


def log_probs(logits: Array, targets: Array, **options: Any) -> tuple[Array, Array]:
    """Return the log-probabilities of labels and the entropies of rows, as `softmaxloss.log_probs` does.

    The options are axis, ignore_index, class_mask, softcap, temperature and xp.
    """
    rows = _rows(logits, targets, Options(reduction="none", **options))
    frame, seen = rows.frame, rows.seen
    of_target = _times(frame, seen.p_t, seen.cost)
    of_others = frame.total(_times(frame, seen.y * seen.share, seen.excess - seen.gap))
    log_prob, entropy = (rows.weight * of for of in (-seen.cost, of_target + of_others))
    return frame.xp.squeeze(log_prob, axis=frame.axis), frame.xp.squeeze(entropy, axis=frame.axis)


def row_weights(logits: Array, targets: Array, **options: Any) -> tuple[Array, Array]:
    """Return per row its weight, which is 0 where it takes no part, and its share in what the mean divides by.

    Only the shape of the logits matters.
    """
    chosen = Options(**options)
    frame = frame_of(logits, chosen.axis, chosen.xp)
    wanted = _wanted(frame, targets, _classes(frame, chosen), chosen)
    weight, share = (frame.xp.squeeze(of, axis=frame.axis) for of in (wanted.weight, wanted.weight * wanted.unsmoothed))
    return weight, share


class _Classes(NamedTuple):
    """What the options say of the classes."""

    exists: Array | None  # along the classes; None where all do
    r: Array | float  # along the classes, 0 for those that do not exist; 1.0 where nothing tells them apart
    eps: float
    n_classes: float | Array  # V

    def q(self, p: Array | float, r: Array | float) -> Array:
        """Return q for a target distribution, or one number of it."""
        return r * ((1 - self.eps) * p + self.eps / self.n_classes) if self.eps else r * p


def _classes(frame: Frame, options: Options) -> _Classes:
    eps, r = options.label_smoothing, 1.0
    if options.class_weight is not None:
        r = frame.per_class(frame.numbers(options.class_weight))
    if options.class_mask is None:
        return _Classes(None, r, eps, frame.index.shape[frame.axis])
    exists = frame.per_class(options.class_mask)
    if options.class_weight is not None or eps:
        r = frame.xp.where(exists, frame.numbers(r), 0.0)
    return _Classes(exists, r, eps, frame.xp.sum(frame.numbers(exists)))


class _Wanted(NamedTuple):
    """What the targets want: numbers per row, and q."""

    t: Array  # the class with the largest q
    q_t: Array
    q: Array | float | None  # along the classes, right for all but t; None where it is 0 for them
    unsmoothed: Array  # sum_c r_c P_c
    weight: Array  # w, 0 where the row takes no part


def _of_labels(frame: Frame, labels: Array, weight: Array, classes: _Classes, options: Options) -> _Wanted:
    xp, r = frame.xp, classes.r
    t = xp.astype(frame.per_row(labels), frame.index.dtype)
    if options.ignore_index is not None:
        weight = xp.where(t == options.ignore_index, 0.0, weight)
    known = (t >= 0) & (t < frame.index.shape[frame.axis])
    weight = xp.where(known | (weight == 0), weight, nan)
    t = xp.where(known, t, 0)  # no other label is ever used as an index
    r_t = xp.ones_like(weight)
    if options.class_weight is not None:
        if options.label_smoothing:  # a class of large weight may be wanted more than the label
            return _of_distributions(frame, frame.index == t, weight, classes)
        r_t = xp.reshape(xp.take(xp.reshape(r, (-1,)), xp.reshape(t, (-1,))), t.shape)
    return _Wanted(t, classes.q(1.0, r_t), classes.q(0.0, r) if options.label_smoothing else None, r_t, weight)


def _of_distributions(frame: Frame, targets: Array, weight: Array, classes: _Classes) -> _Wanted:
    p = frame.xp.where(weight == 0, 0.0, frame.numbers(targets))
    q = classes.q(p, classes.r)
    t = frame.xp.argmax(q, axis=frame.axis, keepdims=True)
    q_t = frame.xp.take_along_axis(q, t, axis=frame.axis)
    return _Wanted(t, q_t, q, frame.total(classes.r * p), weight)


def _wanted(frame: Frame, targets: Array, classes: _Classes, options: Options) -> _Wanted:
    if options.sample_weight is None:
        weight = frame.xp.ones(frame.row_shape, dtype=frame.dtype, device=frame.device)
    else:
        weight = frame.per_row(frame.numbers(options.sample_weight))
    if targets.ndim < len(frame.row_shape):
        return _of_labels(frame, targets, weight, classes, options)
    return _of_distributions(frame, targets, weight, classes)


class _Rows(NamedTuple):
    """Rows of logits seen from their targets, and what the loss and its gradient ask of them."""

    frame: Frame
    options: Options
    seen: View
    q_t: Array
    q: Array | None  # of the logits' shape, 0 for t; None where it is 0 for all others, too
    weight: Array  # of `_Wanted`, for a mean divided by its divisor
    exists: Array | None
    slope: Array | None  # of the soft cap, of the logits' shape


def _rows(logits: Array, targets: Array, options: Options) -> _Rows:
    frame = frame_of(logits, options.axis, options.xp)
    where, classes = frame.xp.where, _classes(frame, options)
    wanted = _wanted(frame, targets, classes, options)
    weight = wanted.weight
    if options.reduction == "mean":
        own = options.normalizer is None
        divisor = frame.xp.sum(weight * wanted.unsmoothed) if own else frame.numbers(options.normalizer)
        nothing = divisor == 0  # the mean over nothing is 0
        weight = where(nothing, 0.0, weight / where(nothing, 1.0, divisor))

    live, exists, slope = weight != 0, classes.exists, None
    x = where(live if exists is None else live & exists, frame.numbers(logits), 0.0)
    if options.softcap is not None:
        x, slope = _capped(frame, x, options.softcap)
    if exists is not None:
        x = where(exists | ~live, x, -inf)
    seen = view(frame, x, wanted.t, options.temperature)
    q = None if wanted.q is None else where(seen.is_t, 0.0, frame.numbers(wanted.q))
    return _Rows(frame, options, seen, wanted.q_t, q, weight, exists, slope)


def _capped(frame: Frame, x: Array, softcap: float) -> tuple[Array, Array]:
    """Return softcap * tanh(x / softcap), and its slope, for which 1 - tanh**2 would cancel."""
    u = x / softcap
    e = frame.xp.exp(2 * frame.xp.where(u > 0, -u, u))
    return softcap * frame.xp.tanh(u), 4 * e / (1 + e) ** 2


def _times(frame: Frame, q: Array, value: Array) -> Array:
    """Return q * value, where 0 * inf counts as 0."""
    return q * frame.xp.where((q == 0) & (value == inf), 0.0, value)


def _loss(rows: _Rows) -> Array:
    frame, seen, options = rows.frame, rows.seen, rows.options
    loss = _times(frame, rows.q_t, seen.cost)
    if rows.q is not None:
        loss = loss + frame.total(_times(frame, rows.q, seen.excess - seen.gap))
    if options.z_loss:
        loss = loss + options.z_loss * seen.lse * seen.lse
    loss = rows.weight * loss
    return frame.xp.squeeze(loss, axis=frame.axis) if options.reduction == "none" else frame.xp.sum(loss)


def _gradient(rows: _Rows, upstream: float | Array | None, dtype: Any) -> Array:
    frame, seen, where = rows.frame, rows.seen, rows.frame.xp.where
    more = 0.0 if rows.q is None else frame.total(rows.q)
    if rows.options.z_loss:
        more = more + 2 * rows.options.z_loss * seen.lse
    a = rows.q_t + more
    near = (a > 0) & (a * seen.miss <= rows.q_t)
    dz_t = where(near, more - a * seen.miss, a * seen.p_t - rows.q_t)

    arrives = frame.numbers(1.0 if upstream is None else upstream)
    arrives = frame.per_row(arrives) if arrives.ndim else arrives
    scale = where(rows.weight == 0, 0.0, arrives) * rows.weight / rows.options.temperature
    dx = seen.y * (scale * a * seen.share)
    if rows.q is not None:
        dx = dx - scale * rows.q
    dx = where(seen.is_t, scale * dz_t, dx)
    if rows.slope is not None:
        dx = dx * rows.slope
    if rows.exists is not None:
        dx = where(rows.exists, dx, 0.0)  # even in a row that is NaN
    return frame.xp.astype(dx, dtype, copy=False)
