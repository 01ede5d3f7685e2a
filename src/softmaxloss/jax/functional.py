"""The public functions that take logits.

The file has over 300 lines, because most of them are the documentation of these functions.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp

from softmaxloss import array
from softmaxloss.core import checks
from softmaxloss.core.options import RowOptions, with_row_options
from softmaxloss.core.rowwise import LogProbs
from softmaxloss.jax.arguments import as_array, request, request_log_probs, static
from softmaxloss.jax.axes import Axes, axes_of, broadcast, joined, mask_of, parted
from softmaxloss.jax.derivatives import of_logits
from softmaxloss.log_probabilities import NOT_TAKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.typing import ArrayLike

    from softmaxloss.jax.derivatives import Numbers

__all__ = [
    "LogProbs",
    "cross_entropy",
    "log_probs",
    "log_softmax",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]

Array = jax.Array


@with_row_options
def cross_entropy(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> Array:
    """Return the cross-entropy between targets and the softmax of logits, as `softmaxloss.cross_entropy` does.

    It can be differentiated with respect to the logits, the targets where they are distributions, `class_weight`,
    `sample_weight` and `normalizer`. A row of weight 0 is never read, so the derivative with respect to its weight is
    0.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Logits of V classes on the axis `axis`.
    targets : array
        Class indices: integers in the shape of the logits without the axis of the classes. Or distributions: floats or
        bools in the shape of the logits.
    axis : int, default -1
        The axis of the classes.
    class_weight, sample_weight, normalizer
        As in `softmaxloss.cross_entropy`. These arrays may be traced.
    class_mask : array of bool, shape (V,), optional
        True for classes that exist. The logits of the others are never read, and their gradient is 0.
    ignore_index, label_smoothing, z_loss, softcap, temperature, reduction
        As in `softmaxloss.cross_entropy`. These are static: Python numbers, and a string for `reduction`.

    Returns
    -------
    array
        One number, or with reduction "none" one per row; float64 for float64 logits, else float32.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described. Values of traced arrays cannot be checked. Then the loss of a row whose
        label is not a class is NaN, and `jax.experimental.checkify` reports the label.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from softmaxloss.jax import cross_entropy
    >>> loss, d_logits = jax.value_and_grad(cross_entropy)(jnp.array([[0.0, -40.0]]), jnp.array([0]))
    >>> print(loss, d_logits)
    4.248354e-18 [[-4.248354e-18  4.248354e-18]]
    """
    return _cross_entropy(as_array("logits", logits), targets, axis, options)


def _cross_entropy(logits: Array, targets: Any, axis: int, options: Any) -> Array:
    asked, others = request(logits.shape, logits.dtype, targets, axis, options)
    return reduced(of_logits(asked, logits, others), options)


def reduced(numbers: Numbers, options: Any) -> Array:
    """Return the losses of rows, or their sum. For a mean, the row weights already contain its divisor."""
    (losses,) = numbers
    return losses if options.get("reduction") == "none" else jnp.sum(losses)


@partial(with_row_options, but=NOT_TAKEN)
def log_probs(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> LogProbs:
    """Return the log-probability of each class index in `targets`, and the entropy of each row of logits.

    Parameters
    ----------
    logits, axis, ignore_index, class_mask, softcap, temperature
        As in `cross_entropy`.
    targets : array of integers, shape of the logits without the axis

    Returns
    -------
    LogProbs
        (log_prob, entropy), in nats: arrays in the shape of the targets, float64 for float64 logits, else float32. Both
        are 0 for a row that is ignored.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`, and if targets are not class indices.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import log_probs
    >>> log_prob, entropy = log_probs(jnp.array([[0.3, 2.9, 4.0], [0.0, 0.0, 0.0]]), jnp.array([2, 0]))
    >>> print(log_prob, entropy)
    [-0.3057145 -1.0986123] [0.64280725 1.0986123 ]
    """
    logits = as_array("logits", logits)
    asked, others = request_log_probs(logits.shape, logits.dtype, targets, axis, options)
    return LogProbs(*of_logits(asked, logits, others))


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axes = -1, where: ArrayLike | None = None
) -> Array:
    """Return the cross-entropy of each row between distributions and the softmax of logits, as optax's function does.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    labels : array of float or bool, shape of the logits or broadcast to it
        One-hot or other distributions. A class with probability 0 adds nothing to the loss, even if its logit is -inf.
    axis : int, tuple of int or None, default -1
        The axis of the classes, or several axes that together hold one distribution. None means all axes.
    where : array of bool, shape of the logits (or broadcast to it) or of the result, optional
        True for the logits, or the rows, that count. The loss of a row in which nothing counts is 0.

    Returns
    -------
    array, shape of the logits without the axes
        float64 for float64 logits, else float32.

    Raises
    ------
    ValueError, TypeError
        If an argument makes no sense.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import softmax_cross_entropy
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> print(softmax_cross_entropy(logits, jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))
    [0.2761297 2.951799 ]
    """
    logits, labels = as_array("logits", logits), as_array("labels", labels)
    if labels.dtype != bool and not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"labels must be distributions, which are float or bool, got {labels.dtype}; for class indices use "
            "softmax_cross_entropy_with_integer_labels"
        )
    return _losses(logits, broadcast("labels", labels, logits.shape), axis, where)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, where: ArrayLike | None = None
) -> Array:
    """Return the cross-entropy of each row between class indices and the softmax of logits, as optax's function does.

    Parameters
    ----------
    logits, where
        As in `softmax_cross_entropy`. The logit of each label must count, otherwise the loss is inf.
    labels : array of integers, shape of the logits without the axes
        Class indices. With several axes of classes, they index the flattened axes.
    axis : int or tuple of int, default -1
        The axis of the classes, or several axes that together hold one distribution.

    Returns
    -------
    array, shape of the labels
        float64 for float64 logits, else float32.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import softmax_cross_entropy_with_integer_labels
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> print(softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])))
    [0.2761297 2.951799 ]
    """
    labels = as_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels must be class indices, which are integers, got {labels.dtype}; for distributions use "
            "softmax_cross_entropy"
        )
    return _losses(as_array("logits", logits), labels, axis, where)


def _losses(logits: Array, labels: Array, axes: Axes, where: ArrayLike | None) -> Array:
    along = axes_of(axes, logits)
    z, axis = joined(logits, along), along[0] if len(along) == 1 else -1
    targets = joined(labels, along) if labels.ndim == logits.ndim else labels
    if where is None:
        return _cross_entropy(z, targets, axis, {"reduction": "none"})
    mask = joined(mask_of(where, logits.shape, along), along)
    if targets.ndim == z.ndim:
        targets = jnp.where(mask, targets, 0)
    some = {"reduction": "none", "sample_weight": jnp.any(mask, axis=axis)}
    asked, (targets, arrays) = request(z.shape, z.dtype, targets, axis, some)
    return reduced(of_logits(asked, z, (targets, arrays | {"class_mask": mask})), some)


def softmax(logits: ArrayLike, axis: Axes = -1, where: ArrayLike | None = None, *, temperature: float = 1.0) -> Array:
    """Return the softmax over one axis or several, as `jax.nn.softmax` does.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    axis : int, tuple of int or None, default -1
        The axis of the classes, or several axes. None means all axes.
    where : array of bool, shape of the logits or broadcast to it, optional
        True for the logits that count. The others get probability 0.
    temperature : float, default 1.0
        The logits are divided by it.

    Returns
    -------
    array of the shape and dtype of the logits
        A row that holds NaN or inf, or nothing but -inf, is NaN.

    Raises
    ------
    ValueError, TypeError
        If an argument makes no sense.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import softmax
    >>> print(softmax(jnp.array([0.0, 0.0, -jnp.inf])))
    [0.5 0.5 0. ]
    """
    return _softmax(array.softmax, logits, axis, where, temperature)


def log_softmax(
    logits: ArrayLike, axis: Axes = -1, where: ArrayLike | None = None, *, temperature: float = 1.0
) -> Array:
    """Return the logarithms of the softmax. Entries near 0 keep all their digits.

    Parameters
    ----------
    logits, axis, where, temperature
        As in `softmax`; logits that do not count get -inf.

    Returns
    -------
    array of the shape and dtype of the logits
        A row that holds NaN or inf, or nothing but -inf, is NaN.

    Raises
    ------
    ValueError, TypeError
        As `softmax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from softmaxloss.jax import log_softmax
    >>> print(log_softmax(jnp.array([0.0, -40.0])))
    [-4.248354e-18 -4.000000e+01]
    """
    return _softmax(array.log_softmax, logits, axis, where, temperature)


def _softmax(
    function: Callable[..., Array], logits: ArrayLike, axes: Axes, where: ArrayLike | None, temperature: float
) -> Array:
    static(temperature=temperature)
    z = as_array("logits", logits)
    along = axes_of(axes, z)
    mask = None if where is None else mask_of(where, z.shape)
    result: Array = _softmax_over(function, z, along, mask, checks.temperature(temperature))
    return result


@partial(jax.jit, static_argnums=(0, 2, 4))
def _softmax_over(
    function: Callable[..., Array], logits: Array, along: tuple[int, ...], mask: Array | None, temperature: float
) -> Array:
    z = joined(logits if mask is None else jnp.where(mask, logits, -jnp.inf), along)
    result = function(z, axis=along[0] if len(along) == 1 else -1, temperature=temperature, xp=jnp)
    result = parted(result, along, logits.shape)
    return result if mask is None else jnp.where(mask, result, 0.0 if function is array.softmax else -jnp.inf)
