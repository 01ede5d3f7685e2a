"""The additive-margin softmax: each target must win by a margin.

This module is the worked example of another loss on top of the library. It computes no softmax itself: `request` checks
the arguments and reads the options, `_less_margin` changes the logits, and `rowwise` computes losses and gradients. The
margin is a constant, so the gradients with respect to the cosines and to the changed logits are the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.dtypes import kernel_dtype, result_dtype
from softmaxloss.core.options import request, with_row_options
from softmaxloss.core.staging import store
from softmaxloss.core.target_checks import one_class_per_row

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.layout import Layout
    from softmaxloss.core.options import Request, RowOptions
    from softmaxloss.core.rows import Rows

    Array = NDArray[Any]

NOT_TAKEN = {"temperature": "pass its inverse as scale", "softcap": "cosines are bounded already"}


@partial(with_row_options, but=NOT_TAKEN)
def margin_cross_entropy(
    cosines: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    margin: float = 0.35,
    scale: float = 30.0,
    **options: Unpack[RowOptions],
) -> float | Array:
    """Return the cross-entropy of scaled cosines after a margin is subtracted from the target's cosine.

    For class indices it equals ``cross_entropy(scale * (cosines - margin * np.eye(V)[targets]), targets)``: per row,

        loss = log(1 + sum over j != t of exp(scale * (cos_j - cos_t + margin)))

    Parameters
    ----------
    cosines : array_like of float16, bfloat16, float32 or float64
        Cosine of the angle between each row's features and the weights of each of V classes. Numbers beyond -1 and 1
        are allowed.
    targets : array_like
        Class indices or one-hot rows, as in `cross_entropy`. A soft row is refused, since it has no single target.
    axis : int, default -1
        The axis of the classes. All other axes are the batch.
    margin : float, default 0.35
        From -1e30 to 1e30. With margin 0 the loss is the cross-entropy of ``scale * cosines``.
    scale : float, default 30.0
        Factor of the cosines, from 1e-20 to 1e20.
    **options
        The row options of `cross_entropy` except temperature and softcap. They apply after the margin: label smoothing
        and z-loss act on ``scale * (cosines - margin * one_hot)``.

    Returns
    -------
    float, or array of the batch's shape for reduction "none"
        As from `cross_entropy`. The subtraction is rounded once, to float32 for half precision.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; if a target row is soft, `margin` or `scale` is out of range, or temperature or softcap is
        given.

    References
    ----------
    Wang, Cheng, Liu and Liu, Additive Margin Softmax for Face Verification, IEEE Signal Processing Letters 25 (2018).
    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018.

    Examples
    --------
    >>> import softmaxloss
    >>> round(softmaxloss.margin_cross_entropy([[0.1, 0.5, 0.8]], [2]), 3)
    1.701
    """
    z, layout, rows, reduction = _request(cosines, targets, axis, scale, options)
    losses = rowwise.losses(_less_margin(z, rows, layout, margin), rows, layout)
    return reduction.result(losses, z.dtype)  # type: ignore[no-any-return]


@partial(with_row_options, but=NOT_TAKEN)
def margin_cross_entropy_and_grad(
    cosines: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    margin: float = 0.35,
    scale: float = 30.0,
    upstream: ArrayLike | None = None,
    out: Array | None = None,
    **options: Unpack[RowOptions],
) -> tuple[float | Array, Array]:
    """Return the loss of `margin_cross_entropy` and its gradient with respect to the cosines.

    For class indices and the mean, with ``one_hot = np.eye(V)[targets]`` and
    ``z = scale * (cosines - margin * one_hot)``, the gradient equals ``scale * (softmax(z) - one_hot) / N``.

    Parameters
    ----------
    cosines, targets, axis, margin, scale, **options
        As in `margin_cross_entropy`.
    upstream, out
        As in `cross_entropy_and_grad`; ``out=cosines`` overwrites the cosines with the gradient.

    Returns
    -------
    loss : float or array
        As from `margin_cross_entropy`.
    d_cosines : array of the shape and dtype of the cosines
        As from `cross_entropy_and_grad`.

    Raises
    ------
    TypeError, ValueError
        As `margin_cross_entropy`, and if `upstream` or `out` is not as described.

    Examples
    --------
    >>> import softmaxloss
    >>> loss, d_cosines = softmaxloss.margin_cross_entropy_and_grad([[0.1, 0.5, 0.8]], [2])
    >>> d_cosines.round(2)
    array([[  0.  ,  24.53, -24.53]])
    """
    z, layout, rows, reduction = _request(cosines, targets, axis, scale, options)
    d_loss, dtype = reduction.upstream(upstream), result_dtype(z.dtype)
    given = None if out is None else checks.out(out, z)
    x = _less_margin(z, rows, layout, margin)
    losses = rowwise.losses_and_gradients(x, rows, d_loss, x, layout)  # the gradient overwrites the copy x
    loss = reduction.result(losses, z.dtype)
    if given is None and x.dtype == dtype:
        return loss, x
    d_cosines = np.empty(x.shape, dtype) if given is None else given
    store(x, d_cosines)
    return loss, d_cosines


def _request(cosines: ArrayLike, targets: ArrayLike, axis: int, scale: float, options: RowOptions) -> Request:
    """Return the result of `request`, with the scale as a temperature: so cosines are not rounded by a product."""
    checks.refused(options, NOT_TAKEN)
    z = checks.logits(cosines, "cosines")
    asked = request(z, targets, axis, {**options, "temperature": 1 / checks.scale(scale)})
    _, layout, rows, _ = asked
    one_class_per_row(rows.label, rows.weight != 0, layout.batch_shape)
    return asked


def _less_margin(cosines: Array, rows: Rows, layout: Layout, margin: float) -> Array:
    """Return a copy of the cosines, in the precision of the kernels, with the margin subtracted at each target."""
    margin = checks.margin(margin)
    target = np.expand_dims(rows.label.reshape(layout.batch_shape), layout.axis)  # any class in rows of weight 0
    with np.errstate(all="ignore"):  # rows of weight 0 may hold anything, even signalling NaNs
        x = cosines.astype(kernel_dtype(cosines.dtype))
        less = np.subtract(np.take_along_axis(x, target, layout.axis), margin, dtype=np.float64)
        np.put_along_axis(x, target, less, layout.axis)  # rounded once, here
    return x
