"""Mean and covariance of weighted rows of features. The moments of two sets of rows can be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.checks import is_sparse
from softmaxloss.core.threads import results_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator

Float64s = NDArray[np.float64]

CHUNK = 2**19  # numbers that a thread processes at once: 4 MB in float64
PART_ROWS = 2048  # threads do not share fewer rows than this: it would save no time
PARTIAL_NUMBERS = 2**22  # the most numbers in the sums of all parts together: 32 MB in float64
MAX_WHITENED = 1024  # with more features only variances are kept: a covariance matrix would take over 8 MB


def chunks(n_rows: int, row_size: int) -> Iterator[slice]:
    """Yield slices of rows that hold about `CHUNK` numbers."""
    size = max(1, CHUNK // max(row_size, 1))
    return (slice(start, start + size) for start in range(0, n_rows, size))


def parts(n_rows: int, n_sums: int) -> list[slice]:
    """Divide rows into parts. A thread takes a part at a time, and sums it up into `n_sums` numbers.

    Many rows have 4 to 32 parts. Only the sizes decide, so that no bit of a sum depends on the number of threads.
    """
    most = min(max(PARTIAL_NUMBERS // max(n_sums, 1), 4), 32)
    n_parts = max(1, min(most, n_rows // PART_ROWS))
    return [slice(n_rows * k // n_parts, n_rows * (k + 1) // n_parts) for k in range(n_parts)]


class Moments(NamedTuple):
    """The sum of the weights of rows x, the weighted mean, and the sum of weight * (x - mean) (x - mean).T.

    The mean counts as 0 if the features are not centred. With over MAX_WHITENED features, only the diagonal of the
    covariance is kept.
    """

    total: float
    center: Float64s
    covariance: Float64s

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the rows of both. Both must be centred, or neither."""
        total = self.total + other.total
        if total == 0:
            return self
        apart, share = other.center - self.center, other.total / total
        squares = np.outer(apart, apart) if self.covariance.ndim == 2 else apart**2
        covariance = self.covariance + other.covariance + self.total * share * squares
        return Moments(total, self.center + share * apart, covariance)

    def scaled(self, factor: float) -> Moments:
        """Return the moments of the same rows with all weights multiplied by a factor."""
        return Moments(factor * self.total, self.center, factor * self.covariance)

    def quadratic(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return half the sum of weight * (coef @ x + intercept)**2 over rows and classes, and its gradients."""
        of_mean = intercept + coef @ self.center
        product = coef @ self.covariance if self.covariance.ndim == 2 else coef * self.covariance
        value = (self.total * of_mean @ of_mean + np.vdot(coef, product)) / 2
        return float(value), product + self.total * np.outer(of_mean, self.center), self.total * of_mean

    def about_zero(self) -> Moments:
        """Return the moments that the rows would have without centring; of the covariance, only its diagonal."""
        diagonal = self.covariance.diagonal() if self.covariance.ndim == 2 else self.covariance
        return Moments(self.total, np.zeros_like(self.center), diagonal + self.total * self.center**2)


def moments_of(features: Any, weight: Float64s, *, centred: bool) -> Moments:
    """Return the moments of features, dense or sparse in CSR format, with one weight for each row."""
    total, center = float(weight.sum()), np.zeros(features.shape[1])
    if centred and total > 0:
        center = (features.T @ weight.astype(features.dtype)).astype(np.float64) / total
    return Moments(total, center, _covariance(features, weight, center))


def _covariance(features: Any, weight: Float64s, center: Float64s) -> Float64s:
    """Return the sum of weight * (x - center) (x - center).T over rows; only its diagonal for very many features."""
    n_rows, n_features = features.shape
    whiten = n_features <= MAX_WHITENED
    if is_sparse(features):
        features = features.astype(np.float64)  # a copy in float64, because the difference below may cancel
        if whiten:
            weighted = features.multiply(weight[:, np.newaxis]).tocsr()
            products, of_center = (features.T @ weighted).toarray(), np.outer(center, center)
        else:
            features.sum_duplicates()
            products, of_center = features.power(2).T @ weight, center**2
        covariance: Float64s = products - weight.sum() * of_center
        diagonal = np.einsum("ii->i", covariance) if whiten else covariance
        np.maximum(diagonal, 0, out=diagonal)
        return covariance

    def of_part(part: slice) -> Float64s:
        covariance = np.zeros((n_features, n_features) if whiten else n_features)
        for rows in chunks(part.stop - part.start, n_features):
            some = slice(part.start + rows.start, min(part.start + rows.stop, part.stop))
            with np.errstate(all="ignore"):
                x = np.sqrt(weight[some, np.newaxis]) * (features[some] - center)
                covariance += x.T @ x if whiten else np.einsum("ij,ij->j", x, x)
        return covariance

    n_sums = n_features**2 if whiten else n_features
    return sum(results_of_each(of_part, parts(n_rows, n_sums)), np.zeros(()))
