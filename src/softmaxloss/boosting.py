"""Softmax with loss for gradient-boosted trees: an objective and a metric for XGBoost and LightGBM.

Neither library is imported here: they call the objective with arrays, or with a data set that has `get_label` and
`get_weight`. The file has over 300 lines, because half of them are the documentation of its three names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from softmaxloss.core import checks, rowwise, target_checks
from softmaxloss.core.options import checked_numbers, request
from softmaxloss.core.rows import ALL_CLASSES, ONE
from softmaxloss.functional import cross_entropy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["SoftmaxMetric", "SoftmaxObjective", "start_scores"]

Library = Literal["xgboost", "lightgbm"]
SMALLEST_HESSIAN = 1e-16  # the lower bound in multi:softprob of XGBoost
SMALLEST_SLOPE = 1e-30  # if p has a smaller factor than this in the gradient, the Hessian counts as 0
SMALLEST_SHARE = 1e-15  # the lower bound in LightGBM's multiclass


class _SoftmaxLoss:
    """The common part of objective and metric: their options, and the reading of the arguments of a call."""

    def __init__(
        self,
        library: Library,
        *,
        label_smoothing: float = 0.0,
        class_weight: ArrayLike | None = None,
        temperature: float = 1.0,
        soft_labels: ArrayLike | None = None,
    ) -> None:
        if library not in {"xgboost", "lightgbm"}:
            raise ValueError(f'library must be "xgboost" or "lightgbm", got {library!r}')
        checked_numbers(label_smoothing=label_smoothing, temperature=temperature)
        self.library = library
        self.options: Any = {
            "label_smoothing": label_smoothing,
            "class_weight": class_weight,
            "temperature": temperature,
        }
        self.soft_labels = None if soft_labels is None else _soft("soft_labels", soft_labels)

    def _arguments(self, first: Any, second: Any, sample_weight: ArrayLike | None) -> tuple[Array, Array, int, Any]:
        """Return scores, targets, the axis of the classes and the options, for `request`.

        The native functions pass (scores, data set), the scikit-learn estimators (labels, scores, weights).
        """
        if hasattr(second, "get_label"):
            scores, labels, sample_weight = first, second.get_label(), second.get_weight()
        else:
            scores, labels = second, first
        if scores.ndim != 2:
            raise ValueError(
                f"scores must have shape (rows, classes), got shape {scores.shape}; set num_class to the number of "
                "classes, or for two classes use the library's own binary objective"
            )
        if self.soft_labels is not None and self.soft_labels.shape != scores.shape:
            raise ValueError(
                f"soft_labels must have one row for each row of the data and one column for each class, shape "
                f"{scores.shape}, got shape {self.soft_labels.shape}; for other data make another objective or metric"
            )
        rows, n_classes = scores.shape[:1], scores.shape[1]
        weight = None
        if sample_weight is not None and np.size(sample_weight) > 0:
            weight = checks.sample_weight(sample_weight, rows)
        if self.soft_labels is not None:
            targets = self.soft_labels
            _check_shares("soft_labels", targets, weight)
        elif np.shape(labels) == rows:
            targets = _indices(labels, n_classes, weight)
        else:
            raise ValueError(
                f"labels must have one class number for each row, shape {rows}, got shape {np.shape(labels)}; pass "
                "distributions as soft_labels"
            )
        options = self.options | {"sample_weight": weight}
        if scores.flags.f_contiguous and not scores.flags.c_contiguous:  # LightGBM's order
            return scores.T, targets.T, 0, options
        return scores, targets, 1, options


class SoftmaxObjective(_SoftmaxLoss):
    """Gradient and diagonal of the Hessian of softmax with loss, as an objective of XGBoost or LightGBM.

    Pass it as ``obj`` to ``xgboost.train``, as ``params["objective"]`` to ``lightgbm.train``, or as ``objective`` to
    ``XGBClassifier`` or ``LGBMClassifier``. In the symbols of `cross_entropy`, it returns for each row

        gradient_j = w * (mass * p_j - q_j) / temperature
        hessian_j  = hessian_factor * w * mass * p_j * (1 - p_j) / temperature**2

    with mass = sum_j q_j. Without options, the trees are the same as with the library's own multi-class
    objective.

    Parameters
    ----------
    library : {"xgboost", "lightgbm"}
        The library that will call the objective.
    label_smoothing, class_weight, temperature
        As in `cross_entropy`. Probabilities are ``softmax(scores, temperature=temperature)``.
    soft_labels : array_like, shape (rows, classes), optional
        The target distribution of each row of the training data, in place of its label.
    hessian_factor : float, optional
        Positive. The default is that of the library's own objective: 2 for XGBoost, classes / (classes - 1) for
        LightGBM. With 1 the diagonal of the Hessian is exact, and steps are larger, as with a larger learning rate.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; labels, weights and soft labels are checked when the objective is called.

    Notes
    -----
    Row weights come from the data set. For XGBoost, every entry of the Hessian is at least 1e-16, as in XGBoost's own
    objective.

    References
    ----------
    Friedman, Greedy function approximation: a gradient boosting machine, Annals of Statistics 29 (2001).

    Examples
    --------
    >>> import numpy as np
    >>> from softmaxloss.boosting import SoftmaxObjective
    >>> objective = SoftmaxObjective("xgboost", label_smoothing=0.1)
    >>> gradient, hessian = objective(np.array([2]), np.array([[0.3, 2.9, 4.0]]))
    >>> gradient.round(3), hessian.round(3)
    (array([[-0.015,  0.212, -0.197]]), array([[0.036, 0.37 , 0.388]]))
    """

    def __init__(
        self,
        library: Library,
        *,
        label_smoothing: float = 0.0,
        class_weight: ArrayLike | None = None,
        temperature: float = 1.0,
        soft_labels: ArrayLike | None = None,
        hessian_factor: float | None = None,
    ) -> None:
        super().__init__(
            library,
            label_smoothing=label_smoothing,
            class_weight=class_weight,
            temperature=temperature,
            soft_labels=soft_labels,
        )
        self.hessian_factor = None if hessian_factor is None else checks.positive("hessian_factor", hessian_factor)

    def __call__(self, first: Any, second: Any, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
        """Return gradient and Hessian, given (scores, data set), or (labels, scores, weights) by an estimator."""
        scores, targets, axis, options = self._arguments(first, second, sample_weight)
        z, layout, rows, _ = request(scores, targets, axis, options | {"reduction": "sum"})
        gradient = np.empty_like(z)
        rowwise.losses_and_gradients(z, rows, ONE, gradient, layout)
        # hessian_diagonal keeps the digits of 1 - p, but takes 15 times as long; sums over a leaf do not need them
        with np.errstate(all="ignore"):
            total = np.expand_dims(rows.weight * rows.mass, axis).astype(z.dtype)
            # for labels without smoothing, the gradient is p, or p - 1 at the label: p (1 - p) is the same of both
            if rows.dense is None and rows.floor == 0:
                p = np.abs(gradient)
                t = rows.temperature  # gradients of rows with a far smaller weight may have lost digits
                p *= np.divide(t, total, out=np.zeros_like(total), where=total > SMALLEST_SLOPE * t)
            else:
                p = np.empty_like(z)
                rowwise.softmax(z, rows, p, layout)
            hessian = 1 - p
            hessian *= p
            hessian *= self._factor(layout.n_classes) / rows.temperature**2 * total
            # p may be rounded to more than 1, which would make the Hessian negative
            np.maximum(hessian, SMALLEST_HESSIAN if self.library == "xgboost" else 0.0, out=hessian)
        return (gradient.T, hessian.T) if axis == 0 else (gradient, hessian)

    def _factor(self, n_classes: int) -> float:
        if self.hessian_factor is not None:
            return self.hessian_factor
        return 2.0 if self.library == "xgboost" else n_classes / max(n_classes - 1, 1)


class SoftmaxMetric(_SoftmaxLoss):
    """The mean cross-entropy, as a metric of XGBoost or LightGBM for models that `SoftmaxObjective` trains.

    Pass it as ``custom_metric`` to ``xgboost.train``, as ``feval`` to ``lightgbm.train``, or as ``eval_metric`` to
    ``XGBClassifier`` or to ``LGBMClassifier.fit``. It expects raw scores, which both libraries pass only if
    the objective is custom, too. Its name in their output is "cross_entropy", and lower is better.

    Parameters
    ----------
    library, label_smoothing, class_weight, temperature, soft_labels
        As in `SoftmaxObjective`. Soft labels are those of the data that the metric is computed on.

    Raises
    ------
    TypeError, ValueError
        As `SoftmaxObjective`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmaxloss.boosting import SoftmaxMetric
    >>> name, loss, higher_is_better = SoftmaxMetric("lightgbm")(np.array([2]), np.array([[0.3, 2.9, 4.0]]))
    >>> name, round(loss, 3), higher_is_better
    ('cross_entropy', 0.306, False)
    """

    __name__ = "cross_entropy"  # XGBClassifier reads this name

    def __call__(self, first: Any, second: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Return (name, value, is higher better) for LightGBM, (name, value) for XGBoost, value for XGBClassifier."""
        scores, targets, axis, options = self._arguments(first, second, sample_weight)
        loss = float(cross_entropy(scores, targets, axis=axis, **options))
        if self.library == "lightgbm":
            return self.__name__, loss, False
        return (self.__name__, loss) if hasattr(second, "get_label") else loss


def start_scores(labels: ArrayLike, n_classes: int, *, sample_weight: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the scores that boosting starts from: the logarithm of the share of each class.

    The libraries start from these scores with their own objectives, but not with custom ones. Pass them to XGBoost as
    ``params["base_score"] = scores.tolist()``, and to LightGBM as the ``init_score`` of each row.

    Parameters
    ----------
    labels : array_like, shape (rows,) or (rows, classes)
        Class numbers, or soft labels.
    n_classes : int
        The number of classes.
    sample_weight : array_like, shape (rows,), optional
        Weights of the rows.

    Returns
    -------
    array, shape (classes,)
        A share below 1e-15 counts as 1e-15, as in LightGBM.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or if no row has a weight above 0.

    Examples
    --------
    >>> from softmaxloss.boosting import start_scores
    >>> start_scores([0, 0, 2, 1], 3).round(3)
    array([-0.693, -1.386, -1.386])
    """
    given = checks.as_array("labels", labels)
    n_classes = checks.count("n_classes", n_classes)
    if given.ndim != 1 and (given.ndim != 2 or given.shape[1] != n_classes):
        raise ValueError(f"labels must have shape (rows,) or (rows, {n_classes}), got {checks.of_shape(given)}")
    weight = np.ones(len(given)) if sample_weight is None else checks.sample_weight(sample_weight, given.shape[:1])
    totals: Array
    if given.ndim == 1:
        totals = np.bincount(_indices(given, n_classes, weight), weight, minlength=n_classes)
    else:
        shares = _soft("labels", given)
        _check_shares("labels", shares, weight)
        totals = weight @ np.where(weight[:, np.newaxis] == 0, 0, shares)
    if not totals.sum() > 0:
        raise ValueError("labels must have a row with a weight above 0, got none; pass rows, and weights above 0")
    scores: NDArray[np.float64] = np.log(np.maximum(totals / totals.sum(), SMALLEST_SHARE))
    return scores


def _soft(name: str, value: ArrayLike) -> Array:
    array = checks.as_array(name, value)
    array = array.astype(float) if array.dtype.kind in "biu" else checks.floats(name, array)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (rows, classes), got {checks.of_shape(array)}")
    return array


def _check_shares(name: str, shares: Array, weight: Array | None) -> None:
    """Refuse shares that are negative, NaN or infinite, except in rows of weight 0."""
    wrong: Array = np.any(~np.isfinite(shares) | (shares < 0), axis=1)
    if weight is not None:
        wrong &= weight != 0
    target_checks.soft_targets(shares, wrong, ALL_CLASSES, 1, name)


def _indices(labels: Any, n_classes: int, weight: Array | None) -> NDArray[np.int64]:
    """Return class numbers, which data sets store as floats, as integers. In rows of weight 0 they become 0."""
    given = checks.numbers("labels", labels)
    with np.errstate(invalid="ignore"):
        indices: NDArray[np.int64] = given.astype(np.int64)
    wrong = (indices != given) | (indices < 0) | (indices >= n_classes)
    if weight is not None:
        indices[weight == 0] = 0
        wrong &= weight != 0
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"labels must be class numbers from 0 to {n_classes - 1}, got {given[first]} at position {first}; count "
            "classes from 0, and set num_class or n_classes to the number of all classes"
        )
    return indices
