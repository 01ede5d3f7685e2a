"""What a stream keeps of earlier batches: a quadratic function of the coefficients, and some of the samples.

The quadratic approximates the loss of all samples that are not kept, near the latest coefficients. As in `linear_fit`,
one matrix approximates the second derivatives for every class: the second moments of the features. The weight of a row
in them is called its curvature. It is the second derivative of the row's loss with respect to a logit (the mean over
the logits, see `Objective.weighted`), times the weight of the row. The curvature of earlier rows is not measured again.

Where the curvature is large, the classifier is unsure of the class. Then a small change of the coefficients changes the
curvature a lot. So a quadratic approximates such a loss badly. Therefore up to `REMEMBERED` samples are kept as they
are: those of the largest curvature. But if these few have less than the share `MOST` of the curvature of all samples,
none is kept, because they would hardly matter. Short streams keep samples. So do long ones whose classes are easy to
tell apart: then the classifier is unsure of few samples.
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

# After L-BFGS, the curvature of a row is START times that where the iterations started, plus 1 - START times that where
# they ended. If it were measured only where they ended, a batch of one class would add almost no curvature: the model
# is then sure of every sample.
START = 0.05
REMEMBERED = 2048
MOST = 0.8


class Part(NamedTuple):
    """The objective of some samples, and how much their mean loss counts in the mean loss of all samples."""

    objective: Objective
    share: float

    def curvature(self, coef: Float64s, intercept: Float64s) -> Float64s:
        """Return the curvature of each sample in the mean loss of all samples."""
        return self.share * self.objective.row_curvature(coef, intercept)

    def samples(self, rows: NDArray[np.bool]) -> Samples:
        """Return some of the samples, with dense features, and with their weights in the mean loss of all samples."""
        features, weight = self.objective.features[rows], self.objective.rows.each().weight[rows]
        dense = features.toarray() if is_sparse(features) else np.asarray(features)
        return Samples(dense, self.objective.targets[rows], self.share * weight)


class Past(NamedTuple):
    """What is kept of the samples seen so far."""

    weight: float  # the total weight of all of them
    # The mean loss at the latest coefficients, less the share of the kept samples; an estimate with many features.
    loss: float
    penalty: float  # the factor of |coef|**2 / 2 that is added to the mean loss
    # The gradient of mean loss and penalty there, less the share of the kept samples. With many features it is one 0 if
    # the minimum was reached.
    d_coef: Float64s
    d_intercept: Float64s
    moments: Moments  # of the features of samples that are not kept; see the top of this file
    fit_intercept: bool
    samples: Samples | None = None  # the kept samples; each weight is a fraction of `weight`

    @classmethod
    def of(cls, objective: Objective, descent: Descent) -> Past:
        """Return a quadratic for all samples of an objective, after a descent has ended. No sample is kept yet."""
        start, end = descent.moments_at_start, descent.coordinates.moments
        moments = end if start is None else start.scaled(START).merge(end.scaled(1 - START))
        loss = descent.value - objective.penalty / 2 * float(np.vdot(descent.coef, descent.coef))
        d_coef, d_intercept = descent.slopes
        if moments.covariance.ndim == 1:
            moments, d_coef = moments.about_zero(), np.zeros(()) if descent.converged else d_coef
        return cls(objective.weight, loss, objective.penalty, d_coef, d_intercept, moments, descent.fit_intercept)

    def remembering(self, parts: list[Part], descent: Descent, older: Moments | None = None) -> Past:
        """Return this past, but keep samples of the parts if at most REMEMBERED of them have most of the curvature.

        `older` has the moments of the previous quadratic, scaled to its share of the mean loss. Its samples are gone.
        """
        if self.has_many_features:
            return self
        n_features = descent.coef.shape[1]
        moments = older or Moments(0.0, np.zeros(n_features), np.zeros((n_features, n_features)))
        about = descent.coordinates.moments.total  # of all samples, near the end of the descent
        if about - moments.total < MOST * about:
            return self
        of_parts = [part.curvature(descent.coef, descent.intercept) for part in parts]
        curvature = np.concatenate(of_parts)
        largest = np.argsort(-curvature, kind="stable")[:REMEMBERED]
        if curvature[largest].sum() < MOST * (moments.total + curvature.sum()):
            return self
        is_kept = np.zeros(len(curvature), bool)
        is_kept[largest] = curvature[largest] > 0
        rows_of_parts, kept = np.split(is_kept, np.cumsum([len(of_part) for of_part in of_parts])[:-1]), []
        for part, at_end, rows in zip(parts, of_parts, rows_of_parts, strict=True):
            kept.append(part.samples(rows))
            mixed = START * part.curvature(*descent.start) + (1 - START) * at_end
            others = np.where(rows, 0.0, mixed)
            moments = moments.merge(moments_of(part.objective.features, others, centred=self.fit_intercept))
        batch = parts[0].objective
        samples = _joined(kept, batch.n_classes)
        loss, d_coef, d_intercept = batch.of_samples(samples).mean_loss(descent.coef, descent.intercept)
        return self._replace(
            loss=self.loss - loss,
            d_coef=self.d_coef - d_coef,
            d_intercept=self.d_intercept - d_intercept,
            moments=moments,
            samples=samples,
        )

    def among(self, features: NDArray[np.intp] | None, n_features: int) -> Past:
        """Return this past for `n_features` features, of which it knows those at the places `features`.

        The others were 0 in every sample. None stands for all features. Correlations between features are dropped.
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


def _joined(kept: list[Samples], n_classes: int) -> Samples:
    """Return all these samples. If only some of them have soft labels, the others get soft labels, too."""
    X, targets, weight = zip(*kept, strict=True)  # noqa: N806  scikit-learn's name
    if len({labels.ndim for labels in targets}) > 1:
        classes = np.arange(n_classes)
        targets = tuple(y if y.ndim == 2 else (y[:, np.newaxis] == classes).astype(np.float64) for y in targets)
    return Samples(np.concatenate(X), np.concatenate(targets), np.concatenate(weight))
