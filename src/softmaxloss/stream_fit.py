"""Learn from a stream. For each batch, minimise its loss, the penalty, and an approximation of the earlier loss.

The approximation, in `stream_past.py`, is a quadratic function and a few samples. Memory does not grow with the stream.

L-BFGS comes near the minimum in a few iterations. With more than `MAX_WHITENED` features the quadratic ignores how they
are correlated. Then, if there is a penalty, dual coordinate ascent takes the place of L-BFGS. It is faster: each of its
steps changes only the coefficients of the features in one row. It visits the rows in random order, in case they are
sorted by class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from softmaxloss.kernels.dual_ascent import ascend
from softmaxloss.linear_fit import Descent
from softmaxloss.moments import chunks, moments_of
from softmaxloss.objective import Objective, penalty_of
from softmaxloss.stream_past import START, Learned, Part, Past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from softmaxloss.moments import Float64s, Moments

# A new sample counts this many times as much as an average earlier sample, because an old quadratic was made around
# coefficients that were less good. With very many features the factor is larger: then the quadratic ignores how
# features are correlated. Kept samples count like the quadratic: in our tests this led nearer to the minimum.
RECENCY, RECENCY_OF_MANY = 2.0, 4.0
ITERATIONS = 5  # of L-BFGS at most, on each batch but the first
TOLERANCE = 1e-5  # relative excess at which the iterations end: the noise of a batch is larger
VISITS = 2  # to each row of a batch, where features are very many
VISITS_OF_FIRST = 8  # to each row of the first batch
TOLERANCE_OF_FIRST = 1e-4  # the relative excess at which L-BFGS ends, which comes after the visits to the first batch
# Along a feature, the loss of a row may be this many times as curved as the quadratic. With more, `ascend` would lose
# too many digits. Then the quadratic gets more curvature.
STEEPEST = 1e10


class _Update(Objective):
    """The objective of all samples so far: exact for the batch and for kept samples, a quadratic for the others."""

    def __init__(self, batch: Objective, learned: Learned, C: float) -> None:  # noqa: N803  scikit-learn's name
        self.batch, self.dtype = batch, batch.dtype
        self.coef, self.intercept, self.past = learned
        past = self.past
        recency = RECENCY_OF_MANY if past.has_many_features else RECENCY
        self.weight = past.weight + batch.weight
        self.penalty = penalty_of(C, self.weight)
        self.share = recency * batch.weight / (past.weight + recency * batch.weight)
        self.parts = [Part(batch, self.share)]
        if past.samples is not None:
            self.parts.append(Part(batch.of_samples(past.samples), 1 - self.share))

    def mean_loss(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the mean loss and its gradients."""
        step, intercept_step, past, rest = coef - self.coef, intercept - self.intercept, self.past, 1 - self.share
        rise, slope, intercept_slope = past.moments.quadratic(step, intercept_step)
        past_d_coef = past.d_coef - past.penalty * self.coef
        past_loss = past.loss + rise + float(np.vdot(past_d_coef, step) + past.d_intercept @ intercept_step)
        loss, d_coef = rest * past_loss, rest * (slope + past_d_coef)
        d_intercept = rest * (intercept_slope + past.d_intercept)
        for part, share in self.parts:
            loss_of_part, d_coef_of_part, d_intercept_of_part = part.mean_loss(coef, intercept)
            loss += share * loss_of_part
            d_coef += share * d_coef_of_part
            d_intercept += share * d_intercept_of_part
        return loss, d_coef, d_intercept

    @property
    def quadratic_moments(self) -> Moments:
        """The moments of the quadratic, scaled to the share of the past in this objective."""
        return self.past.moments.scaled(1 - self.share)

    def moments(self, coef: Float64s, intercept: Float64s, *, centred: bool) -> Moments:
        """Return the moments of the features in batch and past."""
        many, merged = self.past.has_many_features, self.quadratic_moments
        for part, share in self.parts:
            moments = part.moments(coef, intercept, centred=centred and not many)
            merged = (moments.about_zero() if many else moments).scaled(share).merge(merged)
        return merged

    def in_single(self) -> None:
        """Return None: for one batch, a copy in single precision does not pay."""


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
        if learned.past.has_many_features and update.penalty > 0:  # else nothing would bound new features
            return _visited(update, report)
        descent = Descent(update, learned.coef, learned.intercept, report, fit_intercept=fit_intercept)
        descent.run(TOLERANCE, ITERATIONS)
        past = Past.of(update, descent).remembering(update.parts, descent, update.quadratic_moments)
        return Learned(descent.coef, descent.intercept, past)


def begin(descent: Descent) -> float:
    """Bring the descent of a first batch near its minimum, and return the tolerance that is enough for this batch.

    Of a batch with very many sparse features it visits the rows. It does nothing with others. There is no quadratic
    yet, so the penalty alone holds the coefficients. Nothing holds the intercept. So each visit gets a new quadratic,
    around the intercept that the previous visit led to.
    """
    batch = descent.objective
    if not (batch.is_wide and batch.penalty > 0):
        return 0.0
    at_start = batch.weighted(np.full(batch.n_rows, 1 - 1 / batch.n_classes))
    descent.moments_at_start = moments_of(batch.features, at_start, centred=descent.fit_intercept)
    coef, intercept = np.zeros(descent.coef.shape[::-1]), np.zeros_like(descent.intercept)
    inverse = np.append(np.full(len(coef), 1 / batch.penalty), descent.fit_intercept / at_start.sum())
    X = _without_duplicates(batch.features)  # noqa: N806  scikit-learn's name
    random = np.random.default_rng(0)
    orders = (random.permutation(batch.n_rows) for _ in range(VISITS_OF_FIRST))
    for visit in _visits(orders, X, batch, scale=1.0, coef=coef, intercept=intercept, inverse=inverse):
        reached = intercept.copy()
        curvature = START * at_start + (1 - START) * batch.weighted(visit.curvatures)
        inverse[-1] = descent.fit_intercept / curvature.sum()
        intercept -= inverse[-1] * visit.dual.sum(axis=0)
    begun = float(batch.row_weight.sum() * np.log(batch.n_classes))  # the objective where all coefficients are 0
    ended = float(visit.losses.sum() + batch.penalty / 2 * np.vdot(coef, coef))
    if ended < begun:  # where features are very alike or differ much in scale, visits may lead away from the minimum
        descent.report(0, begun)
        descent.coef, descent.intercept, descent.n_iter = np.ascontiguousarray(coef.T), reached, 1
    return TOLERANCE_OF_FIRST


def _visited(update: _Update, report: Callable[[int, float], object]) -> Learned:
    """Return what is known after visits to the rows of a batch.

    The quadratic must be without correlations. Then a visit reads and changes only the coefficients of the features
    that have a value in the row. It takes two visits to come near the minimum.
    """
    batch, past, penalty, share, rest = update.batch, update.past, update.penalty, update.share, 1 - update.share
    X = _without_duplicates(batch.features)  # noqa: N806  scikit-learn's name
    steepness = np.append(rest * past.moments.covariance + penalty, rest * past.moments.total * past.fit_intercept)
    inverse = np.divide(1, steepness, out=np.zeros_like(steepness), where=steepness > 0)
    # begin where quadratic and penalty are least
    coef = update.coef * (1 - inverse[:-1] * (penalty - rest * past.penalty))
    if past.d_coef.any():
        coef -= rest * inverse[:-1] * past.d_coef
    intercept = update.intercept - rest * inverse[-1] * past.d_intercept
    features = batch.features_with_values()
    part: Any = slice(None) if features is None else features
    # lay out the coefficients so that those of a feature are together
    by_feature, inverse = np.ascontiguousarray(coef[:, part].T), np.append(inverse[:-1][part], inverse[-1])
    point = {"coef": by_feature, "intercept": intercept, "inverse": inverse}
    orders = [np.random.default_rng(0).permutation(batch.n_rows)] * VISITS  # a new order left more after one pass
    first, *_, last = _visits(orders, X[:, part], batch, scale=share, **point)
    coef[:, part] = by_feature.T
    loss = share * float(last.losses.sum()) + rest * past.loss
    report(1, loss + penalty / 2 * float(np.vdot(coef, coef)))
    moments = moments_of(X, batch.weighted(first.curvatures), centred=False).scaled(share)
    moments, nothing = moments.merge(past.moments.scaled(rest)), np.zeros(())
    past = Past(update.weight, loss, penalty, nothing, np.zeros_like(intercept), moments, past.fit_intercept)
    return Learned(coef, intercept, past)


class _Visit(NamedTuple):
    """What a visit to all rows of a batch found."""

    losses: Float64s  # of the rows, each before it was learned
    curvatures: Float64s  # the sums of p (1 - p) over classes, at the same time
    dual: Float64s  # the gradients of the losses with respect to the logits, as far as they are known


def _without_duplicates(features: Any) -> sparse.csr_array:
    """Return a copy of the features in float64 and CSR format, with at most one number for each row and feature."""
    X = sparse.csr_array(features, dtype=np.float64, copy=True)  # noqa: N806  scikit-learn's name
    X.sum_duplicates()
    return X


def _visits(
    orders: Iterable[NDArray[np.intp]],
    X: sparse.csr_array,  # noqa: N803  scikit-learn's name
    batch: Objective,
    *,
    scale: float,
    coef: Float64s,
    intercept: Float64s,
    inverse: Float64s,
) -> Iterator[_Visit]:
    """Visit all rows, once in each order: see `ascend`.

    Coefficients and intercept change in place. So does `inverse`, where a feature has very large values.
    """
    largest = np.append(np.zeros(len(coef)), 1)
    np.maximum.at(largest, X.indices, np.abs(X.data))
    np.minimum(inverse, STEEPEST / (scale * batch.row_weight.max()) / largest**2, out=inverse)
    places, rows = [array.astype(np.intp) for array in (X.indptr, X.indices)], batch.rows
    if rows.dense is not None:
        rows = rows._replace(dense=rows.dense.copy())  # in C order, the only one in the machine code of a wheel
    fields = rows.fields()
    dual, scratch = np.zeros((batch.n_rows, len(intercept))), np.empty((5, batch.n_classes))
    for order in orders:
        visit = _Visit(np.empty(batch.n_rows), np.empty(batch.n_rows), dual)
        for some in chunks(batch.n_rows, batch.n_classes * X.nnz // batch.n_rows):  # between them Ctrl-C is heard
            ascend(order[some], *places, X.data, fields, scale, coef, intercept, inverse, dual, *visit[:2], scratch)
        yield visit
