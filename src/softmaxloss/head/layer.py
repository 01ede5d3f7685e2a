"""A linear layer that computes logits for some rows at a time, in the memory that the caller allows."""

from __future__ import annotations

import os
from collections.abc import Collection
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.dtypes import kernel_dtype, result_dtype
from softmaxloss.core.layout import FEW_CLASSES, PIECE_ELEMENTS, layout_of
from softmaxloss.core.staging import store
from softmaxloss.head.products import multiply
from softmaxloss.kernels.by_row.losses import WAITING_ELEMENTS
from softmaxloss.kernels.side_by_side.columns import columns_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.options import Rows

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]
    Part = slice | NDArray[np.intp]

INPUTS = ("features", "weight", "bias")

# How much time a chunk of rows takes besides its matrix products, as a fraction of the time of these products:
#
#     16 / rows + (16 / features if logits are too large for the cache else 0)
#
# This was measured with heads of 49,152 x 576 and 18,710 x 120. Each chunk reads and writes all of d_weight and reads
# the weights twice: this is a larger fraction with fewer rows. Logits that do not fit in the last-level cache come from
# memory for each of four steps: this is a larger fraction with fewer features.
#
# A chunk has as many rows as fit in that cache, or SPILLED_ROWS: the number for which the estimate is lower.
_ACCUMULATION = _SPILL = 16
CACHED_BYTES = 24 * 2**20
SPILLED_ROWS = 512
# BLAS computes whole blocks of rows: 384 rows take 4 % less time per row than 342.
SMOOTH_ROWS = 32
# Bytes for the label, weight, loss and position of a row.
_BYTES_PER_ROW = 128
_CLASSES_CHECKED = 256
_ROWS_ADDED = 64


class LinearGradients(NamedTuple):
    """Gradients of the loss of a linear layer, each of the shape of its input; None if it was not asked for."""

    features: Array | None
    weight: Array | None
    bias: Array | None


class Chunk(NamedTuple):
    """Some of the rows: their places in the batch, features (n, D), logits (n, V), and their targets as `Rows`."""

    part: Part
    x: Array
    logits: Array
    rows: Rows


class Layer:
    """Checked inputs of a linear layer, in the dtype they are computed in, and their logits chunk by chunk.

    Chunks are computed one after the other. BLAS shares each product among its threads, then kernels share each chunk
    among ours. The other way, chunks at the same time in one thread each, took 1.0 to 1.2 times as long.
    """

    def __init__(
        self,
        features: ArrayLike,
        weight: ArrayLike,
        bias: ArrayLike | None,
        max_memory: int | str | None,
    ) -> None:
        w, b = checks.weight_and_bias(weight, bias)
        x = checks.features(features, w.shape[1])
        dtypes = {array.dtype.newbyteorder("=") for array in (x, w, b) if array is not None}
        self.computed = np.result_type(*map(kernel_dtype, dtypes))
        self.dtype = result_dtype(dtypes.pop()) if len(dtypes) == 1 else self.computed
        self.weight = self.parameter(w)
        self.bias = None if b is None else b.astype(self.computed, copy=False)
        self.batch_shape = x.shape[:-1]
        self.n_classes, self.n_features = self.weight.shape
        self.layout = layout_of((*self.batch_shape, self.n_classes))
        self.n_rows = self.layout.n_rows
        if self.n_classes == 0 and self.n_rows > 0:
            raise ValueError(f"weight must have at least one class, got {checks.of_shape(w)}")
        self.features = x if checks.is_sparse(x) else self.flat(x)
        self.features_per_row = x.nnz // max(self.n_rows, 1) if checks.is_sparse(x) else self.n_features
        self.max_memory = None if max_memory is None else checks.memory("max_memory", max_memory)

    def parameter(self, array: Array) -> Array:
        """Return an array of the shape of the weights, in the dtype of products, and in C or Fortran order."""
        contiguous = array.flags.c_contiguous or array.flags.f_contiguous
        return array.astype(self.computed, copy=False) if contiguous else np.ascontiguousarray(array, self.computed)

    def flat(self, features: Array) -> Array:
        """Return features in shape (N, D) if that needs no copy, else as they are."""
        return _flat(features, self.n_rows)

    def rows_of(self, features: Array, part: Part) -> Array:
        """Return some rows of features, (n, D), in the dtype and the order that products take."""
        if checks.is_sparse(features):
            return features[part].astype(self.computed, copy=False)
        with np.errstate(all="ignore"):  # the `vector` of `linear_hvp` may have a wider dtype: it is rounded
            return np.ascontiguousarray(_taken(features, part), self.computed)

    def write_logits(self, logits: Array, terms: Sequence[tuple[Array, Array]], bias: Array | None) -> None:
        """Write the sum of x @ weight.T over the terms (x, weight), plus bias."""
        logits[...] = 0 if bias is None else bias
        for x, weight in terms:
            multiply(x, weight.T, logits, add=True)

    def chunks(self, rows: Rows, *, buffers: int = 1, pieces: int = 0, more: int = 0) -> Iterator[Chunk]:
        """Yield chunks of the rows whose weight is not 0.

        The parameters say how much memory the caller needs for a chunk. `buffers` is the number of arrays of the size
        of its logits, the logits included. `pieces` is the number of float64 scratch arrays of each thread. Each has
        the size of the rows that a thread copies at a time. `more` is the number of further bytes per row.
        """
        dense = None if rows.dense is None else _flat(rows.dense, self.n_rows)
        self.weight = forget_masked(self.weight, rows.class_mask)
        live = np.flatnonzero(rows.each().weight)
        everything = len(live) == self.n_rows
        size = self._rows_at_once(len(live), rows, buffers=buffers, pieces=pieces, more=more)
        buffer = np.empty((size, self.n_classes), self.computed)
        for start in range(0, len(live), max(size, 1)):
            chosen = live[start : start + size]
            part = slice(start, start + len(chosen)) if everything else chosen
            x, logits = self.rows_of(self.features, part), buffer[: len(chosen)]
            if self.bias is None:
                multiply(x, self.weight.T, logits)
            else:
                self.write_logits(logits, [(x, self.weight)], self.bias)
            yield Chunk(part, x, logits, rows.part(part, None if dense is None else _taken(dense, part)))

    def _rows_at_once(self, n_live: int, rows: Rows, *, buffers: int, pieces: int, more: int) -> int:
        """Return the number of rows of a chunk: as many as memory allows, but about the same in all chunks."""
        itemsize, n_classes = self.computed.itemsize, self.n_classes
        threads = os.cpu_count() or 1  # not get_num_threads(): its value must change no bit of a result
        per_row = max(1, buffers * n_classes * itemsize + 3 * self.features_per_row * itemsize + more)
        pieces += 2 if rows.softcap else 0
        if rows.dense is not None:
            pieces += 1
            per_row += n_classes * (rows.dense.itemsize + itemsize)  # dense targets may be copied, then converted
        if self.max_memory is None:
            most = usual_rows(per_row, self.features_per_row)
        else:
            free = self.max_memory - _BYTES_PER_ROW * self.n_rows - 2 * 8 * n_classes
            columns = prod(columns_shape(min(n_classes, FEW_CLASSES), transposed=True))
            free -= threads * max(n_classes, WAITING_ELEMENTS, columns) * itemsize
            free -= threads * columns * 8 if rows.dense is not None else 0
            # a piece is no larger than what a thread takes at a time; all pieces together are no larger than the chunk
            all_pieces = threads * pieces * max(n_classes, PIECE_ELEMENTS) * 8
            most = max(1, (free - all_pieces) // per_row, free // (per_row + pieces * n_classes * 8))
        most -= most % SMOOTH_ROWS if most > SMOOTH_ROWS else 0
        alike = -(-n_live // max(1, -(-n_live // most)))
        size: int = min(most, n_live, -(-alike // SMOOTH_ROWS) * SMOOTH_ROWS)
        return size


def usual_rows(bytes_per_row: int, n_features: int) -> int:
    """Return how many rows a chunk has without a limit of memory, by the estimate at the top of this file."""
    fit = max(1, CACHED_BYTES // bytes_per_row)
    spilled_cost = _ACCUMULATION / SPILLED_ROWS + _SPILL / max(n_features, 1)
    return fit if fit >= SPILLED_ROWS or _ACCUMULATION / fit <= spilled_cost else SPILLED_ROWS


def forget_masked(weight: Array, class_mask: NDArray[np.bool_]) -> Array:
    """Return weights, with 0 for NaN and inf of classes that do not exist. NaN would spread: 0 * NaN is NaN."""
    for start in range(0, class_mask.size, _CLASSES_CHECKED):
        some = slice(start, start + _CLASSES_CHECKED)
        if not np.isfinite(weight[some][~class_mask[some]]).all():
            return np.where(class_mask[:, None], weight, 0)
    return weight


class Accumulated:
    """The wanted gradients of a layer's inputs, added up chunk by chunk from the gradients of the logits."""

    def __init__(self, layer: Layer, wrt: Collection[str]) -> None:
        wanted = _wanted(wrt)
        if "features" in wanted and checks.is_sparse(layer.features):
            raise ValueError(
                f"wrt must not hold 'features' where they are sparse, got {checks.shown(wanted)}; pass wrt=('weight', "
                "'bias')"
            )
        self._layer = layer
        self.features = np.zeros((layer.n_rows, layer.n_features), layer.dtype) if "features" in wanted else None
        # not zeros: its first contribution is written, not added, which takes 20 instead of 100 ms for 100 MB
        self.weight = np.empty(layer.weight.shape, layer.computed) if "weight" in wanted else None
        self._begun = False
        self.bias = np.zeros(layer.n_classes) if "bias" in wanted and layer.bias is not None else None

    def bytes_per_row(self, rows: Rows) -> int:  # noqa: ARG002 - SampledSum uses `rows`
        """Return how many bytes `backward` needs for each row of a chunk besides its logits."""
        return 0

    def backward(self, chunk: Chunk, d_loss: Float64s) -> Float64s:
        """Add the contribution of a chunk, overwrite its logits with their gradient, and return its losses."""
        part, x, logits, rows = chunk
        losses = rowwise.losses_and_gradients(logits, rows, d_loss, logits, layout_of(logits.shape))
        self.add_products(part, [(logits, x, self._layer.weight)])
        self.add_to_bias(logits)
        return losses

    def add_products(self, part: Part, terms: Sequence[tuple[Array, Array | None, Array | None]]) -> None:
        """For each term (d_logits, x, weight), add d_logits @ weight to d_features and d_logits.T @ x to d_weight."""
        if self.features is not None:
            place = self.features[part]
            direct = isinstance(part, slice) and place.dtype == self._layer.computed
            d_x = place if direct else np.zeros(place.shape, self._layer.computed)
            for d_logits, _, weight in terms:
                if weight is not None:
                    multiply(d_logits, weight, d_x, add=True)
            if not direct:
                store(d_x, place)
                self.features[part] = place
        if self.weight is not None:
            for d_logits, x, _ in terms:
                if x is not None:
                    multiply(d_logits.T, x, self.weight, add=self._begun)
                    self._begun = True

    def add_to_bias(self, d_logits: Array) -> None:
        """Add the sum of the rows to d_bias. Few rows are added at a time in single precision, so little is rounded."""
        if self.bias is None:
            return
        whole = len(d_logits) // _ROWS_ADDED * _ROWS_ADDED
        ones = np.ones((1, _ROWS_ADDED), d_logits.dtype)
        with np.errstate(all="ignore"):
            parts = ones @ d_logits[:whole].reshape(-1, _ROWS_ADDED, d_logits.shape[1])
            self.bias += parts.sum((0, 1), dtype=np.float64) + d_logits[whole:].sum(0, dtype=np.float64)

    def gradients(self) -> LinearGradients:
        """Return the gradients in the inputs' dtype and shapes."""
        if self.weight is not None and not self._begun:
            self.weight[...] = 0
        shape = (*self._layer.batch_shape, self._layer.n_features)
        d_features = None if self.features is None else self.features.reshape(shape)
        return LinearGradients(d_features, self._rounded(self.weight), self._rounded(self.bias))

    def _rounded(self, gradient: Array | None) -> Array | None:
        if gradient is None:
            return None
        with np.errstate(all="ignore"):  # a gradient beyond the range of float16 becomes inf or 0
            return gradient.astype(self._layer.dtype, copy=False)


def _flat(array: Array, n_rows: int) -> Array:
    """Return an array (..., K) in shape (N, K) if that needs no copy, else as it is."""
    return array.reshape(n_rows, array.shape[-1]) if array.flags.c_contiguous or array.ndim < 2 else array


def _taken(array: Array, part: Part) -> Array:
    """Return some of the rows of an array (..., K), as (n, K)."""
    if array.ndim == 2:
        return array[part]
    places = np.arange(part.start, part.stop) if isinstance(part, slice) else part
    taken: Array = array[np.unravel_index(places, array.shape[:-1])]
    return taken


def _wanted(wrt: Collection[str]) -> Collection[str]:
    listed = isinstance(wrt, Collection) and not isinstance(wrt, str) and getattr(wrt, "ndim", 1) == 1
    if not listed or not all(name in INPUTS for name in wrt):
        raise ValueError(
            f"wrt must be a tuple or list of some of {INPUTS}, got {checks.shown(wrt)}; pass for example ('weight', "
            "'bias')"
        )
    return wrt
