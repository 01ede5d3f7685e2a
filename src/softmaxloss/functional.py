"""The public functions on NumPy arrays: check, describe the rows, run the row kernels, reduce."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks, rowwise
from softmaxloss.core.rows import RowOptions, describe, per_row, with_row_options

Array = NDArray[Any]
Loss = float | Array


def softmax(logits: ArrayLike, *, out: Array | None = None) -> Array:
    """Return the probabilities exp(z_j) / sum_c exp(z_c) over the last axis.

    Equals ``e = np.exp(z - z.max(-1, keepdims=True)); e / e.sum(-1, keepdims=True)``, with every entry within 4 units
    in the last place of the exact value, down to the smallest normal number; smaller ones may become 0.

    Parameters
    ----------
    logits : array_like of float32 or float64, shape (..., V)
        Any real numbers; -inf gives probability 0. Integers are taken as float64.
    out : array of the shape and dtype of the result, optional
        Where to write; may be `logits` itself.

    Returns
    -------
    array, shape (..., V), dtype of the logits
        A row that holds NaN or inf, or nothing but -inf, is NaN.

    Raises
    ------
    TypeError, ValueError
        If `logits` are not real numbers or have no class axis, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import softmaxloss
    >>> softmaxloss.softmax(np.array([0.3, 2.9, 4.0])).round(3)
    array([0.018, 0.245, 0.737])
    """
    z = checks.logits(logits)
    target = _Output(out, z)
    rowwise.softmax(target.logits, target.rows)
    return target.finished()


def log_softmax(logits: ArrayLike, *, out: Array | None = None) -> Array:
    """Return the logarithms of the softmax over the last axis: z_j - logsumexp(z).

    Equals ``z - z.max() - np.log(np.exp(z - z.max()).sum())`` for a row z, but is exact where that rounds to 0.

    Parameters
    ----------
    logits : array_like of float32 or float64, shape (..., V)
        Any real numbers; -inf stays -inf. Integers are taken as float64.
    out : array of the shape and dtype of the result, optional
        Where to write; may be `logits` itself.

    Returns
    -------
    array, shape (..., V), dtype of the logits
        A row that holds NaN or inf, or nothing but -inf, is NaN.

    Raises
    ------
    TypeError, ValueError
        If `logits` are not real numbers or have no class axis, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import softmaxloss
    >>> softmaxloss.log_softmax(np.array([0.0, -40.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    z = checks.logits(logits)
    target = _Output(out, z)
    rowwise.log_softmax(target.logits, target.rows)
    return target.finished()


def logsumexp(logits: ArrayLike) -> Loss:
    """Return log(sum_j exp(z_j)) over the last axis.

    Equals ``z.max() + np.log1p(rest)`` for a row z, where rest sums ``np.exp(z - z.max())`` over all but the winner.

    Parameters
    ----------
    logits : array_like of float32 or float64, shape (..., V)
        Any real numbers. Integers are taken as float64.

    Returns
    -------
    array, shape (...), dtype of the logits; a float for a single row
        inf where a row holds inf, -inf where it holds nothing but -inf, NaN where it holds NaN.

    Raises
    ------
    TypeError, ValueError
        If `logits` are not real numbers or have no class axis.

    Examples
    --------
    >>> import softmaxloss
    >>> round(float(softmaxloss.logsumexp([1000.0, 1000.0])), 6)
    1000.693147
    """
    z = checks.logits(logits)
    peak, rest = rowwise.summarize(_as_rows(z))[1:3]
    return per_row(np.where(np.isinf(peak), peak, peak + np.log1p(rest)), z.shape[:-1], z.dtype)  # type: ignore[no-any-return]


@with_row_options
def cross_entropy(logits: ArrayLike, targets: ArrayLike, **options: Unpack[RowOptions]) -> Loss:
    """Return the cross-entropy between targets and the softmax of logits.

    For class indices it equals ``-log_softmax(logits)[np.arange(N), targets]``, reduced; in general, per row,

        loss = w * sum_j q_j (logsumexp(z) - z_j),    q_j = r_j * ((1 - eps) * P_j + eps / V)

    with the target distribution P, class weights r, label smoothing eps and row weight w. It is never negative, and
    tiny losses come out as they are: 1e-30 is not rounded to 0.

    Parameters
    ----------
    logits : array_like of float32 or float64, shape (..., V)
        Unnormalised log-probabilities of V classes, on the last axis. Integers are taken as float64.
    targets : array_like
        Class indices: integers of any width, shape (...). Or distributions: bools (one-hot) or floats of the shape of
        `logits`, finite and not negative; they need not sum to 1.
    class_weight : array_like of float, shape (V,), optional
        r, one factor per class, applied after smoothing.
    sample_weight : array_like of float, shape (...), optional
        w, one factor per row. A row of weight 0 is never read: nothing in it leaks.
    ignore_index : int, optional
        Rows with this class index are as if they were not there.
    label_smoothing : float, default 0.0
        eps, from 0 to 1.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by sum_i w_i sum_c r_c P_ic, for indices and distributions alike; over nothing it is 0.

    Returns
    -------
    float, in nats, accumulated in float64; for reduction "none" an array of shape (...) and the logits' dtype
        A row whose logits define no softmax (NaN, inf, or nothing but -inf) has loss NaN.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype, or targets could be read in two ways.
    ValueError
        If a shape or a value is wrong; for a class index out of range with its position and likely cause.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning, section 4.3.4.

    Examples
    --------
    >>> import softmaxloss
    >>> round(softmaxloss.cross_entropy([[0.3, 2.9, 4.0]], [2]), 3)
    0.306
    >>> softmaxloss.cross_entropy([[0.0, -40.0]], [0])
    4.248354255291589e-18
    """
    z = checks.logits(logits)
    rows, reduction = describe(targets, z.shape[:-1], z.shape[-1], **options)
    return reduction.result(rowwise.losses(_as_rows(z), rows), z.dtype)  # type: ignore[no-any-return]


@with_row_options
def cross_entropy_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    upstream: ArrayLike | None = None,
    out: Array | None = None,
    **options: Unpack[RowOptions],
) -> tuple[Loss, Array]:
    """Return the cross-entropy and its gradient with respect to the logits, in one sweep.

    For class indices and the mean, the gradient equals ``(softmax(logits) - one_hot(targets)) / N``; in general, per
    row, d_logits_j = upstream * w * (softmax(z)_j * sum_c q_c - q_j), in the symbols of `cross_entropy`.

    Parameters
    ----------
    logits, targets, class_weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy`.
    upstream : float, or array_like of shape (...) for reduction "none", optional
        The gradient that arrives from above; 1 by default.
    out : array of the shape and dtype of the logits, optional
        Where to write the gradient; ``out=logits`` puts it in the place of the logits.

    Returns
    -------
    loss : float or array
        As from `cross_entropy`.
    d_logits : array of the shape and dtype of the logits
        Exactly 0 in rows that are ignored or have weight 0.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if `upstream` or `out` does not fit.

    Examples
    --------
    >>> import softmaxloss
    >>> loss, d_logits = softmaxloss.cross_entropy_and_grad([[0.3, 2.9, 4.0]], [2])
    >>> d_logits.round(3)
    array([[ 0.018,  0.245, -0.263]])
    """
    z = checks.logits(logits)
    rows, reduction = describe(targets, z.shape[:-1], z.shape[-1], **options)
    d_loss = rows.weight * reduction.upstream(upstream)
    target = _Output(out, z, rows.dense)
    losses = rowwise.losses_and_gradients(target.logits, rows, d_loss, target.rows)
    return reduction.result(losses, z.dtype), target.finished()


def _as_rows(array: Array) -> Array:
    """Return (..., V) as (N, V): a view, or a copy where the leading axes cannot be merged."""
    return array.reshape(int(np.prod(array.shape[:-1])), array.shape[-1])


class _Output:
    """Where a result of the shape of the logits goes: a new array, the caller's, or the logits' own place."""

    def __init__(self, out: Array | None, logits: Array, dense_targets: Array | None = None) -> None:
        native = logits.dtype.newbyteorder("=")
        self.array = np.empty(logits.shape, native) if out is None else checks.out(out, logits)
        self.logits = _as_rows(logits)
        self.rows = _as_rows(self.array)
        copied = not np.may_share_memory(self.rows, self.array) and self.array.size > 0
        overlaps_targets = dense_targets is not None and np.may_share_memory(self.array, dense_targets)
        overlaps_logits = np.may_share_memory(self.array, logits) and not _same_place(self.array, logits)
        if copied or overlaps_targets or overlaps_logits:
            self.rows = np.empty(self.logits.shape, native)

    def finished(self) -> Array:
        """Return the caller's array, filled."""
        if not np.may_share_memory(self.rows, self.array):
            self.array[...] = self.rows.reshape(self.array.shape)
        return self.array


def _same_place(a: Array, b: Array) -> bool:
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.dtype == b.dtype
