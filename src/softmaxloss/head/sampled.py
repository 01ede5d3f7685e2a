"""A backward pass through a linear layer from an unbiased random sample of the gradient of its logits.

In a large vocabulary nearly all classes are improbable. But in the two matrix products of the backward pass, each of
them takes as much time as the target does. The gradient of a row is

    g = s p - d q,    s = a d,    d = w / T

with its softmax p and effective target q, and with a, w and T as in `kernels/row.py`. Here each entry of s p below
t = s * threshold is replaced by

    t with probability s p / t,  0 otherwise:    mean  t * s p / t = s p,    variance  s p (t - s p) < t * s p

and entries of at least t, or with q > 0, stay as they are. The products d_features = g @ weight and d_weight = g.T @ x
are linear in g, so their means are right as well. Draws are independent, so their variances add up: for a row

    E |error of d_features|**2 = sum_j s p_j (t - s p_j) |weight_j|**2    over the classes below the threshold

and the same with |x|**2 for d_weight. At most 1 / threshold entries of p reach the threshold and stay as they are. The
expected number of other entries that become t is the sum of p / threshold, so it is at most 1 / threshold too.

The part of label smoothing, floor = eps / V for every class, would make g dense. It is the same for all rows except for
the factor d. So it is taken out of g: it is the outer product of d and -floor * class_weight. Its contributions to the
gradients are products of vectors, which take little time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from softmaxloss.core import checks, rowwise
from softmaxloss.core.dtypes import computed
from softmaxloss.core.layout import layout_of
from softmaxloss.core.threads import for_each, get_num_threads, none_taken, share
from softmaxloss.head.kernels import sampling
from softmaxloss.head.layer import Accumulated, Chunk, Layer, LinearGradients
from softmaxloss.head.products import multiply
from softmaxloss.kernels.by_row.blocks import BLOCK

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from softmaxloss.core.options import Rows
    from softmaxloss.head.layer import Part

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

# Threads take the sparse rows of this many classes at a time.
_CLASSES_AT_ONCE = 64
_NORM_BLOCK = 1 << 16
_TINY, _HUGE = 1e-25, 1e35  # between these, sums of squares in single precision are exact enough


@dataclass(frozen=True)
class Sampled:
    """The `backward` of `linear_cross_entropy_and_grad` that takes a random sample of the gradient of the logits.

    The loss is exact. The gradients are random, and their mean is the exact gradient. They take a fraction of the time
    if there are many classes and most of them are improbable. If targets are soft rows, no time is saved. With weights
    in Fortran order they take longer.

    Parameters
    ----------
    threshold : float, default 2**-10
        Above 0, at most 1. A probability p of at least the threshold is kept. A smaller p becomes the threshold with
        probability p / threshold, else 0.
    seed : int, default 0
        From 0 to 2**63 - 1. Random numbers depend only on seed, row and class: take another seed for each training
        step.

    Raises
    ------
    TypeError, ValueError
        If threshold or seed is not as described.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.Sampled(seed=7)
    Sampled(threshold=0.0009765625, seed=7)
    """

    threshold: float = 2.0**-10
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", checks.fraction("threshold", self.threshold))
        object.__setattr__(self, "seed", checks.integer("seed", self.seed))
        if self.threshold == 0.0:
            raise ValueError(f"threshold must be above 0, got {self.threshold!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed!r}")


class SamplingError(NamedTuple):
    """The expected size of the error of each gradient, relative to the gradient; None for a gradient not asked for.

    It is sqrt(sum of E |error|**2 over all entries), divided by the estimated size of the exact gradient. The sum is
    computed without sampling.
    """

    features: float | None
    weight: float | None
    bias: float | None


class SampledGradients(LinearGradients):
    """LinearGradients of a sampled backward pass, with the attribute `sampling_error`."""

    sampling_error: SamplingError

    def _replace(self, /, **gradients: Array | None) -> Self:
        replaced = super()._replace(**gradients)
        replaced.sampling_error = self.sampling_error
        return replaced

    __replace__ = _replace  # called by copy.replace


class SampledSum(Accumulated):
    """The wanted gradients, added up chunk by chunk from samples of the gradients of the logits."""

    def __init__(self, layer: Layer, wrt: Collection[str], options: Sampled) -> None:
        if checks.is_sparse(layer.features):
            raise ValueError(
                f'backward must be "exact" where features are sparse, got {options!r}; or pass features.toarray()'
            )
        super().__init__(layer, wrt)
        self._options = options
        self._norms = np.zeros(0, layer.computed)  # |weight_j|**2 of each class if features are wanted
        self._variance = dict.fromkeys(("features", "weight", "bias"), 0.0)

    def bytes_per_row(self, rows: Rows) -> int:
        """Return the bytes of the expected entries of a row, stored by rows, by columns, and once more for sorting."""
        n_classes, itemsize = self._layer.n_classes, self._layer.computed.itemsize
        entries = n_classes if rows.dense is not None else min(n_classes, 2 / self._options.threshold)
        return int(3 * entries * (4 + itemsize))

    def backward(self, chunk: Chunk, d_loss: Float64s) -> Float64s:
        """Add the contribution of a chunk, and return its losses."""
        part, x, logits, rows = chunk
        layout, weight = layout_of(logits.shape), self._layer.weight
        if self.features is not None and not self._norms.size:
            self._norms = np.einsum("ij,ij->i", weight, weight)
        d = np.broadcast_to(d_loss * rows.weight / rows.temperature, len(logits))
        # under a soft cap the part of label smoothing depends on the logit: it is sampled like the rest
        apart = rows.floor > 0.0 and rows.softcap == 0.0
        slope = rows.mass
        if rows.z_loss > 0.0:
            slope = rows.mass + rows.extra_slope(rowwise.summarize(logits, rows, layout).lse(rows.temperature))
        if apart:
            losses = rowwise.losses(logits, rows, layout)
            rowwise.losses_and_gradients(logits, rows._replace(floor=0.0), d_loss, logits, layout)
        else:
            losses = rowwise.losses_and_gradients(logits, rows, d_loss, logits, layout)
        sample = self._sample(logits, rows, np.abs(d * slope) * self._options.threshold, x, part)
        smoothing = self._smoothing(rows) if apart else None
        if self.features is not None:
            d_x = _product(sample, weight, size=1)
            if smoothing is not None:
                d_x += np.outer(d.astype(x.dtype), smoothing @ weight)
            self.features[part] = self._rounded(d_x)
        if self.weight is not None:
            _product(sample.tocsc().T, x, size=_CLASSES_AT_ONCE, out=self.weight, add=self._begun)
            self._begun = True
            if smoothing is not None:
                multiply(smoothing[:, None], (d.astype(x.dtype) @ x)[None, :], self.weight, add=True)
        if self.bias is not None:
            self.bias += sample.sum(axis=0, dtype=np.float64)
            if smoothing is not None:
                self.bias += d.sum() * smoothing
        return losses

    def _smoothing(self, rows: Rows) -> Array:
        """Return what label smoothing adds to the gradient of each class, before the factor d of a row."""
        r: Array = rows.class_weight if rows.class_weight.size else np.ones(self._layer.n_classes)
        taken: Array = (-rows.floor * r).astype(self._layer.computed)
        return taken

    def _sample(self, gradient: Array, rows: Rows, threshold: Float64s, x: Array, part: Part) -> Any:
        """Return a sample of the gradient as a sparse array, and add up its variance."""
        n_rows = len(gradient)
        position = np.arange(part.start, part.stop) if isinstance(part, slice) else part
        size = -(-n_rows // (4 * get_num_threads()))
        found: dict[int, tuple[Array, Array, Array]] = {}
        variances = np.zeros((n_rows, 2))

        def work(start: int) -> None:
            some = slice(start, min(start + size, n_rows))
            wanted = None if rows.dense is None else np.ascontiguousarray(computed(rows.dense[some]))
            arguments = gradient[some], wanted, rows.label[some], position[some], threshold[some]
            found[start] = self._entries(arguments, variances[some])

        for_each(work, range(0, n_rows, size))
        counts, columns, values = (np.concatenate(a) for a in zip(*(found[k] for k in sorted(found)), strict=True))
        self._variance["features"] += float(variances[:, 1].sum())
        self._variance["weight"] += float(variances[:, 0] @ np.einsum("ij,ij->i", x, x))
        self._variance["bias"] += float(variances[:, 0].sum())
        begins = np.concatenate([[0], np.cumsum(counts)])
        return sparse.csr_array((values, columns, begins), shape=gradient.shape)

    def _entries(self, rows: tuple[Any, ...], variances: Array) -> tuple[Array, Array, Array]:
        """Return three arrays for some rows: the number of entries of each row, and the entries' columns and values."""
        gradient = rows[0]
        n_rows, n_classes = gradient.shape
        capacity = n_rows * int(min(n_classes, 0.5 / self._options.threshold)) + max(n_classes, BLOCK)
        columns, values = np.empty(capacity, np.int32), np.empty(capacity, gradient.dtype)
        ends, first, begin, seed = np.zeros(n_rows, np.int64), 0, 0, self._options.seed
        while True:  # the arrays grow until all entries fit
            first = sampling.sample(*rows, seed, self._norms, first, begin, columns, values, ends, variances)
            begin = int(ends[first - 1]) if first > 0 else 0
            if first == n_rows:
                return np.diff(ends, prepend=0), columns[:begin].copy(), values[:begin].copy()
            columns, values = (np.concatenate([a[:begin], np.empty(len(a), a.dtype)]) for a in (columns, values))

    def gradients(self) -> SampledGradients:
        """Return the gradients with their sampling error."""
        exact = super().gradients()
        gradients = SampledGradients(*exact)
        errors = {name: self._error(name, gradient) for name, gradient in exact._asdict().items()}
        gradients.sampling_error = SamplingError(**errors)
        return gradients

    def _error(self, name: str, gradient: Array | None) -> float | None:
        if gradient is None:
            return None
        variance = self._variance[name]
        if variance == 0.0:
            return 0.0
        exact = _square(gradient) - variance  # an unbiased estimate
        return math.inf if exact <= 0.0 else math.sqrt(variance / exact)


def _square(array: Array) -> float:
    """Return the sum of the squares of all entries, block by block, in double precision if single is too narrow."""
    total, flat = 0.0, array.reshape(-1)
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _NORM_BLOCK):
            block = computed(flat[start : start + _NORM_BLOCK])
            # not by NumPy's BLAS, whose threads would compete with those of SciPy's
            square = float(np.einsum("i,i->", block, block))
            if not _TINY < square < _HUGE:
                square = float(np.einsum("i,i->", block, block, dtype=np.float64))
            total += square
    return total


def _product(sample: Any, matrix: Array, *, size: int, out: Array | None = None, add: bool = False) -> Array:
    """Return a sparse array times a matrix. `out` gets it, or has it added. Threads take `size` rows at a time."""
    if out is None:
        out = np.empty((sample.shape[0], matrix.shape[1]), matrix.dtype)
    result, taken, matrix = out, none_taken(), matrix.view()
    matrix.flags.writeable = False
    arrays = sample.indptr.astype(np.int64, copy=False), sample.indices, sample.data

    def work() -> None:
        sampling.times_rows(*arrays, matrix, taken, size, result, add)

    share(work, -(-len(result) // size), begun=taken)
    return result
