"""The objective of a fit: mean loss of a linear layer plus L2 penalty, summed by threads over parts of the rows."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.checks import is_sparse
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import describe
from softmaxloss.core.threads import for_each, results_of_each
from softmaxloss.functional import softmax
from softmaxloss.head.layer import Accumulated, Layer, LinearGradients
from softmaxloss.head.linear import loss_and_gradients
from softmaxloss.moments import MAX_WHITENED, Float64s, Moments, chunks, moments_of, parts

Array = NDArray[Any]

MANY_CLASSES = 64  # from this number on, single precision saves more time than the copy of the features takes
# Up to this number of coefficients, our threads take parts of the rows, and each computes its products on one BLAS
# thread: see `one_blas_thread`. With more coefficients BLAS uses its own threads.
SHARED_COEFFICIENTS = 2**18


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
    """Raise ValueError if features are so large that their covariance might overflow."""
    values = X.data if is_sparse(X) else X
    largest, limit = max(values.max(initial=0.0), -values.min(initial=0.0)), np.sqrt(np.finfo(X.dtype).max) / 2
    if largest > limit:
        raise ValueError(
            f"X must hold values small enough to square, at most {limit:.3g} for {X.dtype}, got {largest:.3g}; "
            "standardise the features"
        )


def penalty_of(C: float, total_weight: float) -> float:  # noqa: N803  scikit-learn's name
    """Return the factor of |coef|**2 / 2 in an objective that has the mean loss, not C times the sum of losses."""
    if total_weight <= 0:
        raise ValueError(
            "sample_weight times class_weight must be above 0 for some sample, got only zeros; raise the weight of a "
            "class or of samples"
        )
    return 1 / (C * total_weight)


def is_mapped(array: Any) -> bool:
    """Return whether an array is a file that is mapped to memory, or a view of one."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


class Samples(NamedTuple):
    """The features, the targets (class indices or distributions over the classes) and the weights of samples."""

    X: Any
    targets: Array
    weight: Float64s

    def part(self, rows: NDArray[np.intp]) -> Samples:
        """Return some of the samples: a copy of them, or all samples, where the others have the weight 0.

        A copy is faster to compute with, but features in a mapped file may be larger than memory.
        """
        if not is_mapped(self.X):
            return Samples(*(array[rows] for array in self))
        weight = np.zeros_like(self.weight)
        weight[rows] = self.weight[rows]
        return self._replace(weight=weight)

    def weight_of_each(self, classes: Array) -> Array:
        """Return the total weight of the samples of each class."""
        if self.targets.ndim == 2:
            return self.weight @ self.targets
        return np.bincount(self.targets, self.weight, minlength=len(classes))


class Objective:
    """Mean loss + penalty / 2 * |coef|**2, with its gradient; coef has one row per class, or one row for two classes.

    Features are dense, or sparse in CSR format. Targets are class indices, or distributions of shape (rows, classes).
    The mean divides by the total weight of the rows, or by `normalizer` if these rows are a part of all rows.
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
        self.n_rows, self.n_classes = features.shape[0], len(class_weight)
        self.options: dict[str, Any] = {
            "sample_weight": sample_weight,
            "class_weight": class_weight,
            "label_smoothing": label_smoothing,
            "normalizer": normalizer,
        }
        self.rows, self.reduction = describe(targets, layout_of((len(targets), self.n_classes)), **self.options)
        self.weight = self.reduction.divisor
        self.C, self.penalty = C, penalty_of(C, self.weight)
        self.row_weight: Float64s = self.rows.each().weight * self.rows.mass

    def __call__(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the value, and the gradients with respect to coef and intercept."""
        loss, d_coef, d_intercept = self.mean_loss(coef, intercept)
        return loss + self.penalty / 2 * float(np.vdot(coef, coef)), d_coef + self.penalty * coef, d_intercept

    def mean_loss(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        """Return the mean loss and its gradients."""
        weight, bias = (a.astype(self.dtype) for a in all_classes(coef, intercept))

        def share(part: slice) -> tuple[float, LinearGradients]:
            whole = part == slice(None)  # a part of sparse rows is a copy
            layer = Layer(self.features if whole else self.features[part], weight, bias, None)
            rows = self.rows.part(part, None if self.rows.dense is None else self.rows.dense[part])
            return loss_and_gradients(layer, rows, self.reduction, Accumulated(layer, ("weight", "bias")))

        shared = weight.size <= SHARED_COEFFICIENTS and not is_sparse(self.features)
        found = results_of_each(share, parts(self.n_rows, weight.size) if shared else [slice(None)])
        loss, zero = sum(float(loss) for loss, _ in found), np.zeros((), self.dtype)
        d_weight, d_bias = (sum((cast("Array", d[i]) for _, d in found), zero) for i in (1, 2))
        return loss, d_weight[-len(coef) :], d_bias[-len(coef) :].astype(np.float64)

    def row_curvature(self, coef: Float64s, intercept: Float64s) -> Float64s:
        """Return for each row the second derivative of its loss with respect to a logit, averaged over the classes."""
        weight, bias = (a.astype(self.dtype) for a in all_classes(coef, intercept))
        curvature = np.empty(self.n_rows)

        def fill(rows: slice) -> None:
            logits = scores(self.features[rows], weight, bias)
            p = softmax(logits, out=logits)
            curvature[rows] = np.einsum("ij,ij->i", p, 1 - p)

        for_each(fill, list(chunks(self.n_rows, len(weight))))
        return self.weighted(curvature)

    def weighted(self, curvature: Float64s) -> Float64s:
        """Return the weight of each row times the mean of p (1 - p) over its classes, given the sum over them."""
        # one of K directions changes no probability, so the sum is divided by K - 1; two classes have one row of coef,
        # for which the mean is p_0 * p_1, half of the sum
        mean = curvature / max(self.n_classes - 1, 2)
        return self.row_weight * np.maximum(mean, np.finfo(self.dtype).eps)

    def moments(self, coef: Float64s, intercept: Float64s, *, centred: bool) -> Moments:
        """Return the moments of the features, with rows weighted by their curvature."""
        return moments_of(self.features, self.row_curvature(coef, intercept), centred=centred)

    @property
    def is_wide(self) -> bool:
        """Whether features are sparse, and so many that they are not whitened."""
        return is_sparse(self.features) and self.features.shape[1] > MAX_WHITENED

    def features_with_values(self) -> NDArray[np.intp] | None:
        """Return which of more than MAX_WHITENED sparse features have values; None if all have or there are fewer."""
        if not self.is_wide:
            return None
        present = np.flatnonzero(np.bincount(self.features.indices, minlength=self.features.shape[1]))
        return None if len(present) == self.features.shape[1] else present

    def of_features(self, features: NDArray[np.intp]) -> Objective:
        """Return this objective as a function of the coefficients of some features, if all other features are 0."""
        part = copy(self)
        part.features = self.features[:, features]
        return part

    def of_samples(self, samples: Samples) -> Objective:
        """Return the objective of other samples with the class weights and label smoothing of this one.

        The weights of the samples are shares of a mean loss.
        """
        options = self.options | {"sample_weight": samples.weight, "normalizer": 1.0}
        return Objective(samples.X, samples.targets, C=self.C, **options)

    def in_single(self) -> Objective | None:
        """Return this objective in single precision, on centred features; None if that would not be faster.

        Features in a mapped file may be larger than memory: they are not copied.
        """
        in_memory = isinstance(self.features, np.ndarray) and not is_mapped(self.features)
        gains = in_memory and self.dtype == np.float64 and self.n_classes >= MANY_CLASSES
        return _Single(self) if gains else None


class _Single(Objective):
    def __init__(self, objective: Objective) -> None:
        self.__dict__.update(vars(objective))
        self.center = self.features.mean(axis=0)
        self.features = (self.features - self.center).astype(np.float32)
        self.dtype = self.features.dtype

    def __call__(self, coef: Float64s, intercept: Float64s) -> tuple[float, Float64s, Float64s]:
        value, d_coef, d_intercept = super().__call__(coef, intercept + coef @ self.center)
        return value, d_coef + np.outer(d_intercept, self.center), d_intercept
