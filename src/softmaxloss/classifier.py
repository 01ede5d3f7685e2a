# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""Multinomial logistic regression as a scikit-learn estimator, fitted by L-BFGS on the fused linear layer and loss.

The file has over 300 lines because the estimator is one class, whose docstring lists all parameters and attributes.
"""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from softmaxloss.functional import log_softmax, softmax
from softmaxloss.linear_fit import Descent, Objective, all_classes, refuse_too_large, scores
from softmaxloss.moments import Float64s, chunks

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]

FEATURES: dict[str, Any] = {"dtype": [np.float64, np.float32], "accept_sparse": "csr"}
CLOSE_ENOUGH = 1e-6  # a fit that the precision of the data stopped gives no warning below this relative excess


class SoftmaxClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear classifier with softmax and cross-entropy; it minimises what scikit-learn's LogisticRegression does.

    It minimises ``C * sum_i w_i * loss_i + |coef|**2 / 2`` with L-BFGS. ``w_i`` is the weight of the sample, and
    ``loss_i`` the cross-entropy, with class weights, of the logits ``coef @ x_i + intercept`` (with two classes ``[0,
    coef @ x_i + intercept]``, one row of coefficients); the intercept is not penalised. The fit converges without
    scaled features. The penalty depends on their units, though, so scaling usually gives a better classifier. Sparse
    features stay sparse. The samples x classes array of logits is never held in one piece, neither in `fit` nor in
    `predict`.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the losses against the penalty, above 0; smaller means stronger regularisation, and infinity none.
    fit_intercept : bool, default=True
        Whether to fit intercepts; if not, they are 0.
    max_iter : int, default=1000
        Largest number of iterations of L-BFGS.
    tol : float, default=1e-6
        Relative excess over the minimum at which the fit stops, as estimated from gradient and curvature. For float32
        data it is at least 1.2e-8, a tenth of their machine epsilon. With more than 1,024 features the estimate is
        rougher, and the excess may be a hundred times as large.
    class_weight : dict of {class: weight}, "balanced" or None, default=None
        "balanced" gives every class the same total weight. Class weights multiply the targets, after label smoothing.
    label_smoothing : float, default=0.0
        Share of each target, from 0 to 1, that is spread evenly over all classes.
    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the previous fit instead of zeros.
    random_state : int, RandomState instance or None, default=None
        Not used: fitting is deterministic. It exists because scikit-learn's tools set it.
    verbose : int, default=0
        Above 0, print the objective at the start and after each iteration.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        float32 if the data are, else float64.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
        Of the dtype of `coef_`.
    loss_curve_ : list of float
        The objective divided by ``C * sum_i w_i`` (nats per unit of weight): at the start, then after each iteration.
    n_iter_ : int
        Iterations of L-BFGS.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (D,)
        Names of the features, if the data had any.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softmaxloss import SoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> round(SoftmaxClassifier().fit(X, y).score(X, y), 3)
    0.973
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-6,
        class_weight: dict[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        callback: Callable[[int, float], object] | None = None,
    ) -> Self:
        """Fit coefficients and intercepts.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            float32 data are used as they are, all else becomes float64. Squares of the values must not overflow.
        y : array_like of shape (n_samples,), or floats of shape (n_samples, n_classes)
            Labels of any kind, of at least two classes. Or soft labels: column k is the share of class k in each
            sample.
        sample_weight : array_like of shape (n_samples,) or float, optional
            Not negative; a sample of weight 2 counts as two samples.
        callback : callable, optional
            Called as ``callback(iteration, objective)`` after each iteration, counted from 1. `objective` is the new
            entry of `loss_curve_`. The estimator can already predict, with the coefficients of this iteration. The
            callback may raise StopIteration to end the fit there; other exceptions reach the caller.

        Returns
        -------
        SoftmaxClassifier
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data are not as described.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations, or the precision of the data, did not suffice to reach `tol`.
        """
        before = vars(self).copy()
        self._check_parameters()
        soft = is_soft(y)
        X, y = validate_data(self, X, y, multi_output=soft, **FEATURES)
        refuse_too_large(X)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if soft:
            classes, targets = np.arange(y.shape[1]), y.astype(np.float64, copy=False)
        else:
            check_classification_targets(y)
            classes, targets = np.unique(y, return_inverse=True)
        counts = sample_weight @ targets if soft else np.bincount(targets, sample_weight)
        objective = Objective(
            X,
            targets,
            sample_weight=sample_weight,
            class_weight=self._weight_of(classes, counts),
            label_smoothing=self.label_smoothing,
            C=self.C,
        )
        return self._minimise(objective, classes, callback, before)

    def _weight_of(self, classes: Array, counts: Array) -> Float64s:
        """Return the class weights, given the total weight of the samples of each class."""
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {classes[0]!r}")
        if self.class_weight == "balanced":
            balanced: Float64s = counts.sum() / (len(classes) * np.where(counts > 0, counts, np.inf))
            return balanced
        return compute_class_weight(self.class_weight, classes=classes, y=classes)  # type: ignore[no-any-return]

    def _minimise(
        self,
        objective: Objective,
        classes: Array,
        callback: Callable[[int, float], object] | None,
        before: dict[str, Any],
    ) -> Self:
        """Minimise an objective, and keep what it leads to; after an exception, be as before the fit."""
        loss_curve = []

        def report(iteration: int, value: float) -> None:
            loss_curve.append(value)
            if self.verbose:
                print(f"iteration {iteration:4d}  objective {value:.10g}")  # noqa: T201
            if callback is not None and iteration > 0:
                keep()
                callback(iteration, value)

        def keep() -> None:
            self.classes_ = classes
            with np.errstate(all="ignore"):
                self.coef_, self.intercept_ = (array.astype(objective.dtype) for array in descent.reached())

        start = self._start(classes, self.n_features_in_)
        descent = Descent(objective, *start, report, fit_intercept=self.fit_intercept)
        tol = max(self.tol, 0.1 * np.finfo(objective.dtype).eps)
        try:
            with np.errstate(all="ignore"):
                descent.run(tol, self.max_iter)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        finally:
            del descent.report  # it refers to `descent`: together they would keep the data until garbage is collected
        if descent.excess > tol and not descent.stopped:
            self._warn(descent, objective.dtype)
        keep()
        self.n_iter_ = descent.n_iter
        self.loss_curve_ = loss_curve
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the logits.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            With two classes the logit of the second minus that of the first.
        """
        logits = scores(self._validated(X), self.coef_, self.intercept_)
        return logits[:, 0] if len(self.coef_) == 1 else logits

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Entries of `classes_`; the first of equally probable ones.
        """
        X = self._validated(X)
        best = np.empty(X.shape[0], dtype=np.intp)
        for rows in chunks(X.shape[0], len(self.classes_)):
            best[rows] = self._logits(X[rows]).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        logits = self._logits(self._validated(X))
        return softmax(logits, out=logits)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`; finite where `predict_proba` has become 0.
        """
        logits = self._logits(self._validated(X))
        return log_softmax(logits, out=logits)

    def _validated(self, X: Any) -> Array:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, **FEATURES)  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _logits(self, X: Array) -> Array:
        return scores(X, *all_classes(self.coef_, self.intercept_))

    def _check_parameters(self) -> None:
        def number(value: object, kind: type = Real) -> Any:
            return value if isinstance(value, kind) and not isinstance(value, bool) else np.nan

        weights_fit = (
            self.class_weight is None or isinstance(self.class_weight, dict) or self.class_weight == "balanced"
        )
        for name, fits, expected in (
            ("C", number(self.C) > 0, "a positive number"),
            ("fit_intercept", isinstance(self.fit_intercept, bool | np.bool_), "True or False"),
            ("max_iter", number(self.max_iter, Integral) >= 1, "an integer of at least 1"),
            ("tol", number(self.tol) >= 0, "a number of at least 0"),
            ("class_weight", weights_fit, 'a dict, "balanced" or None'),
            ("label_smoothing", 0 <= number(self.label_smoothing) <= 1, "a number from 0 to 1"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")
        if isinstance(self.class_weight, dict):
            faulty = {label: weight for label, weight in self.class_weight.items() if not 0 <= number(weight) < np.inf}
            if faulty:
                raise ValueError(f"class_weight must be a finite number of at least 0 for each class, got {faulty!r}")

    def _warn(self, descent: Descent, dtype: np.dtype[Any]) -> None:
        """Say what kept the fit from the minimum, if that matters, and what helps."""
        if descent.n_iter >= self.max_iter:
            limit, remedy = f"after max_iter={self.max_iter} iterations", ", or raise max_iter"
        elif descent.excess > CLOSE_ENOUGH:
            limit, remedy = f"at the precision of {dtype}", ", or use float64" if dtype == np.float32 else ""
        else:
            return
        warnings.warn(
            f"stopped {limit}, with the objective still about {descent.excess:.0e} of itself above its minimum "
            f"(tol={self.tol}): standardise the features, lower C{remedy}",
            ConvergenceWarning,
            stacklevel=4,
        )

    def _start(self, classes: Array, n_features: int) -> tuple[Float64s, Float64s]:
        """Return the coefficients and intercepts to start from."""
        n_rows = 1 if len(classes) == 2 else len(classes)
        if not (self.warm_start and hasattr(self, "coef_")):
            return np.zeros((n_rows, n_features)), np.zeros(n_rows)
        if not np.array_equal(classes, self.classes_) or self.coef_.shape[1] != n_features:
            raise ValueError(
                f"warm_start=True needs the classes and features of the previous fit: got {len(classes)} classes and "
                f"{n_features} features, expected {len(self.classes_)} (the same) and {self.coef_.shape[1]}"
            )
        return self.coef_.astype(np.float64), self.intercept_.astype(np.float64) * bool(self.fit_intercept)


def is_soft(y: Any) -> bool:
    """Return whether y holds soft labels, a number for each class."""
    if getattr(y, "ndim", 2) != 2:
        return False
    try:
        array = np.asarray(y)
    except (TypeError, ValueError):
        return False
    return array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f"
