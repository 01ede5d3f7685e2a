"""Cross-entropy of `features @ weight.T + bias` and its gradients, one chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.elementwise import kernel_dtype, result_dtype
from softmaxloss.core.layout import layout_of
from softmaxloss.core.rows import RowOptions, Rows, describe, with_row_options
from softmaxloss.head.products import multiply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

INPUTS = ("features", "weight", "bias")
DEFAULT_MAX_MEMORY = 32 * 2**20


class LinearGradients(NamedTuple):
    """Gradients of the loss of a linear layer, each of the shape of its input; None where not asked for."""

    features: NDArray[Any] | None
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None


@with_row_options
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    max_memory: int = DEFAULT_MAX_MEMORY,
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
    max_memory : int, default 32 MiB
        Bytes for the logits of the rows in work; at least one row is. The number of rows that share a matrix product
        may change the last bits of its result.

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
    layer = _Layer(features, weight, bias, max_memory)
    rows, reduction = describe(targets, layer.logits_layout, **options)
    losses = np.zeros(len(layer.features))
    for part, _, logits, described in layer.chunks(rows):
        losses[part] = rowwise.losses(logits, described, layout_of(logits.shape))
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
    max_memory: int = DEFAULT_MAX_MEMORY,
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
    layer = _Layer(features, weight, bias, max_memory)
    wanted = _wanted(wrt)
    rows, reduction = describe(targets, layer.logits_layout, **options)
    d_loss = reduction.upstream(upstream)
    losses = np.zeros(len(layer.features))
    d_features = np.zeros_like(layer.features, order="C") if "features" in wanted else None
    d_weight = np.zeros_like(layer.weight, order="C") if "weight" in wanted else None
    d_bias = np.zeros(layer.n_classes) if "bias" in wanted and layer.bias is not None else None
    for part, x, logits, described in layer.chunks(rows):
        d = d_loss if len(d_loss) == 1 else d_loss[part]
        losses[part] = rowwise.losses_and_gradients(logits, described, d, logits, layout_of(logits.shape))
        d_logits = logits
        if d_features is not None:
            d_x = np.empty_like(x)
            multiply(d_logits, layer.weight, d_x)
            d_features[part] = d_x
        if d_weight is not None:
            multiply(d_logits.T, x, d_weight, add=True)
        if d_bias is not None:
            with np.errstate(all="ignore"):
                d_bias += d_logits.sum(axis=0, dtype=np.float64)
    gradients = LinearGradients(
        None if d_features is None else layer.rounded(d_features).reshape(*layer.batch_shape, d_features.shape[1]),
        None if d_weight is None else layer.rounded(d_weight),
        None if d_bias is None else layer.rounded(d_bias),
    )
    return reduction.result(losses, layer.dtype), gradients


class _Layer:
    """Checked inputs in the dtype they are computed in, features as (N, D), and their logits chunk by chunk."""

    def __init__(self, features: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, max_memory: int) -> None:
        w, b = checks.weight_and_bias(weight, bias)
        x = checks.features(features, w.shape[1])
        dtypes = {array.dtype.newbyteorder("=") for array in (x, w, b) if array is not None}
        computed = np.result_type(*map(kernel_dtype, dtypes))
        self.dtype = result_dtype(dtypes.pop()) if len(dtypes) == 1 else computed
        contiguous = w.flags.c_contiguous or w.flags.f_contiguous
        self.weight = w.astype(computed, copy=False) if contiguous else np.ascontiguousarray(w, computed)
        self.bias = None if b is None else b.astype(computed, copy=False)
        self.batch_shape = x.shape[:-1]
        self.n_classes, n_features = self.weight.shape
        self.logits_layout = layout_of((*self.batch_shape, self.n_classes))
        self.features = x.astype(computed, copy=False).reshape(self.logits_layout.n_rows, n_features)
        row_bytes = (self.n_classes + 2 * n_features) * computed.itemsize
        self.chunk_rows = max(1, checks.count("max_memory", max_memory) // max(row_bytes, 1))

    def chunks(self, rows: Rows) -> Iterator[tuple[slice | NDArray[np.intp], NDArray[Any], NDArray[Any], Rows]]:
        """Yield the rows of a chunk, their features, logits and descriptor; rows of weight 0 are left out."""
        n_rows = len(self.features)
        dense = None if rows.dense is None else rows.dense.reshape(n_rows, self.n_classes)
        self._forget_masked(rows.class_mask)
        live = np.flatnonzero(rows.each().weight)
        buffer = np.empty((min(self.chunk_rows, len(live)), self.n_classes), self.features.dtype)
        for start in range(0, len(live), self.chunk_rows):
            chunk = live[start : start + self.chunk_rows]
            part = slice(start, start + len(chunk)) if len(live) == n_rows else chunk
            x = np.ascontiguousarray(self.features[part])
            logits = buffer[: len(chunk)]
            if self.bias is not None:
                logits[...] = self.bias
            multiply(x, self.weight.T, logits, add=self.bias is not None)
            yield part, x, logits, rows.part(part, None if dense is None else dense[part])

    def _forget_masked(self, class_mask: NDArray[np.bool_]) -> None:
        """Put 0 in the place of NaN and inf in the weights of classes that do not exist: 0 * NaN is NaN."""
        if class_mask.size and not np.isfinite(self.weight[~class_mask]).all():
            self.weight = np.where(class_mask[:, None], self.weight, 0)

    def rounded(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """Return a gradient in the inputs' dtype."""
        with np.errstate(over="ignore"):  # beyond the range of float16 it is inf
            return gradient.astype(self.dtype, copy=False)


def _wanted(wrt: Collection[str]) -> Collection[str]:
    listed = isinstance(wrt, Collection) and not isinstance(wrt, str) and getattr(wrt, "ndim", 1) == 1
    if not listed or not all(name in INPUTS for name in wrt):
        raise ValueError(f"wrt must be a collection of some of {INPUTS}, got {wrt!r}")
    return wrt
