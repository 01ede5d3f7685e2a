"""What a stream keeps of earlier batches: a quadratic function of the coefficients, and some of the samples.

The quadratic approximates the mean loss around the coefficients that the latest batch led to. It has the curvature that
`linear_fit` uses: the moments of the features, with rows weighted by the curvature of their loss. It is the same for
all classes.

A quadratic describes a loss badly whose curvature soon changes. So the samples of most curvature are kept as they are,
as long as these few samples have most of the curvature of all. This is so in short streams, and where classes are easy
to separate: then only few samples are in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from softmaxloss.core.checks import is_sparse
from softmaxloss.moments import Moments, moments_of
from softmaxloss.objective import Objective, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxloss.linear_fit import Descent
    from softmaxloss.moments import Float64s

# The share of the curvature that is measured where the iterations start. Where they end, a batch of one class has
# hardly any, because no sample is in doubt.
START = 0.05
REMEMBERED = 2048  # samples that are kept at most
MOST = 0.8  # the share of all curvature that these must have, else none is kept


class Part(NamedTuple):
    """Some samples, and how much their mean loss counts in the mean loss of all samples."""

    objective: Objective
    share: float


class Past(NamedTuple):
    """What is kept of the samples seen so far."""

    weight: float  # the total weight of all of them
    loss: float  # their mean loss, at the coefficients that were fitted to them
    penalty: float  # the factor of |coef|**2 / 2 beside this mean loss
    d_coef: Float64s  # the gradient of mean loss and penalty there: 0 where the minimum was reached
    d_intercept: Float64s
    moments: Moments  # of the features, with the weights of all samples scaled to a sum of 1
    fit_intercept: bool
    # Samples that are kept, with their weights scaled in the same way. Loss, gradient and moments above are without
    # them.
    samples: Samples | None = None

    @classmethod
    def of(cls, objective: Objective, descent: Descent) -> Past:
        """Return what is kept of the samples of an objective, after a descent has ended."""
        start, end = descent.moments_at_start, descent.coordinates.moments
        moments = end if start is None else start.scaled(START).merge(end.scaled(1 - START))
        loss = descent.value - objective.penalty / 2 * float(np.vdot(descent.coef, descent.coef))
        d_coef, d_intercept = descent.slopes
        if moments.covariance.ndim == 1:
            moments, d_coef = moments.about_zero(), np.zeros(()) if descent.converged else d_coef
        return cls(objective.weight, loss, objective.penalty, d_coef, d_intercept, moments, descent.fit_intercept)

    def remembering(self, parts: list[Part], descent: Descent, before: Moments | None = None) -> Past:
        """Return the same, with samples of some parts kept as they are, if few have most of the curvature.

        `before` has the moments of what is no part: a quadratic already.
        """
        if self.has_many_features:
            return self
        n_features, total = descent.coef.shape[1], descent.coordinates.moments.total
        moments = before or Moments(0.0, np.zeros(n_features), np.zeros((n_features, n_features)))
        if total - moments.total < MOST * total:
            return self
        curvature = [part.share * part.objective.row_curvature(descent.coef, descent.intercept) for part in parts]
        all_rows = np.concatenate(curvature)
        largest = np.argsort(-all_rows)[:REMEMBERED]
        if all_rows[largest].sum() < MOST * total:
            return self
        is_kept = np.zeros(len(all_rows), bool)
        is_kept[largest] = all_rows[largest] > 0
        kept = []
        for part, of_rows in zip(parts, curvature, strict=True):
            here, is_kept = is_kept[: len(of_rows)], is_kept[len(of_rows) :]
            kept.append(_scaled_samples(part, here))
            others = moments_of(part.objective.features[~here], of_rows[~here], centred=self.fit_intercept)
            moments = moments.merge(others)
        samples = _joined(kept, parts[0].objective.n_classes)
        loss, d_coef, d_intercept = parts[0].objective.of_samples(samples).mean_loss(descent.coef, descent.intercept)
        return self._replace(
            loss=self.loss - loss,
            d_coef=self.d_coef - d_coef,
            d_intercept=self.d_intercept - d_intercept,
            moments=moments,
            samples=samples,
        )

    def among(self, features: NDArray[np.intp] | None, n_features: int) -> Past:
        """Return the same for more features, given where these ones are among them: samples have no values of others.

        None stands for all features.
        """
        if features is None:
            return self
        total, _, curvature = self.moments.about_zero()
        all_d_coef, all_curvature = self.d_coef, np.zeros(n_features)
        all_curvature[features] = curvature
        if self.d_coef.ndim:
            all_d_coef = np.zeros((len(self.d_coef), n_features))
            all_d_coef[:, features] = self.d_coef
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


def _scaled_samples(part: Part, rows: NDArray[np.bool]) -> Samples:
    """Return some samples of a part, with dense features, and the weights that they have in the mean loss of all."""
    objective = part.objective
    features, weight = objective.features[rows], objective.options["sample_weight"][rows]
    dense = features.toarray() if is_sparse(features) else np.asarray(features)
    return Samples(dense, objective.targets[rows], part.share / objective.weight * weight)


def _joined(parts: list[Samples], n_classes: int) -> Samples:
    """Return the samples of all parts. If the labels of only some parts are soft, all get soft labels."""
    X, targets, weight = zip(*parts, strict=True)  # noqa: N806  scikit-learn's name
    if len({of_part.ndim for of_part in targets}) > 1:
        targets = tuple(np.eye(n_classes)[of_part] if of_part.ndim == 1 else of_part for of_part in targets)
    return Samples(np.concatenate(X), np.concatenate(targets), np.concatenate(weight))
