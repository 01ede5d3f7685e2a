"""The public functions of NumPy arrays: check arguments, describe the rows, call the kernels, reduce the losses."""

from __future__ import annotations

from functools import partial
from typing import Any, Never, Unpack

from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import rowwise
from softmaxloss.core.options import RowOptions, per_row, request, request_without_targets, with_row_options
from softmaxloss.core.results import filled, place_for

Array = NDArray[Any]
Loss = float | Array

# Softmax and its logarithms take no `**options`, only `temperature`. They refuse an unknown keyword with advice, as the
# losses do.
without_row_options = partial(with_row_options, but=RowOptions.__annotations__)


@without_row_options
def softmax(
    logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, out: Array | None = None, **unknown: Never
) -> Array:
    """Return the probabilities exp(z_j) / sum_c exp(z_c) over an axis, with z = logits / temperature.

    Equals ``e = np.exp(z - z.max(axis, keepdims=True)); e / e.sum(axis, keepdims=True)``, with every entry within 4
    units in the last place of the exact value, down to the smallest normal number; smaller ones may become 0.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any real numbers; -inf gives probability 0. Integers become float64.
    axis : int, default -1
        The axis of the classes.
    temperature : float, default 1.0
        Number by which the logits are divided, from 1e-30 to 1e30.
    out : array of the shape and dtype of the result, optional
        Array that receives the result; it may be `logits` itself.

    Returns
    -------
    array, shape and dtype of the logits
        A row that holds NaN or inf, or only -inf, becomes NaN. Half precision is computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        If `logits` are not real numbers or have no class axis, or if `axis`, `temperature` or `out` is not as
        described.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.softmax([0.3, 2.9, 4.0]).round(3)
    array([0.018, 0.245, 0.737])
    """
    z, layout, rows = request_without_targets(logits, axis, temperature, unknown)
    array, place = place_for(out, z)
    rowwise.softmax(z, rows, place, layout)
    return filled(array, place)


@without_row_options
def log_softmax(
    logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, out: Array | None = None, **unknown: Never
) -> Array:
    """Return the logarithms of the softmax over an axis: z_j - logsumexp(z), with z = logits / temperature.

    Equals ``z - z.max() - np.log(np.exp(z - z.max()).sum())`` for a row z. But entries near 0 keep all their digits,
    and that formula loses them.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any real numbers; -inf stays -inf. Integers become float64.
    axis, temperature, out
        As in `softmax`.

    Returns
    -------
    array, shape and dtype of the logits
        A row that holds NaN or inf, or only -inf, becomes NaN. Half precision is computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.log_softmax([0.0, -40.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    z, layout, rows = request_without_targets(logits, axis, temperature, unknown)
    array, place = place_for(out, z)
    rowwise.log_softmax(z, rows, place, layout)
    return filled(array, place)


@without_row_options
def logsumexp(logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, **unknown: Never) -> Loss:
    """Return log(sum_j exp(z_j)) over an axis, with z = logits / temperature.

    Equals ``z.max() + np.log1p(rest)`` for a row z. Here rest is the sum of ``np.exp(z - z.max())`` over all entries
    but the highest.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any real numbers. Integers become float64.
    axis, temperature
        As in `softmax`.

    Returns
    -------
    array, shape of the logits without the axis, dtype of the logits (float32 for half precision); a float for one row
        inf for a row that holds inf, -inf for a row that holds only -inf, NaN for a row that holds NaN.

    Raises
    ------
    TypeError, ValueError
        If `logits` are not real numbers or have no class axis, or if `axis` or `temperature` is not as described.

    Examples
    --------
    >>> import softmaxloss
    >>> round(float(softmaxloss.logsumexp([1000.0, 1000.0])), 6)
    1000.693147
    """
    z, layout, rows = request_without_targets(logits, axis, temperature, unknown)
    lse = rowwise.summarize(z, rows, layout).lse(rows.temperature)
    return per_row(lse, layout.batch_shape, z.dtype)  # type: ignore[no-any-return]


@with_row_options
def cross_entropy(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> Loss:
    """Return the cross-entropy between targets and the softmax of logits.

    For class indices it equals ``-log_softmax(logits)[np.arange(N), targets]``, reduced; in general, per row,

        loss = w * (sum_j q_j (lse - z_j) + z_loss * lse**2),    q_j = r_j * ((1 - eps) * P_j + eps / V)

    with lse = logsumexp(z), the target distribution P, class weights r, label smoothing eps and row weight w. It is
    never negative, and a tiny loss such as 1e-30 is not rounded to 0.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Unnormalised log-probabilities of V classes. Integers become float64.
    targets : array_like
        Class indices: integers of any width, shape of the logits without `axis`. Or distributions: bools (one-hot) or
        floats of the shape of `logits`, finite and not negative; they need not sum to 1.
    axis : int, default -1
        The axis of the classes. All other axes are the batch.
    class_weight : array_like of float, shape (V,), optional
        r, one factor per class, applied after smoothing.
    sample_weight : array_like of float, shape of the batch, optional
        w, one factor per row. A row of weight 0 is never read, so that NaN in it has no effect.
    ignore_index : int, optional
        Rows with this class index are left out.
    class_mask : array_like of bool, shape (V,), optional
        True for each class that exists. At least one class must exist. The logits of the other classes, such as the
        padding of a vocabulary, are never read, and their probability and gradient are 0. They do not count in the V of
        label smoothing, and cannot be targets.
    label_smoothing : float, default 0.0
        eps, from 0 to 1.
    z_loss : float, default 0.0
        Factor of lse**2, which keeps the logits from drifting.
    softcap : float, optional
        z = softcap * tanh(logits / softcap), before the temperature. An infinite logit becomes softcap or -softcap.
    temperature : float, default 1.0
        z = logits / temperature; from 1e-30 to 1e30.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by sum_i w_i sum_c r_c P_ic, for indices and distributions alike. If this sum is 0, so is the
        mean.
    normalizer : float, optional
        Number by which the mean divides, instead of by sum_i w_i sum_c r_c P_ic. To add up gradients of several
        batches, pass this sum over all batches.

    Returns
    -------
    float, in nats, accumulated in float64; for reduction "none" an array of the batch's shape and the logits' dtype, or
    float32 for half precision
        A row whose logits define no softmax (NaN, inf, or nothing but -inf) has loss NaN.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype, or targets could be read in two ways.
    ValueError
        If a shape or a value is wrong. For a class index out of range, the message gives its position and likely cause.

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
    z, layout, rows, reduction = request(logits, targets, axis, options)
    return reduction.result(rowwise.losses(z, rows, layout), z.dtype)  # type: ignore[no-any-return]


@with_row_options
def cross_entropy_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    upstream: ArrayLike | None = None,
    out: Array | None = None,
    **options: Unpack[RowOptions],
) -> tuple[Loss, Array]:
    """Return the cross-entropy and its gradient with respect to the logits, in one sweep.

    For class indices and the mean, the gradient equals ``(softmax(logits) - one_hot(targets)) / N``; in general, per
    row and in the symbols of `cross_entropy`,

        d_z_j = upstream * w * ((sum_c q_c + 2 * z_loss * lse) * softmax(z)_j - q_j)

    and d_logits_j = d_z_j / temperature * (1 - tanh(logits_j / softcap)**2).

    Parameters
    ----------
    logits, targets, axis, **options
        As in `cross_entropy`.
    upstream : float, or array_like of the batch's shape for reduction "none", optional
        The gradient that arrives from above; 1 by default.
    out : array of the shape and dtype of the logits, optional
        Array that receives the gradient; ``out=logits`` overwrites the logits with it.

    Returns
    -------
    loss : float or array
        As from `cross_entropy`.
    d_logits : array of the shape and dtype of the logits
        Exactly 0 in rows that are ignored or have weight 0, and for classes that do not exist according to
        `class_mask`. Half precision is computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if `upstream` or `out` is not as described.

    Examples
    --------
    >>> import softmaxloss
    >>> loss, d_logits = softmaxloss.cross_entropy_and_grad([[0.3, 2.9, 4.0]], [2])
    >>> d_logits.round(3)
    array([[ 0.018,  0.245, -0.263]])
    """
    z, layout, rows, reduction = request(logits, targets, axis, options)
    d_loss = reduction.upstream(upstream)
    array, place = place_for(out, z, rows.dense)
    losses = rowwise.losses_and_gradients(z, rows, d_loss, place, layout)
    return reduction.result(losses, z.dtype), filled(array, place)
