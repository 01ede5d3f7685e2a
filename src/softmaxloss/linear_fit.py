"""Minimise the mean loss of a linear layer plus an L2 penalty: L-BFGS in coordinates that suit the data.

L-BFGS alone is slow, or stops far from the minimum, if features differ in scale, have large means or are correlated. So
it runs in rounds. Each round measures the curvature at its start, and changes to coordinates in which that is about 1
in every direction (with very many features, on average). The round ends when the excess over the minimum has fallen
enough. In these coordinates half the squared length of the gradient estimates the excess. The fit stops by this
estimate.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse

from softmaxloss.core.checks import is_sparse
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import describe
from softmaxloss.core.threads import for_each, results_of_each
from softmaxloss.functional import softmax
from softmaxloss.head import linear_cross_entropy_and_grad
from softmaxloss.moments import Float64s, Moments, chunks, moments_of, parts

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]

NOTHING = 1e-16  # nats; below this objective the fit is perfect, such as where all samples are of one class
ROUND = 1e-4  # a round ends when the excess has fallen by this factor
MANY_CLASSES = 64  # from here on single precision saves more time than the copy of the features costs
# Threads take parts of the rows if there are at most so many coefficients, with products on one BLAS thread: see
# `one_blas_thread`. Else BLAS uses its threads.
SHARED_COEFFICIENTS = 2**18
SINGLE = 1e-7  # the relative excess down to which single precision is enough


def scores(features: Array, coef: Array, intercept: Array) -> Array:
    """Return features @ coef.T + intercept."""
    with np.errstate(all="ignore"):
        result: Array = features @ coef.T
        result += intercept
    return result


def all_classes(coef: Array, intercept: Array) -> tuple[Array, Array]:
    """Return one row per class. A single row is that of the second class; the first class gets zeros."""
    if len(coef) > 1:
        return coef, intercept
    return np.vstack([np.zeros_like(coef), coef]), np.hstack([np.zeros_like(intercept), intercept])


def refuse_too_large(X: Any) -> None:  # noqa: N803  scikit-learn's name
    """Raise ValueError if features are so large that their covariance in `Coordinates` might overflow."""
    values = X.data if is_sparse(X) else X
    largest, limit = max(values.max(initial=0.0), -values.min(initial=0.0)), np.sqrt(np.finfo(X.dtype).max) / 2
    if largest > limit:
        raise ValueError(
            f"X must hold values small enough to square, at most {limit:.3g} for {X.dtype}, got {largest:.3g}; "
            "standardise the features"
        )


def penalty_of(C: float, total_weight: float) -> float:  # noqa: N803  scikit-learn's name
    """Return the factor of |coef|**2 / 2 beside a mean loss."""
    if total_weight <= 0:
        raise ValueError(
            "sample_weight times class_weight must be above 0 for some sample, got only 0; raise the weight of a class "
            "or of samples"
        )
    return 1 / (C * total_weight)


class Objective:
    """Mean loss + penalty / 2 * |coef|**2 with its gradient; coef has one row per class, or one for two classes.

    Features are dense, or sparse in CSR format. Targets are class indices, or distributions of shape (rows, classes).
    The mean's divisor is the total weight, or `normalizer`, such as the total weight of more rows than these.
    """

    def __init__(
        self,
        features: Any,
        targets: Array,
        *,
        sample_weight: Float64s,
        class_weight: Float64s,
        label_smoothing: float,
        C: float,  # noqa: N803  scikit-learn's name
        normalizer: float | None = None,
    ) -> None:
        self.features, self.targets, self.dtype = features, targets, features.dtype
        self.n_rows = features.shape[0]
        self.options: dict[str, Any] = {
            "sample_weight": sample_weight,
            "class_weight": class_weight,
            "label_smoothing": label_smoothing,
            "normalizer": normalizer,
        }
        rows, reduction = describe(targets, layout_of((len(targets), len(class_weight))), **self.options)
        self.weight = reduction.divisor
        self.penalty = penalty_of(C, self.weight)
        self.row_weight: Float64s = rows.each().weight * rows.mass

    def __call__(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the value, and the gradients with respect to coef and intercept."""
        loss, d_coef, d_intercept = self.mean_loss(coef, intercept)
        return loss + self.penalty / 2 * float(np.vdot(coef, coef)), d_coef + self.penalty * coef, d_intercept

    def mean_loss(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the mean loss and its gradients."""
        weight, bias = (a.astype(self.dtype) for a in all_classes(coef, intercept))
        shared = weight.size <= SHARED_COEFFICIENTS and not is_sparse(self.features)  # a part of sparse rows is a copy
        found = results_of_each(
            lambda rows: linear_cross_entropy_and_grad(
                rows.features, weight, rows.targets, bias, wrt=("weight", "bias"), **rows.options
            ),
            [self._part(part) for part in parts(self.n_rows, weight.size)] if shared else [self],
        )
        loss, zero = sum(float(loss) for loss, _ in found), np.zeros((), self.dtype)
        d_weight, d_bias = (sum((cast("Array", d[i]) for _, d in found), zero) for i in (1, 2))
        return loss, d_weight[-len(coef) :], d_bias[-len(coef) :].astype(np.float64)

    def _part(self, rows: slice) -> Objective:
        """Return this objective with the losses of some rows alone."""
        part, weights = copy(self), {"sample_weight": self.options["sample_weight"][rows], "normalizer": self.weight}
        part.features, part.targets, part.options = self.features[rows], self.targets[rows], self.options | weights
        return part

    def row_curvature(self, coef: Float64s, intercept: Float64s) -> Float64s:
        """Return for each row the second derivative of its loss with respect to a logit: the mean over the classes."""
        weight, bias = (a.astype(self.dtype) for a in all_classes(coef, intercept))
        curvature = np.empty(self.n_rows)

        def fill(rows: slice) -> None:
            logits = scores(self.features[rows], weight, bias)
            p = softmax(logits, out=logits)
            curvature[rows] = np.einsum("ij,ij->i", p, 1 - p)

        for_each(fill, list(chunks(self.n_rows, len(weight))))
        # of K directions one changes nothing, so K - 1 count; with two classes and one row of coef it is p_0 * p_1
        curvature /= max(len(weight) - 1, 2)
        np.maximum(curvature, np.finfo(self.dtype).eps, out=curvature)
        return self.row_weight * curvature

    def moments(self, coef: Float64s, intercept: Float64s, *, centred: bool) -> Moments:
        """Return the moments of the features, with rows weighted by their curvature."""
        return moments_of(self.features, self.row_curvature(coef, intercept), centred=centred)

    def of_features(self, features: NDArray[np.intp]) -> Objective:
        """Return this objective as a function of the coefficients of some features, all others being 0."""
        part = copy(self)
        part.features = self.features[:, features]
        return part

    def in_single(self) -> Objective | None:
        """Return this objective in single precision, on centred features; None if that would not be faster.

        Features in a mapped file may be larger than memory: they are not copied.
        """
        n_classes = len(self.options["class_weight"])
        in_memory = isinstance(self.features, np.ndarray) and not _is_mapped(self.features)
        gains = in_memory and self.dtype == np.float64 and n_classes >= MANY_CLASSES
        return _Single(self) if gains else None


def _is_mapped(array: Any) -> bool:
    """Return whether an array is, or is a view of, a file that is mapped to memory."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


class _Single(Objective):
    def __init__(self, objective: Objective) -> None:
        self.__dict__.update(vars(objective))
        self.center = self.features.mean(axis=0)
        self.features = (self.features - self.center).astype(np.float32)
        self.dtype = self.features.dtype

    def __call__(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        value, d_coef, d_intercept = super().__call__(coef, intercept + coef @ self.center)
        return value, d_coef + np.outer(d_intercept, self.center), d_intercept


class Coordinates:
    """Steps from a point (coef, intercept) in units in which the curvature there is about 1 in every direction.

    Features are centred if there is an intercept, and whitened, with rows weighted by their curvature. More than
    MAX_WHITENED features are only scaled. With two classes and whitening, a step along the negative gradient is
    Newton's.
    """

    def __init__(
        self, objective: Objective, coef: Float64s, intercept: Float64s, *, fit_intercept: bool = True
    ) -> None:
        self.coef, self.intercept, self.fit_intercept = coef, intercept, fit_intercept
        n_features, penalty, eps = coef.shape[1], objective.penalty, np.finfo(objective.dtype).eps
        self.moments = objective.moments(coef, intercept, centred=fit_intercept)
        total, self.center, covariance = self.moments
        self.intercept_scale = 1 / np.sqrt(total)
        whiten = covariance.ndim == 2
        variance = covariance.diagonal() if whiten else covariance
        # without a penalty, a feature that varies only by rounding keeps its coefficients
        varies = variance > (10 * eps * self.center) ** 2 * total
        scale = np.zeros(n_features)
        np.divide(1, np.sqrt(variance + penalty), out=scale, where=varies | (penalty > 0))
        self.scaling: Any = sparse.diags_array(scale)
        if whiten:
            covariance = covariance + penalty * np.eye(n_features)
            collinear = 10 * n_features * eps  # lets a singular matrix have a root
            matrix = scale[:, np.newaxis] * covariance * scale + collinear * np.eye(n_features)
            with suppress(linalg.LinAlgError):  # rounding may leave a matrix that has no root
                root = linalg.cholesky(matrix, lower=True)
                self.scaling = scale[:, np.newaxis] * linalg.inv(root).T

    def point(self, step: Float64s) -> tuple[Float64s, Float64s]:
        """Return coef and intercept after a step."""
        by_class = step.reshape(len(self.coef), -1)
        d_coef = by_class[:, self.fit_intercept :] @ self.scaling.T
        if not self.fit_intercept:
            return self.coef + d_coef, self.intercept
        d_intercept = self.intercept_scale * by_class[:, 0] - d_coef @ self.center
        return self.coef + d_coef, self.intercept + d_intercept

    def gradient(self, d_coef: Float64s, d_intercept: Float64s) -> Float64s:
        """Return the gradient with respect to the step."""
        if not self.fit_intercept:
            return np.ravel(d_coef @ self.scaling)
        by_step = (d_coef - np.outer(d_intercept, self.center)) @ self.scaling
        return np.column_stack([self.intercept_scale * d_intercept, by_step]).ravel()

    @property
    def size(self) -> int:
        """The length of a step."""
        return self.coef.size + len(self.intercept) * self.fit_intercept


class Descent:
    """The state of a minimisation: its objective, the point that it has reached, and the estimated excess."""

    def __init__(
        self,
        objective: Objective,
        coef: Float64s,
        intercept: Float64s,
        report: Callable[[int, float], object],
        *,
        fit_intercept: bool = True,
    ) -> None:
        self.objective, self.coef, self.intercept, self.report = objective, coef, intercept, report
        self.fit_intercept = fit_intercept
        self.n_iter = 0
        self.excess = np.inf  # how far the objective is above its minimum, relative to itself, as estimated
        self.moments_at_start: Moments | None = None
        self.stopped = False  # by a StopIteration of `report`

    def run(self, tol: float, max_iter: int) -> None:
        """Descend until the excess is at most `tol`, progress stalls, `max_iter` is reached, or `report` stops it."""
        best = np.inf
        fine, coarse = self.objective, self.objective.in_single()
        while True:
            self.objective, self.unit = fine, 1.0
            self.coordinates = Coordinates(fine, self.coef, self.intercept, fit_intercept=self.fit_intercept)
            self.moments_at_start = self.moments_at_start or self.coordinates.moments
            self.step = zero = np.zeros(self.coordinates.size)
            value, gradient = self._value_and_gradient(zero)
            self.unit = min(1.0, float(np.linalg.norm(gradient)))
            if self.n_iter == 0:
                self.report(0, value)
            gained = value < (1 - np.finfo(fine.dtype).eps) * best
            if self.excess <= tol or self.n_iter >= max_iter or self.stopped or not (gained or coarse):
                self.value = value  # and so is self.slopes of the point reached
                return
            best, self.goal = value, max(tol, ROUND * self.excess)
            if not gained or self.goal < SINGLE:
                coarse = None  # single precision has done what it can
            self.objective = coarse or fine
            precision = np.finfo(self.objective.dtype).eps
            result = optimize.minimize(
                self._value_and_gradient,
                zero,
                jac=True,
                method="L-BFGS-B",
                callback=self._after_iteration,
                options={
                    "maxiter": max_iter - self.n_iter,
                    "maxfun": sys.maxsize,
                    # pairs of vectors: as many as 0.5 GB hold, from 10 to 30, and no more than iterations
                    "maxcor": min(int(np.clip(2**25 // zero.size, 10, 30)), max_iter - self.n_iter),
                    "ftol": 0.01 * precision * value,  # a smaller gain may well be rounding
                    "gtol": 0,
                },
            )
            self.coef, self.intercept = self.coordinates.point(self.unit * result.x)

    def reached(self) -> tuple[Float64s, Float64s]:
        """Return coef and intercept after the latest iteration."""
        return self.coordinates.point(self.unit * self.step)

    def _value_and_gradient(self, step: Float64s) -> tuple[float, Float64s]:
        value, *self.slopes = self.objective(*self.coordinates.point(self.unit * step))
        gradient = self.coordinates.gradient(*self.slopes)
        self.excess = float(gradient @ gradient) / 2 / max(value, NOTHING)
        return value, self.unit * gradient

    def _after_iteration(self, intermediate_result: optimize.OptimizeResult) -> None:
        self.n_iter += 1
        self.step = intermediate_result.x
        try:
            self.report(self.n_iter, float(intermediate_result.fun))
        except StopIteration:
            self.stopped = True
            raise
        if self.excess <= self.goal:
            raise StopIteration
