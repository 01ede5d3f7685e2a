"""Learn from a stream of batches: minimise the loss of each batch, with a quadratic in place of the batches before it.

Each batch is kept only as its share in the mean loss of all samples seen so far. This mean loss becomes a quadratic
around the coefficients that the batch led to. The quadratic has the curvature that `linear_fit` uses: the moments of
the features, with rows weighted by the curvature of their loss. It is the same for all classes. Memory does not grow
with the stream, because nothing but the quadratic is kept.

L-BFGS finds the minimum. With very many features the quadratic ignores how they are correlated. Then dual coordinate
ascent is faster: it changes only the coefficients of a row's features at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from softmaxloss.kernels.dual_ascent import ascend
from softmaxloss.linear_fit import Descent
from softmaxloss.moments import Moments, moments_of
from softmaxloss.objective import Objective, penalty_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from softmaxloss.moments import Float64s

# A new sample counts this many times as much as an average earlier sample, because the earlier a quadratic was made,
# the worse were its coefficients. With very many features the factor is larger: then the quadratic ignores how features
# are correlated.
RECENCY, RECENCY_OF_MANY = 2.0, 4.0
ITERATIONS = 5  # of L-BFGS at most, on each batch but the first
# The share of the curvature that is measured where the iterations start. Where they end, a batch of one class has
# hardly any, because no sample is in doubt.
START = 0.05
TOLERANCE = 1e-5  # relative excess at which the iterations end: the noise of a batch is larger
VISITS = 2  # of each row of a batch, where features are very many


class Past(NamedTuple):
    """What is kept of the samples seen so far."""

    weight: float  # the total weight of all of them
    loss: float  # their mean loss, at the coefficients that were fitted to them
    penalty: float  # the factor of |coef|**2 / 2 beside this mean loss
    d_coef: Float64s  # the gradient of mean loss and penalty there: 0 where the minimum was reached
    d_intercept: Float64s
    moments: Moments  # of the features, with the weights of all samples scaled to a sum of 1
    fit_intercept: bool

    @classmethod
    def of(cls, objective: Objective, descent: Descent) -> Past:
        """Return what is kept of the samples of an objective, after a descent has ended."""
        start, end = descent.moments_at_start, descent.coordinates.moments
        moments = end if start is None else start.scaled(START).merge(end.scaled(1 - START))
        if moments.covariance.ndim == 1:
            moments = moments.about_zero()
        loss = descent.value - objective.penalty / 2 * float(np.vdot(descent.coef, descent.coef))
        d_coef, d_intercept = descent.slopes
        return cls(objective.weight, loss, objective.penalty, d_coef, d_intercept, moments, descent.fit_intercept)

    def among(self, features: NDArray[np.intp] | None, n_features: int) -> Past:
        """Return the same for more features, given where these ones are among them: samples have no values of others.

        None stands for all features.
        """
        if features is None:
            return self
        total, _, curvature = self.moments.about_zero()
        all_d_coef, all_curvature = np.zeros((len(self.d_coef), n_features)), np.zeros(n_features)
        all_d_coef[:, features], all_curvature[features] = self.d_coef, curvature
        return self._replace(d_coef=all_d_coef, moments=Moments(total, np.zeros(n_features), all_curvature))

    @property
    def has_many_features(self) -> bool:
        """Whether the quadratic treats each feature by itself, without correlations."""
        return self.moments.covariance.ndim == 1


class Learned(NamedTuple):
    """What a stream has taught so far."""

    coef: Float64s
    intercept: Float64s
    past: Past


class _Update(Objective):
    """The objective of a batch and of the past."""

    def __init__(self, batch: Objective, learned: Learned, C: float) -> None:  # noqa: N803  scikit-learn's name
        self.batch, self.dtype = batch, batch.dtype
        self.coef, self.intercept, self.past = learned
        past = self.past
        recency = RECENCY_OF_MANY if past.has_many_features else RECENCY
        self.weight = past.weight + batch.weight
        self.penalty = penalty_of(C, self.weight)
        self.share = recency * batch.weight / (past.weight + recency * batch.weight)

    def mean_loss(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the mean loss and its gradients."""
        loss, d_coef, d_intercept = self.batch.mean_loss(coef, intercept)
        step, intercept_step, past, kept = coef - self.coef, intercept - self.intercept, self.past, 1 - self.share
        rise, slope, intercept_slope = past.moments.quadratic(step, intercept_step)
        past_d_coef = past.d_coef - past.penalty * self.coef
        past_loss = past.loss + rise + float(np.vdot(past_d_coef, step) + past.d_intercept @ intercept_step)
        return (
            self.share * loss + kept * past_loss,
            self.share * d_coef + kept * (slope + past_d_coef),
            self.share * d_intercept + kept * (intercept_slope + past.d_intercept),
        )

    def moments(self, coef: Float64s, intercept: Float64s, *, centred: bool) -> Moments:
        """Return the moments of the features in batch and past."""
        many = self.past.has_many_features
        batch = self.batch.moments(coef, intercept, centred=centred and not many)
        batch = batch.about_zero() if many else batch
        return batch.scaled(self.share).merge(self.past.moments.scaled(1 - self.share))

    def in_single(self) -> None:
        """Return None: one batch is not worth a copy."""


def learn(
    learned: Learned,
    batch: Objective,
    *,
    C: float,  # noqa: N803  scikit-learn's name
    fit_intercept: bool,
    report: Callable[[int, float], object],
) -> Learned:
    """Return what is known after one more batch; `report` gets each iteration and its objective."""
    update = _Update(batch, learned, C)
    with np.errstate(all="ignore"):
        if learned.past.has_many_features and update.penalty > 0:  # it bounds features that are new to the stream
            return _visited(update, report)
        descent = Descent(update, learned.coef, learned.intercept, report, fit_intercept=fit_intercept)
        descent.run(TOLERANCE, ITERATIONS)
        return Learned(descent.coef, descent.intercept, Past.of(update, descent))


def _visited(update: _Update, report: Callable[[int, float], object]) -> Learned:
    """Return what is known after visits to the rows of a batch, one after the other.

    The quadratic must be without correlations. Then a visit reads and changes only the coefficients of the features
    that have a value in the row. It takes two visits to come near the minimum.
    """
    batch, past, penalty, share, kept = update.batch, update.past, update.penalty, update.share, 1 - update.share
    X = sparse.csr_array(batch.features, dtype=np.float64, copy=True)  # noqa: N806  scikit-learn's name
    X.sum_duplicates()
    steepness = np.append(kept * past.moments.covariance + penalty, kept * past.moments.total * past.fit_intercept)
    inverse = np.divide(1, steepness, out=np.zeros_like(steepness), where=steepness > 0)
    # begin where quadratic and penalty are least, and lay out the coefficients so that those of a feature are together
    by_feature = inverse[:-1, np.newaxis]
    coef = np.multiply(update.coef.T, 1 - by_feature * (penalty - kept * past.penalty), order="C")
    if past.d_coef.any():
        coef -= kept * by_feature * past.d_coef.T
    intercept = update.intercept - kept * inverse[-1] * past.d_intercept
    dual, seen = np.zeros((batch.n_rows, len(intercept))), np.empty((VISITS, 2, batch.n_rows))
    places, scratch = [array.astype(np.intp) for array in (X.indptr, X.indices)], np.empty((5, batch.n_classes))
    for of_visit in seen:  # losses and curvatures
        ascend(*places, X.data, batch.rows.fields(), share, coef, intercept, inverse, dual, *of_visit, scratch)
    loss = share * float(seen[-1, 0].sum()) + kept * past.loss
    report(1, loss + penalty / 2 * float(np.vdot(coef, coef)))
    moments = moments_of(X, batch.weighted(seen[0, 1]), centred=False).scaled(share).merge(past.moments.scaled(kept))
    d_coef, d_intercept = np.zeros(()), np.zeros_like(intercept)
    return Learned(
        coef.T, intercept, Past(update.weight, loss, penalty, d_coef, d_intercept, moments, past.fit_intercept)
    )
