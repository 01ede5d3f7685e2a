"""Cross-entropy of `features @ weight.T + bias`, its gradients and metrics, one chunk of rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from softmaxloss.core import rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.rows import RowOptions, describe, with_row_options
from softmaxloss.head.layer import INPUTS, Accumulated, Layer, LinearGradients

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike, NDArray


@with_row_options
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> float | NDArray[Any]:
    """Return the cross-entropy of a linear layer without holding its logits.

    Equals ``cross_entropy(features @ weight.T + bias, targets, ...)``.

    Parameters
    ----------
    features : array_like of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer. Half precision is computed in float32.
    weight : array_like of float, shape (V, D)
        One row per class.
    targets, **options
        As in `cross_entropy`. Features of rows that are ignored or have weight 0 are never read.
    bias : array_like of float, shape (V,), optional
        One number per class.
    max_memory : int or str, optional
        Bytes, or text such as "64MiB", for all that is held besides inputs and results: logits are computed for so many
        rows at a time, but at least for one. By default it is what 384 rows take, or 16 MiB where that is more. With
        fewer than 256 rows the products become slow, and the number of rows may change the last bits of their results.
        Not counted are the memory of BLAS itself, and float32 copies of weights in half precision and of their
        gradient.

    Returns
    -------
    float, or array of shape (...) for reduction "none"
        As from `cross_entropy`.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if the shapes of features, weight and bias do not belong together.

    Examples
    --------
    >>> import softmaxloss
    >>> round(softmaxloss.linear_cross_entropy([[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]], [2]), 3)
    0.306
    """
    layer = Layer(features, weight, bias, max_memory)
    rows, reduction = describe(targets, layer.layout, **options)
    losses = np.zeros(layer.n_rows)
    for chunk in layer.chunks(rows):
        losses[chunk.part] = rowwise.losses(chunk.logits, chunk.rows, layout_of(chunk.logits.shape))
    return reduction.result(losses, layer.dtype)  # type: ignore[no-any-return]


@with_row_options
def linear_cross_entropy_and_grad(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    upstream: ArrayLike | None = None,
    wrt: Collection[str] = INPUTS,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> tuple[float | NDArray[Any], LinearGradients]:
    """Return the cross-entropy of a linear layer and its gradients, without holding the logits or theirs.

    With ``d = d_logits`` of `cross_entropy_and_grad`, the gradients equal ``d @ weight``, ``d.T @ features`` and
    ``d.sum(0)``.

    Parameters
    ----------
    features, weight, targets, bias, max_memory, **options
        As in `linear_cross_entropy`.
    upstream : float, or array_like of shape (...) for reduction "none", optional
        The gradient that arrives from above; 1 by default.
    wrt : collection of {"features", "weight", "bias"}, default all
        Which gradients to compute; the others are None, as is that of a bias not given.

    Returns
    -------
    loss : float or array
        As from `cross_entropy`.
    gradients : LinearGradients
        (features, weight, bias), of the shapes of the inputs and their common dtype.

    Raises
    ------
    TypeError, ValueError
        As `linear_cross_entropy`, and if `upstream` or `wrt` does not fit.

    Examples
    --------
    >>> import softmaxloss
    >>> features, weight = [[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]]
    >>> loss, gradients = softmaxloss.linear_cross_entropy_and_grad(features, weight, [2])
    >>> gradients.features.round(3)
    array([[ 0.717, -0.527]])
    """
    layer = Layer(features, weight, bias, max_memory)
    total = Accumulated(layer, wrt)
    rows, reduction = describe(targets, layer.layout, **options)
    d_loss = reduction.upstream(upstream)
    losses = np.zeros(layer.n_rows)
    for part, x, logits, described in layer.chunks(rows):
        d = d_loss if len(d_loss) == 1 else d_loss[part]
        losses[part] = rowwise.losses_and_gradients(logits, described, d, logits, layout_of(logits.shape))
        total.add(part, logits, x, layer.weight)
    return reduction.result(losses, layer.dtype), total.gradients()
