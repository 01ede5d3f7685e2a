"""The public functions of a linear layer. They never hold all of its logits at once."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Unpack

import jax

from softmaxloss.core import checks
from softmaxloss.core.options import RowOptions, with_row_options
from softmaxloss.jax.arguments import as_array, form, request, request_log_probs
from softmaxloss.jax.functional import LogProbs, reduced
from softmaxloss.jax.layer import dtype_of, of_layer
from softmaxloss.log_probabilities import NOT_TAKEN

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from softmaxloss.jax.layer import Layer

Array = jax.Array

# The default of `max_memory`: the memory of all logits in float32, divided by `_PART`, but within these bounds.
_PART, _LEAST, _MOST = 16, 2**24, 2**28
_BYTES_PER_LOGIT = 16


@with_row_options
def linear_cross_entropy(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> Array:
    """Return ``cross_entropy(features @ weight.T + bias, targets, ...)`` without holding the logits.

    A `jax.lax.scan` goes through blocks of classes. It computes the logits of one block for all rows, and computes them
    again in the backward pass. The rows are not split, so they may be sharded over devices. The loss can be
    differentiated, also twice, with respect to the features, the weight and the bias, and to the same targets and
    options as `cross_entropy`.

    Parameters
    ----------
    features : array of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer.
    weight : array, shape (V, D)
        One row per class. For a `flax.linen.Dense` or `flax.nnx.Linear`, pass ``kernel.T``.
    targets : array
        As in `cross_entropy`, for logits of shape (..., V).
    bias : array, shape (V,), optional
    max_memory : int or str, optional
        The approximate memory besides inputs and results, in bytes or as text such as "64MiB". The default is a
        16th of the memory that all logits would take in float32, but at least 16 MiB and at most 256 MiB. If no
        suitable block size divides the number of classes, the weight is copied.
    **options
        As in `cross_entropy`.

    Returns
    -------
    array
        One number, or with reduction "none" one per row; float64 for float64 inputs, else float32. Products of half
        precision are added up in float32.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from softmaxloss.jax import linear_cross_entropy
    >>> features, weight = jnp.ones((1, 2)), jnp.zeros((50_000, 2))
    >>> d_weight = jax.grad(linear_cross_entropy, argnums=1)(features, weight, jnp.array([7]))
    >>> print(d_weight.shape, d_weight[7])
    (50000, 2) [-0.99998 -0.99998]
    """
    layer, shape, block = _layer(features, weight, bias, max_memory)
    asked, others = request(shape, dtype_of(layer), targets, -1, options)
    return reduced(of_layer(asked._replace(block=block), layer, others), options)


@partial(with_row_options, but=NOT_TAKEN)
def linear_log_probs(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> LogProbs:
    """Return ``log_probs(features @ weight.T + bias, targets, ...)`` without holding the logits.

    Parameters
    ----------
    features, weight, bias, max_memory
        As in `linear_cross_entropy`.
    targets, ignore_index, class_mask, softcap, temperature
        As in `log_probs`.

    Returns
    -------
    LogProbs
        As `log_probs` returns.

    Raises
    ------
    ValueError, TypeError
        As `log_probs`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import linear_log_probs
    >>> log_prob, entropy = linear_log_probs(jnp.ones((2, 7, 4)), jnp.ones((1000, 4)), jnp.zeros((2, 7), int))
    >>> print(log_prob.shape, entropy[0, 0])
    (2, 7) 6.9077554
    """
    layer, shape, block = _layer(features, weight, bias, max_memory)
    asked, others = request_log_probs(shape, dtype_of(layer), targets, -1, options)
    return LogProbs(*of_layer(asked._replace(block=block), layer, others))


def _layer(
    features: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, max_memory: int | str | None
) -> tuple[Layer, tuple[int, ...], int]:
    """Return the arrays of a layer, the shape of its logits, and the number of classes of a block."""
    x, w = as_array("features", features), as_array("weight", weight)
    b = None if bias is None else as_array("bias", bias)
    checks.weight_and_bias(form(w.shape, w.dtype), None if b is None else form(b.shape, b.dtype))
    checks.features(form(x.shape, x.dtype), w.shape[1])
    shape: tuple[int, ...] = (*x.shape[:-1], len(w))
    n_rows, n_classes = max(prod(x.shape[:-1]), 1), len(w)
    memory = min(max(4 * n_rows * n_classes // _PART, _LEAST), _MOST)
    if max_memory is not None:
        memory = checks.memory("max_memory", max_memory)
    return (x, w, b), shape, _block(n_classes, memory // (n_rows * _BYTES_PER_LOGIT))


def _block(n_classes: int, most: int) -> int:
    """Return the largest block size up to `most` that divides n_classes; if it is below most / 2, one that does not."""
    most = min(max(most, 1), max(n_classes, 1))
    n_blocks = -(-n_classes // most)
    for n in range(n_blocks, 2 * n_blocks + 1):
        if n_classes % n == 0:
            return n_classes // n
    return -(-n_classes // n_blocks)
