"""Log-probabilities and entropies of `features @ weight.T + bias`, and their gradients, one chunk of rows at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Unpack

import numpy as np

from softmaxloss.core import rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import RowOptions, describe_labels, with_row_options
from softmaxloss.head.layer import INPUTS, Accumulated, Layer, LinearGradients
from softmaxloss.log_probabilities import NOT_TAKEN, LogProbs, derivatives, results

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike


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
    """Return the log-probabilities and entropies of a linear layer without storing all its logits.

    Equals ``log_probs(features @ weight.T + bias, targets, ...)``.

    Parameters
    ----------
    features, weight, bias, max_memory
        As in `linear_cross_entropy`.
    targets, ignore_index, class_mask, softcap, temperature
        As in `log_probs`. Features of rows that are ignored are never read.

    Returns
    -------
    LogProbs
        As from `log_probs`.

    Raises
    ------
    TypeError, ValueError
        As `log_probs`, and if the shapes of features, weight and bias do not belong together.

    Examples
    --------
    >>> import softmaxloss
    >>> weight = [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]]
    >>> log_prob, entropy = softmaxloss.linear_log_probs([[1.0, 2.0]], weight, [2])
    >>> log_prob.round(3), entropy.round(3)
    (array([-0.306]), array([0.643]))
    """
    layer = Layer(features, weight, bias, max_memory)
    rows = describe_labels(targets, layer.layout, options, NOT_TAKEN)
    found = LogProbs(np.zeros(layer.n_rows), np.zeros(layer.n_rows))
    for part, _, logits, some in layer.chunks(rows):
        found.log_prob[part], found.entropy[part] = rowwise.log_probs(logits, some, layout_of(logits.shape))
    return results(found, layer.layout, layer.dtype)


@partial(with_row_options, but=NOT_TAKEN)
def linear_log_probs_and_grad(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    d_log_prob: ArrayLike = 1.0,
    d_entropy: ArrayLike = 0.0,
    wrt: Collection[str] = INPUTS,
    max_memory: int | str | None = None,
    **options: Unpack[RowOptions],
) -> tuple[LogProbs, LinearGradients]:
    """Return log-probabilities and entropies of a linear layer, and the gradients of a function of them.

    With ``d = d_logits`` of `log_probs_and_grad`, the gradients equal ``d @ weight``, ``d.T @ features`` and
    ``d.sum(0)``.

    Parameters
    ----------
    features, weight, targets, bias, max_memory, **options
        As in `linear_log_probs`.
    d_log_prob, d_entropy : float, or array_like of shape (...)
        As in `log_probs_and_grad`.
    wrt : collection of {"features", "weight", "bias"}, default all
        Gradients to compute. The others are None. The gradient of the bias is None if no bias is given.

    Returns
    -------
    log_probs : LogProbs
        As from `log_probs`.
    gradients : LinearGradients
        (features, weight, bias), each of the shape of its input, all in the common dtype of the inputs.

    Raises
    ------
    TypeError, ValueError
        As `linear_log_probs`, and if `d_log_prob`, `d_entropy` or `wrt` does not fit.

    Examples
    --------
    >>> import softmaxloss
    >>> features, weight = [[1.0, 2.0]], [[0.3, 0.0], [2.9, 0.0], [0.0, 2.0]]
    >>> _, gradients = softmaxloss.linear_log_probs_and_grad(features, weight, [2])
    >>> gradients.features.round(3)
    array([[-0.717,  0.527]])
    """
    layer = Layer(features, weight, bias, max_memory)
    total = Accumulated(layer, wrt)
    rows = describe_labels(targets, layer.layout, options, NOT_TAKEN)
    d_rows = derivatives(layer.layout, d_log_prob, d_entropy)
    found = LogProbs(np.zeros(layer.n_rows), np.zeros(layer.n_rows))
    with np.errstate(all="ignore"):  # results beyond the range of numbers become inf, 0 or NaN
        for part, x, logits, some in layer.chunks(rows):
            d_some = [d if len(d) == 1 else d[part] for d in d_rows]
            of_chunk = rowwise.log_probs(logits, some, layout_of(logits.shape), d_some, logits)
            found.log_prob[part], found.entropy[part] = of_chunk
            total.add_products(part, [(logits, x, layer.weight)])
            total.add_to_bias(logits)
        return results(found, layer.layout, layer.dtype), total.gradients()
