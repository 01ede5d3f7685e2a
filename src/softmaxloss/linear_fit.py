"""Minimise the mean loss of a linear layer plus an L2 penalty: L-BFGS in coordinates that suit the data.

L-BFGS alone is slow, or stops far from the minimum, if features differ in scale, have large means or are correlated. So
it runs in rounds. Each round measures the curvature at its start, and changes to coordinates in which the curvature is
about 1 in every direction (with very many features, on average). In these coordinates half the squared length of the
gradient estimates objective - minimum. The excess is this estimate, divided by the objective. A round ends when the
excess has fallen enough, and the fit stops when it is at most `tol`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, optimize, sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.moments import Float64s, Moments
    from softmaxloss.objective import Objective

NOTHING = 1e-16  # nats; an objective below this counts as perfect, for example if all samples are of one class
ROUND = 1e-4  # a round ends when the excess has fallen by this factor
SINGLE = 1e-7  # down to this excess single precision is enough


class Coordinates:
    """Coordinates of steps from a point (coef, intercept), in which the curvature there is about 1 in every direction.

    Features are centred if there is an intercept. Then they are whitened, with rows weighted by the curvature of their
    loss. If there are more than MAX_WHITENED features, they are only scaled. With two classes and whitening, minus the
    gradient is the step of Newton's method.
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
        self.scaling: Any = None
        if whiten:
            covariance = covariance + penalty * np.eye(n_features)
            collinear = 10 * n_features * eps  # added to the diagonal, so that a singular matrix has a root too
            matrix = scale[:, np.newaxis] * covariance * scale + collinear * np.eye(n_features)
            with suppress(linalg.LinAlgError):  # rounding may leave a matrix that has no root
                root = linalg.cholesky(matrix, lower=True)
                self.scaling = scale[:, np.newaxis] * linalg.inv(root).T
        if self.scaling is None:
            self.scaling = sparse.diags_array(scale)

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
        self.start = coef, intercept
        self.fit_intercept = fit_intercept
        self.n_iter = 0
        self.excess = np.inf  # the estimate of (objective - minimum) / objective
        self.tol = 0.0  # the excess that is small enough
        self.moments_at_start: Moments | None = None
        self.stopped = False  # by a StopIteration of `report`

    def run(self, tol: float, max_iter: int) -> None:
        """Descend until the excess is at most `tol`, progress stalls, `max_iter` is reached, or `report` stops it."""
        self.tol, best = tol, np.inf
        fine, coarse = self.objective, self.objective.in_single()
        while True:
            self.objective, self.unit = fine, 1.0
            self.coordinates = Coordinates(fine, self.coef, self.intercept, fit_intercept=self.fit_intercept)
            self.moments_at_start = self.moments_at_start or self.coordinates.moments
            self.step = zero = np.zeros(self.coordinates.size)
            value, gradient = self._value_and_gradient(zero)
            self.unit = min(1.0, float(np.linalg.norm(gradient)))
            if best == np.inf:  # at the start
                self.report(self.n_iter, value)
            gained = value < (1 - np.finfo(fine.dtype).eps) * best
            if self.excess <= tol or self.n_iter >= max_iter or self.stopped or not (gained or coarse):
                self.value = value  # of the point reached, as are self.slopes
                return
            best, began, self.goal = value, self.excess, max(tol, ROUND * self.excess)
            if not gained or self.goal < SINGLE:
                coarse = None  # single precision cannot get nearer to the minimum
            self.objective = coarse or fine
            precision = np.finfo(self.objective.dtype).eps
            self.known = None if coarse else (value, self.unit * gradient)
            result = optimize.minimize(
                self._known_or_new,
                zero,
                jac=True,
                method="L-BFGS-B",
                callback=self._after_iteration,
                options={
                    "maxiter": max_iter - self.n_iter,
                    "maxfun": sys.maxsize,
                    # pairs of vectors: as many as fit in 0.5 GB, but from 10 to 30, and no more than iterations
                    "maxcor": min(int(np.clip(2**25 // zero.size, 10, 30)), max_iter - self.n_iter),
                    "ftol": 0.01 * precision * value,  # a smaller gain may well be rounding
                    "gtol": 0,
                },
            )
            self.coef, self.intercept = self.coordinates.point(self.unit * result.x)
            if began <= ROUND and self.excess <= tol and self.objective is fine:
                self.value = float(result.fun)  # near the minimum the curvature hardly changes
                return

    @property
    def converged(self) -> bool:
        """Whether the excess is small enough."""
        return self.excess <= self.tol

    def reached(self) -> tuple[Float64s, Float64s]:
        """Return coef and intercept after the latest iteration."""
        return self.coordinates.point(self.unit * self.step)

    def _value_and_gradient(self, step: Float64s) -> tuple[float, Float64s]:
        value, *self.slopes = self.objective(*self.coordinates.point(self.unit * step))
        gradient = self.coordinates.gradient(*self.slopes)
        self.excess = float(gradient @ gradient) / 2 / max(value, NOTHING)
        return value, self.unit * gradient

    def _known_or_new(self, step: Float64s) -> tuple[float, Float64s]:
        """Return value and gradient at a step. SciPy first asks for those at the start of a round.

        `run` has computed them already, unless they must be in single precision now: then `known` is None.
        """
        known, self.known = self.known, None
        return known or self._value_and_gradient(step)

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
