"""Softmax with loss in plain NumPy: the mathematics of the library, and the oracle of its tests.

Read this file to learn what the layer computes, and the rest of the package to learn how that is made fast.
The functions have the names and the options of the public ones (except `out` and `max_memory`, which are
about memory, and `wrt`) and share no code with them. They work in float64 whatever they get and trust their
input.

A row of logits ``z`` over ``V`` classes is seen from its winner ``k``, the class with the largest logit:

    peak = z_k
    rest = sum over j != k of exp(z_j - peak)       everything but the winner, relative to the winner
    dot  = sum_j q_j * (z_j - peak)                 q says how much of each class the targets want

Why not the usual ``log(sum(exp(z))) - z_t``? The sum of ``exp(z - peak)`` is ``1 + rest``, and that 1
swallows a small ``rest``: logits ``[0, -40]`` with target 0 would cost 0 instead of 4.25e-18. Kept on its
own, ``rest`` has all its digits, ``log1p(rest)`` keeps them, and so do the loss and its gradient. And as only
differences of logits enter, a large number added to all of them changes nothing.
"""

# The names are those of the formulas, capitals included.
# ruff: noqa: N806

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

__all__ = [
    "cross_entropy",
    "cross_entropy_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "log_softmax",
    "logsumexp",
    "softmax",
]


class _Rows(NamedTuple):
    """What the targets and the options ask of each row, before any logit is seen."""

    q: Array  # (..., V), the effective target
    mass: Array  # (..., 1), the sum of q
    weight: Array  # (..., 1), multiplies the loss of the row; 0 where the row takes no part


class _View(NamedTuple):
    """Rows of logits seen from their winners."""

    is_winner: NDArray[np.bool_]  # (..., V), j == k
    peak: Array  # (..., 1)
    gap: Array  # (..., V), z_j - peak, never positive
    odds: Array  # (..., V), exp(z_j - peak), 1 for the winner
    rest: Array  # (..., 1)


def _rows(
    shape: tuple[int, ...],
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> _Rows:
    *batch, V = shape
    t = np.asarray(targets)
    w = np.ones(batch) if sample_weight is None else np.asarray(sample_weight, np.float64)
    r = np.ones(V) if class_weight is None else np.asarray(class_weight, np.float64)
    eps = label_smoothing

    if t.ndim < len(shape):  # class indices become one-hot rows, so both give the same bits
        w = np.where(t == ignore_index, 0.0, w)
        t = t[..., None] == np.arange(V)
    w = w[..., None]
    P = np.where(w == 0, 0.0, t.astype(np.float64))  # whatever stands in a row without weight is not read

    q = r * ((1 - eps) * P + eps / V)
    if reduction == "mean":
        total = np.sum(w * r * P)
        w = w / total if total > 0 else np.zeros_like(w)  # the mean over nothing is 0
    return _Rows(q, q.sum(-1, keepdims=True), w)


def _view(z: Array) -> _View:
    is_winner = np.arange(z.shape[-1]) == z.argmax(-1, keepdims=True)  # the lowest index on a tie
    peak = z.max(-1, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, np.nan)  # no finite winner, no softmax: the whole row is NaN
    with np.errstate(over="ignore"):  # a gap beyond the largest number is -inf, and its exp is 0
        gap = z - peak
    odds = np.exp(gap)
    return _View(is_winner, peak, gap, odds, rest=np.sum(odds * ~is_winner, -1, keepdims=True))


def softmax(logits: ArrayLike) -> Array:
    """Turn logits into probabilities, ``p_j = exp(z_j - peak) / (1 + rest)``.

    Examples
    --------
    >>> softmax([0.0, 0.0, -np.inf]).tolist()
    [0.5, 0.5, 0.0]
    """
    view = _view(np.asarray(logits, np.float64))
    return view.odds / (1 + view.rest)


def log_softmax(logits: ArrayLike) -> Array:
    """Return log-probabilities, ``log p_j = (z_j - peak) - log1p(rest)``; nothing cancels in there."""
    view = _view(np.asarray(logits, np.float64))
    return view.gap - np.log1p(view.rest)


def logsumexp(logits: ArrayLike) -> Array:
    """Return ``log(sum_j exp(z_j)) = peak + log1p(rest)`` of each row; it has a value even where softmax has none."""
    z = np.asarray(logits, np.float64)
    view = _view(z)
    largest = z.max(-1)
    return np.where(np.isinf(largest), largest, (view.peak + np.log1p(view.rest))[..., 0])


def cross_entropy(logits: ArrayLike, targets: ArrayLike, **options: Any) -> Array | float:
    """Return the loss alone; see `cross_entropy_and_grad`."""
    return cross_entropy_and_grad(logits, targets, **options)[0]


def cross_entropy_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    upstream: ArrayLike | None = None,
    reduction: str = "mean",
    **row_options: Any,
) -> tuple[Array | float, Array]:
    """Return softmax cross-entropy and its gradient in the logits.

    With target distribution P, class weights r, smoothing eps and row weight w,

        q_j  = r_j * ((1 - eps) * P_j + eps / V),   mass = sum_j q_j
        loss = w * (mass * log1p(rest) - dot)
        dz_j = w * (mass * p_j - q_j)

    For a one-hot target that is ``-log p_t`` and, famously, ``y - t``.

    Parameters
    ----------
    logits
        Numbers of shape (..., V).
    targets
        Class indices of shape (...), or target distributions of shape (..., V).
    upstream
        Gradient of what follows in this loss: a number, or with reduction "none" one per row.
    reduction
        "none", "mean" or "sum". The mean divides by ``sum_i w_i * sum_c r_c * P_ic``.
    **row_options
        `class_weight` of shape (V,), `sample_weight` of shape (...), `ignore_index`, `label_smoothing`.

    Returns
    -------
    loss
        One number, or with reduction "none" one per row.
    d_logits
        Gradient, of the shape of `logits`.

    Examples
    --------
    >>> loss, d_logits = cross_entropy_and_grad([[0.0, -40.0]], [0])
    >>> print(f"{loss:.4e}", d_logits)
    4.2484e-18 [[-4.24835426e-18  4.24835426e-18]]
    """
    z = np.asarray(logits, np.float64)
    q, mass, w = _rows(z.shape, targets, reduction=reduction, **row_options)
    view = _view(np.where(w == 0, 0.0, z))
    gap, rest = view.gap, view.rest

    wanted_gap = np.multiply(q, gap, where=q != 0, out=np.zeros_like(q))  # 0 * -inf counts as 0
    dot = wanted_gap.sum(-1, keepdims=True)
    loss = (w * (mass * np.log1p(rest) - dot))[..., 0]

    # A winner that is wanted has p close to 1, so mass * p - q would cancel. As p_k = 1 - rest / (1 + rest):
    wanted_winner = view.is_winner & (q > mass / 2)
    p = view.odds / (1 + rest)
    dz = w * np.where(wanted_winner, (mass - q) - mass * rest / (1 + rest), mass * p - q)
    if upstream is not None:
        dz *= np.asarray(upstream, np.float64)[..., None]
    return (loss if reduction == "none" else float(loss.sum())), dz


def linear_cross_entropy(
    features: ArrayLike, weight: ArrayLike, targets: ArrayLike, bias: ArrayLike | None = None, **options: Any
) -> Array | float:
    """Return the loss alone; see `linear_cross_entropy_and_grad`."""
    return linear_cross_entropy_and_grad(features, weight, targets, bias, **options)[0]


def linear_cross_entropy_and_grad(
    features: ArrayLike, weight: ArrayLike, targets: ArrayLike, bias: ArrayLike | None = None, **options: Any
) -> tuple[Array | float, tuple[Array, Array, Array]]:
    """Return the loss of the logits ``features @ weight.T + bias`` and its gradients in the three factors.

    Three matrix products around `cross_entropy_and_grad`, which documents the options.

    Parameters
    ----------
    features
        Numbers of shape (..., D).
    weight
        Numbers of shape (V, D): a row for each class.
    targets
        Class indices of shape (...), or target distributions of shape (..., V).
    bias
        Numbers of shape (V,).
    **options
        Those of `cross_entropy_and_grad`.

    Returns
    -------
    loss
        One number, or with reduction "none" one per row.
    gradients
        In `features`, `weight` and `bias`.
    """
    W = np.asarray(weight, np.float64)
    X = np.asarray(features, np.float64)
    row_options = {name: value for name, value in options.items() if name != "upstream"}
    w = _rows((*X.shape[:-1], len(W)), targets, **row_options).weight
    X = np.where(w == 0, 0.0, X)  # 0 * NaN is NaN, and a row without weight must not leak into the sums over rows

    z = X @ W.T + (0.0 if bias is None else np.asarray(bias, np.float64))
    loss, dz = cross_entropy_and_grad(z, targets, **options)
    dz_rows, X_rows = dz.reshape(-1, len(W)), X.reshape(-1, X.shape[-1])
    return loss, (dz @ W, dz_rows.T @ X_rows, dz_rows.sum(0))
