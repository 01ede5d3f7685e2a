# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""Multinomial logistic regression as a scikit-learn estimator, fitted by L-BFGS on the fused linear layer and loss.

The file has over 300 lines because the estimator is one class, and half of its lines are documentation.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from softmaxloss.blas_threads import one_blas_thread
from softmaxloss.class_labels import classes_of_stream, is_soft, positions
from softmaxloss.core.checks import refuse_masked, shown
from softmaxloss.fit_callbacks import CallbackSupportMixin, Iterations, Validation, with_callbacks
from softmaxloss.functional import log_softmax, softmax
from softmaxloss.linear_fit import Descent
from softmaxloss.moments import Float64s, chunks
from softmaxloss.objective import (
    SHARED_COEFFICIENTS,
    Objective,
    Samples,
    all_classes,
    refuse_too_large,
    scores,
)
from softmaxloss.stream_fit import begin, learn
from softmaxloss.stream_past import Learned, Part, Past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Array = NDArray[Any]

FEATURES: dict[str, Any] = {"dtype": [np.float64, np.float32], "accept_sparse": "csr"}
# From 1.9 on scikit-learn refuses weights that are all 0. Here `fit` refuses them itself, and partial_fit takes them.
_MAY_BE_0 = {name: True for name in signature(_check_sample_weight).parameters if name == "allow_all_zero_weights"}
# If the precision of the data stopped a fit, it warns only if (objective - minimum) / objective is above this.
CLOSE_ENOUGH = 1e-6


class SoftmaxClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear classifier with softmax and cross-entropy; the objective is that of scikit-learn's LogisticRegression.

    It minimises ``C * sum_i w_i * loss_i + |coef|**2 / 2`` with L-BFGS. ``w_i`` is the weight of sample i. ``loss_i``
    is the cross-entropy, with class weights, of the logits ``coef @ x_i + intercept``. With two classes there is one
    row of coefficients, and the logits are ``[0, coef @ x_i + intercept]``. The intercept is not penalised. The fit
    converges even if features are not scaled. But the penalty depends on the units of the features, so scaling usually
    gives a better classifier. Sparse features stay sparse. Neither `fit` nor `predict` stores the logits of all
    samples at once.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the losses relative to the penalty, above 0. A smaller C is a stronger penalty; infinity means none.
    fit_intercept : bool, default=True
        Whether to fit intercepts; if not, they are 0.
    max_iter : int, default=1000
        Largest number of iterations of L-BFGS.
    tol : float, default=1e-6
        The fit stops when (objective - minimum) / objective is at most `tol`. The difference is estimated from gradient
        and curvature. For float32 data `tol` is at least 1.2e-8, a tenth of their machine epsilon. With more than 1,024
        features the estimate is rougher, and the true value may be a hundred times as large as `tol`. `partial_fit`
        stops at 1e-4 for a first batch of more than 1,024 sparse features. For later batches it stops at 1e-5, or after
        five iterations.
    class_weight : dict of {class: weight}, "balanced" or None, default=None
        "balanced" gives every class the same total weight. Class weights multiply the targets, after label smoothing.
    label_smoothing : float, default=0.0
        Share of each target, from 0 to 1, that is spread evenly over all classes.
    early_stopping : bool, default=False
        Whether `fit` holds back a part of the samples, and stops when the loss on them no longer falls. The
        coefficients are then those with the lowest loss on that part. Both parts are copies, except of features in a
        memory-mapped file.
    validation_fraction : float, default=0.1
        Fraction of the samples, between 0 and 1, that early stopping holds back. It is the same fraction of the samples
        of each class. But samples are drawn without regard to their class if labels are soft, if a class has a single
        sample, or if a part would have fewer samples than there are classes.
    n_iter_no_change : int, default=5
        Early stopping stops when the loss has not become lower for this number of iterations.
    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the previous fit instead of zeros.
    random_state : int, RandomState instance or None, default=None
        Decides which samples early stopping holds back. Nothing else depends on it.
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
        Iterations of L-BFGS. If `partial_fit` uses dual coordinate ascent, all its visits to a batch count as one
        iteration.
    validation_curve_ : list of float
        With early stopping, the mean loss on the samples held back, after each iteration.
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

    classes_: Array
    coef_: Array
    intercept_: Array
    loss_curve_: list[float]
    n_iter_: int
    _past: Past | None  # None before the first batch with a weight above 0

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-6,
        class_weight: dict[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
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
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
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
            float32 data stay float32; all other types become float64. Squares of the values must not overflow.
        y : array_like of shape (n_samples,), or floats of shape (n_samples, n_classes)
            Labels of any kind, of at least two classes. Or soft labels: column k holds the share of class k in each
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
            If `max_iter` iterations did not suffice to reach `tol`. Or if the precision of the data did not suffice,
            and (objective - minimum) / objective is above 1e-6.
        """
        self._check_parameters()
        tasks = Iterations.of(self, X=X, y=y, metadata={"sample_weight": sample_weight})
        with self._as_before_if_it_fails():
            X, y, sample_weight = self._samples(X, y, sample_weight, reset=True)
            if y.ndim == 2:
                classes, targets = np.arange(y.shape[1]), y
            else:
                classes, targets = np.unique(y, return_inverse=True)
            train, held_back = Samples(X, targets, sample_weight), None
            class_weight = self._weight_of(classes, train.weight_of_each(classes))
            if self.early_stopping:
                train, held_back = self._split(train)
            validation = held_back and Validation(self, self._objective(held_back, class_weight), self.n_iter_no_change)
            with _blas_threads_for(X, classes):
                self._minimise(self._objective(train, class_weight), classes, callback, tasks, validation=validation)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from one more batch of a stream.

        The coefficients come near those that `fit` would find for all samples since the first call. After a `fit`, its
        samples count as the first batch. Of a long stream, most samples are not kept. Instead, a quadratic function of
        the coefficients approximates their loss. With at most 1,024 features, up to 2,048 samples are kept as they are:
        those of which the model is least sure. If the model is unsure of many more samples, none is kept. So memory
        does not grow with the stream. A pickle of the estimator contains the kept samples.

        With more than 1,024 features and a finite C, later batches are learned by dual coordinate ascent, one sample
        after the other. A sparse first batch with so many features begins with it. During the call, one float64 is
        stored for each sample and class of the batch.

        Batches of a few hundred samples or more work best. To go k times through the same data, give each sample the
        weight 1 / k. Otherwise each sample counts k times, and the penalty is too weak. A batch whose weights are all 0
        changes nothing. If such a batch is the first, all coefficients are 0.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            As in `fit`.
        y : array_like of shape (n_samples,), or floats of shape (n_samples, n_classes)
            As in `fit`; a batch need not have all classes.
        classes : array_like of shape (n_classes,), optional
            All labels of the stream. The first call needs them, unless `fit` was called or labels are soft.
        sample_weight : array_like of shape (n_samples,) or float, optional
            As in `fit`.

        Returns
        -------
        SoftmaxClassifier
            The estimator itself. `loss_curve_` and `n_iter_` continue from the previous call. The objective in the
            curve is an estimate for all samples so far.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data are not as described, or do not fit earlier batches.
        """
        self._check_parameters()
        for name, value in (("class_weight", "balanced"), ("early_stopping", True)):
            if getattr(self, name) == value:
                raise ValueError(
                    f"{name}={value!r} needs all samples at once, but partial_fit gets one batch; call fit, or set "
                    f"another {name}"
                )
        past, fitted = getattr(self, "_past", None), hasattr(self, "coef_")
        if fitted and not hasattr(self, "_past"):
            raise ValueError(
                "partial_fit cannot continue a fit that stopped early, or a model from a file; call fit, or start "
                "with a clone of the estimator"
            )
        if past and past.fit_intercept != self.fit_intercept:
            raise ValueError(
                f"fit_intercept must stay {past.fit_intercept} in partial_fit, got {self.fit_intercept}; to change it, "
                "start with a clone of the estimator"
            )
        with self._as_before_if_it_fails():
            X, y, sample_weight = self._samples(X, y, sample_weight, reset=not fitted)
            known = classes_of_stream(y, classes, self.classes_ if fitted else None)
            samples = Samples(X, positions(y, known), sample_weight)
            class_weight = self._weight_of(known, np.ones(len(known)))
            if not samples.weight_of_each(known) @ class_weight > 0:
                if not fitted:
                    self._begin(known, X.dtype)
                return self
            objective = self._objective(samples, class_weight)
            if not past:
                with _blas_threads_for(X, known):
                    self._minimise(objective, known, stream=True)
                return self
            loss_curve, dtype = list(self.loss_curve_), self.coef_.dtype
            with _blas_threads_for(X, known):
                coef, intercept = (array.astype(np.float64, copy=False) for array in (self.coef_, self.intercept_))
                learned = learn(
                    Learned(coef, intercept, past),
                    objective,
                    C=self.C,
                    fit_intercept=self.fit_intercept,
                    report=self._reporter(loss_curve, self.n_iter_),
                )
            coef, intercept, self._past = learned
            self.coef_, self.intercept_ = coef.astype(dtype, copy=False), intercept.astype(dtype, copy=False)
            self.loss_curve_, self.n_iter_ = loss_curve, len(loss_curve) - 1
        return self

    def _begin(self, classes: Array, dtype: np.dtype[Any]) -> None:
        """Store the attributes of a stream before its first sample with a weight above 0."""
        self.classes_, self._past, self.loss_curve_, self.n_iter_ = classes, None, [], 0
        self.coef_, self.intercept_ = (array.astype(dtype) for array in self._start(classes, self.n_features_in_))

    @contextmanager
    def _as_before_if_it_fails(self) -> Iterator[None]:
        """Undo all changes to the estimator if an exception ends the block."""
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _samples(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, Array, Float64s]:
        """Return checked features, labels or soft labels, and weights."""
        for name, value in (("X", X), ("y", y), ("sample_weight", sample_weight)):
            refuse_masked(name, value)
        soft = is_soft(y)
        X, y = validate_data(self, X, y, multi_output=soft, reset=reset, **FEATURES)
        refuse_too_large(X)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True, **_MAY_BE_0)
        if soft:
            return X, y.astype(np.float64, copy=False), sample_weight
        check_classification_targets(y)
        return X, y, sample_weight

    def _objective(self, samples: Samples, class_weight: Float64s) -> Objective:
        return Objective(
            samples.X,
            samples.targets,
            sample_weight=samples.weight,
            class_weight=class_weight,
            label_smoothing=self.label_smoothing,
            C=self.C,
        )

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Return the samples to fit, and those that early stopping holds back."""
        labels = samples.targets
        n_rows, counts = len(labels), np.bincount(labels) if labels.ndim == 1 else np.zeros(1)
        n_held_back = int(np.ceil(self.validation_fraction * n_rows))
        each_class_in_both = counts.min() >= 2 and len(counts) <= min(n_held_back, n_rows - n_held_back)
        parts = train_test_split(
            np.arange(n_rows),
            test_size=n_held_back,
            stratify=labels if each_class_in_both else None,
            random_state=self.random_state,
        )
        train, held_back = map(samples.part, parts)
        return train, held_back

    def _weight_of(self, classes: Array, counts: Array) -> Float64s:
        """Return the class weights, given the total weight of the samples of each class."""
        if len(classes) < 2:
            raise ValueError(
                f"y must hold at least two classes, got one class, {classes.tolist()[0]!r}; pass samples of another "
                "class too"
            )
        if self.class_weight == "balanced":
            balanced: Float64s = counts.sum() / (len(classes) * np.where(counts > 0, counts, np.inf))
            return balanced
        return compute_class_weight(self.class_weight, classes=classes, y=classes)  # type: ignore[no-any-return]

    def _minimise(
        self,
        objective: Objective,
        classes: Array,
        callback: Callable[[int, float], object] | None = None,
        tasks: Iterations | None = None,
        *,
        validation: Validation | None = None,
        stream: bool = False,
    ) -> None:
        """Minimise an objective and store the result.

        If there are very many sparse features, those that are 0 in all samples are left out of the iterations. Their
        coefficients change no loss. So the penalty makes them 0; without a penalty they stay as they are.
        """
        coef, intercept = self._start(classes, self.n_features_in_)
        features = objective.features_with_values()
        if features is not None:
            if self.warm_start:  # else they are 0 already
                coef[:, np.delete(np.arange(coef.shape[1]), features)] *= objective.penalty == 0
            objective = objective.of_features(features)
        observers = [observer for observer in (tasks, callback, validation) if observer]
        loss_curve: list[float] = []
        tell = self._reporter(loss_curve)

        def report(iteration: int, value: float) -> None:
            tell(iteration, value)
            if observers and iteration > 0:
                keep()
                for observer in observers:
                    observer(iteration, value)

        def keep() -> None:
            self.classes_ = classes
            part, self.intercept_ = (array.astype(objective.dtype) for array in descent.reached())
            self.coef_ = part if features is None else coef.astype(objective.dtype)
            if features is not None:
                self.coef_[:, features] = part

        start = coef if features is None else coef[:, features]
        descent = Descent(objective, start, intercept, report, fit_intercept=self.fit_intercept)
        tol = max(self.tol, 0.1 * np.finfo(objective.dtype).eps)
        try:
            with np.errstate(all="ignore"), tasks.watched() if tasks else nullcontext():
                tol = max(tol, begin(descent)) if stream else tol
                descent.run(tol, self.max_iter)
                keep()
        finally:
            del descent.report  # it makes a reference cycle, which would keep the data until garbage is collected
        self.n_iter_, self.loss_curve_ = descent.n_iter, loss_curve
        with np.errstate(all="ignore"):
            past = Past.of(objective, descent)
            past = past.remembering([Part(objective, 1.0)], descent) if stream and features is None else past
            self._past = past.among(features, self.n_features_in_)
        self.__dict__.pop("validation_curve_", None)
        if validation:
            self.validation_curve_ = validation.curve
            self.coef_, self.intercept_ = validation.best or (self.coef_, self.intercept_)
            del self._past  # it approximates the loss around other coefficients
        if not descent.converged and not descent.stopped:
            self._warn(descent, objective.dtype)

    def _reporter(self, loss_curve: list[float], before: int | None = None) -> Callable[[int, float], None]:
        """Return a function that extends a loss curve, and prints if `verbose`; `before` counts past iterations."""

        def report(iteration: int, value: float) -> None:
            if before is not None and not iteration:
                return
            loss_curve.append(value)
            if self.verbose:
                print(f"iteration {(before or 0) + iteration:4d}  objective {value:.10g}")  # noqa: T201

        return report

    def decision_function(self, X: Any) -> Array:
        """Return the logits.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            With two classes: the logit of the second class minus that of the first.
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
            Entries of `classes_`. Of equally probable classes it is the first.
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
            Columns in the order of `classes_`. They are finite even where `predict_proba` is rounded to 0.
        """
        logits = self._logits(self._validated(X))
        return log_softmax(logits, out=logits)

    def _validated(self, X: Any) -> Array:
        check_is_fitted(self)
        refuse_masked("X", X)
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
            ("early_stopping", isinstance(self.early_stopping, bool | np.bool_), "True or False"),
            ("validation_fraction", 0 < number(self.validation_fraction) < 1, "a number between 0 and 1"),
            ("n_iter_no_change", number(self.n_iter_no_change, Integral) >= 1, "an integer of at least 1"),
            ("label_smoothing", 0 <= number(self.label_smoothing) <= 1, "a number from 0 to 1"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")
        if isinstance(self.class_weight, dict):
            faulty = {label: weight for label, weight in self.class_weight.items() if not 0 <= number(weight) < np.inf}
            if faulty:
                raise ValueError(f"class_weight must be a finite number of at least 0 for each class, got {faulty!r}")

    def _warn(self, descent: Descent, dtype: np.dtype[Any]) -> None:
        """Warn that the fit stopped before `tol`, with the cause and a remedy, unless it is close enough."""
        if descent.n_iter >= self.max_iter:
            limit, remedy = f"stopped after max_iter={self.max_iter} iterations", ", or raise max_iter"
        elif descent.excess > CLOSE_ENOUGH:
            limit = f"stopped at the precision of {dtype}"
            remedy = ", or pass X as float64" if dtype == np.float32 else ""
        else:
            return
        warnings.warn(
            f"the fit {limit}: the objective is about {descent.excess:.0e} (relative) above its minimum, more than "
            f"tol={self.tol}; standardise the features, lower C{remedy}",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _start(self, classes: Array, n_features: int) -> tuple[Float64s, Float64s]:
        """Return the coefficients and intercepts to start from."""
        n_rows = 1 if len(classes) == 2 else len(classes)
        if not (self.warm_start and hasattr(self, "coef_")):
            return np.zeros((n_rows, n_features)), np.zeros(n_rows)
        if not np.array_equal(classes, self.classes_) or self.coef_.shape[1] != n_features:
            raise ValueError(
                f"warm_start=True needs the classes and features of the previous fit, {shown(self.classes_.tolist())} "
                f"and {self.coef_.shape[1]} features, got {shown(classes.tolist())} and {n_features} features; set "
                "warm_start=False"
            )
        return self.coef_.astype(np.float64), self.intercept_.astype(np.float64) * bool(self.fit_intercept)


def _blas_threads_for(X: Any, classes: Array) -> AbstractContextManager[None]:
    """Return a context in which BLAS uses one thread, if threads of ours share the rows."""
    return one_blas_thread if X.shape[1] * len(classes) <= SHARED_COEFFICIENTS else nullcontext()
