"""Cross-entropy of `features @ weight.T + bias`, its gradients and metrics, one chunk of rows at a time.

The file has over 300 lines: half of them are the documentation of these functions.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import ONE, RowOptions, describe, describe_labels, with_row_options
from softmaxloss.evaluation import NOT_TAKEN, Metrics, metrics_of
from softmaxloss.head.layer import INPUTS, Accumulated, Layer, LinearGradients, forget_masked
from softmaxloss.head.sampled import Sampled, SampledSum
from softmaxloss.second_order import PIECES_OF_HVP, hvp_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.options import Reduction
    from softmaxloss.core.rows import Rows

    Float64s = NDArray[np.float64]


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
    """Return the cross-entropy of a linear layer without storing all its logits.

    Equals ``cross_entropy(features @ weight.T + bias, targets, ...)``.

    Parameters
    ----------
    features : array_like of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer. Half precision is computed in float32. A sparse array of SciPy stays sparse.
    weight : array_like of float, shape (V, D)
        One row per class.
    targets, **options
        As in `cross_entropy`. Features of rows that are ignored or have weight 0 are never read.
    bias : array_like of float, shape (V,), optional
        One number per class.
    max_memory : int or str, optional
        Memory for everything besides inputs and results, in bytes or as text such as "64MiB". It limits how many rows
        of logits are computed at a time, but at least one row is. The default is 24 MiB, which fit in a cache, or the
        memory of 512 rows where that is estimated to be faster. With fewer than 256 rows of many classes the products
        become slow. The number of rows may change the last bits of the products.
        The limit does not count the memory of BLAS, a gradient before it is rounded, and copies of weights (in
        `linear_hvp` also of `vector`). Weights or vectors are copied if they are in half precision, have another dtype
        than the features, or are strided. They are also copied if they hold NaN or inf for a masked class.

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
    backward: str | Sampled = "exact",
    **options: Unpack[RowOptions],
) -> tuple[float | NDArray[Any], LinearGradients]:
    """Return the cross-entropy of a linear layer and its gradients, without storing all logits or their gradients.

    With ``d = d_logits`` of `cross_entropy_and_grad`, the gradients equal ``d @ weight``, ``d.T @ features`` and
    ``d.sum(0)``.

    Parameters
    ----------
    features, weight, targets, bias, max_memory, **options
        As in `linear_cross_entropy`.
    upstream : float, or array_like of shape (...) for reduction "none", optional
        The gradient that arrives from above; 1 by default.
    wrt : collection of {"features", "weight", "bias"}, default all
        The gradients to compute. The others are None. The gradient of the bias is None if no bias is given. Gradients
        of sparse features are not computed: leave "features" out.
    backward : "exact" or Sampled, default "exact"
        With ``Sampled(threshold, seed)`` the gradients are random, and take less time if there are many classes. Their
        mean is the exact gradient.

    Returns
    -------
    loss : float or array
        As from `cross_entropy`.
    gradients : LinearGradients
        (features, weight, bias), with the shapes of the inputs and their common dtype. With a `Sampled` backward it has
        the attribute `sampling_error`: the expected size of the error of each gradient, relative to the gradient.

    Raises
    ------
    TypeError, ValueError
        As `linear_cross_entropy`, and if `upstream`, `wrt` or `backward` is not as described.

    Examples
    --------
    >>> import softmaxloss
    >>> features, weight = [[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]]
    >>> loss, gradients = softmaxloss.linear_cross_entropy_and_grad(features, weight, [2])
    >>> gradients.features.round(3)
    array([[ 0.717, -0.527]])
    """
    layer = Layer(features, weight, bias, max_memory)
    total = _accumulated(layer, wrt, backward)
    rows, reduction = describe(targets, layer.layout, **options)
    return loss_and_gradients(layer, rows, reduction, total, reduction.upstream(upstream))


def loss_and_gradients(
    layer: Layer, rows: Rows, reduction: Reduction, total: Accumulated, d_loss: Float64s = ONE
) -> tuple[Any, LinearGradients]:
    """Return the loss of a layer, and the gradients that `total` adds up."""
    losses = np.zeros(layer.n_rows)
    with np.errstate(all="ignore"):  # results beyond the range of numbers become inf, 0 or NaN
        for chunk in layer.chunks(rows, more=total.bytes_per_row(rows)):
            losses[chunk.part] = total.backward(chunk, d_loss if len(d_loss) == 1 else d_loss[chunk.part])
        return reduction.result(losses, layer.dtype), total.gradients()


def is_sampled(backward: object) -> TypeGuard[Sampled]:
    """Return True for a sampled backward pass and False for "exact"; refuse everything else."""
    if isinstance(backward, Sampled):
        return True
    if not isinstance(backward, str) or backward != "exact":
        raise ValueError(
            f'backward must be "exact" or an instance such as softmaxloss.Sampled(), got {checks.shown(backward)}'
        )
    return False


def _accumulated(layer: Layer, wrt: Collection[str], backward: str | Sampled) -> Accumulated:
    if is_sampled(backward):
        return SampledSum(layer, wrt, backward)
    return Accumulated(layer, wrt)


@partial(with_row_options, but=NOT_TAKEN)
def linear_metrics(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    topk: Iterable[int] = (1, 5),
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> Metrics:
    """Return how well a linear layer predicts its targets, without storing all its logits.

    Equals ``metrics(features @ weight.T + bias, targets, ...)``.

    Parameters
    ----------
    features, weight, bias, max_memory
        As in `linear_cross_entropy`.
    targets, sample_weight, ignore_index, class_mask, softcap, temperature, topk
        As in `metrics`.

    Returns
    -------
    Metrics

    Raises
    ------
    TypeError, ValueError
        As `linear_cross_entropy` and `metrics`.

    Examples
    --------
    >>> import softmaxloss
    >>> scores = softmaxloss.linear_metrics([[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]], [1], topk=(2,))
    >>> scores.accuracy, scores.top_k, scores.rank
    (0.0, {2: 1.0}, array([2]))
    """
    layer = Layer(features, weight, bias, max_memory)
    ks = checks.ranks(topk)
    rows = describe_labels(targets, layer.layout, options, NOT_TAKEN)
    scores = rowwise.no_scores(layer.n_rows)
    for part, _, logits, described in layer.chunks(rows):
        of_chunk = rowwise.score(logits, described, layout_of(logits.shape))
        for values, found in zip(scores, of_chunk, strict=True):
            values[part] = found
    return metrics_of(scores, rows, layer.layout, ks, layer.dtype)


@with_row_options
def linear_hvp(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    vector: tuple[ArrayLike | None, ArrayLike | None, ArrayLike | None],
    bias: ArrayLike | None = None,
    *,
    wrt: Collection[str] = INPUTS,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> LinearGradients:
    """Return the product of the Hessian of a linear layer's cross-entropy with a vector, without storing all logits.

    The Hessian is with respect to features, weight and bias. Let ``d_z`` be ``d_logits`` of `cross_entropy_and_grad`.
    Let ``u = v_features @ weight.T + features @ v_weight.T + v_bias``. This is the change of the logits along the
    vector. With ``h = hvp(logits, targets, u)`` the product is

        h @ weight + d_z @ v_weight,    h.T @ features + d_z.T @ v_features,    h.sum(0)

    Parameters
    ----------
    features, weight, targets, bias, max_memory, **options
        As in `linear_cross_entropy`. Reduction "none" gives the same as "sum".
    vector : LinearGradients, or a tuple of three
        (features, weight, bias), each of the shape of that input, or None for zeros.
    wrt : collection of {"features", "weight", "bias"}, default all
        Which parts of the product to compute.

    Returns
    -------
    LinearGradients
        The parts of the product. Those that `wrt` leaves out are None. So is that of the bias if no bias is given.

    Raises
    ------
    TypeError, ValueError
        As `linear_cross_entropy`, and if `vector` or `wrt` is not as described.

    References
    ----------
    Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 6 (1994).

    Examples
    --------
    >>> import softmaxloss
    >>> features, weight = [[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]]
    >>> product = softmaxloss.linear_hvp(features, weight, [2], ([[1.0, 0.0]], None, None))
    >>> product.features.round(3)
    array([[ 1.55 , -1.056]])
    """
    layer = Layer(features, weight, bias, max_memory)
    total = Accumulated(layer, wrt)
    v_features, v_weight, v_bias = _direction(layer, vector)
    rows, _ = describe(targets, layer.layout, **options)
    if v_weight is not None:
        v_weight = forget_masked(v_weight, rows.class_mask)
    scratch: NDArray[Any] | None = None
    for part, x, logits, described in layer.chunks(rows, buffers=2, pieces=PIECES_OF_HVP):
        v_x = None if v_features is None else layer.rows_of(v_features, part)
        scratch = np.empty_like(logits) if scratch is None else scratch
        along = scratch[: len(logits)]
        terms = [(x, v_weight), (v_x, layer.weight)]
        layer.write_logits(along, [(a, b) for a, b in terms if a is not None and b is not None], v_bias)
        hvp_of(logits, described, along)
        products: list[tuple[Any, Any, Any]] = [(along, x, layer.weight)]
        if v_x is not None or v_weight is not None:
            rowwise.losses_and_gradients(logits, described, ONE, logits, layout_of(logits.shape))
            products.append((logits, v_x, v_weight))
        total.add_products(part, products)
        total.add_to_bias(along)
    return total.gradients()


def _direction(layer: Layer, vector: Any) -> LinearGradients:
    """Check a vector in the space of the inputs, and return it in the dtype and the order that products take."""
    if not isinstance(vector, tuple | list) or len(vector) != len(INPUTS):
        raise TypeError(
            f"vector must be a tuple (features, weight, bias) of arrays or None, got {checks.shown(vector)}"
        )
    shapes = (*layer.batch_shape, layer.n_features), layer.weight.shape, (layer.n_classes,)
    given = zip(INPUTS, vector, shapes, strict=True)
    parts = [None if v is None else checks.vector(v, shape, name, f"vector.{name}") for name, v, shape in given]
    if parts[2] is not None and layer.bias is None:
        raise ValueError("vector.bias must be None where no bias is given, got an array; pass bias too")
    v_features, v_weight, v_bias = parts
    with np.errstate(all="ignore"):
        return LinearGradients(
            None if v_features is None else layer.flat(v_features),
            None if v_weight is None else layer.parameter(v_weight),
            None if v_bias is None else v_bias.astype(layer.computed, copy=False),
        )
