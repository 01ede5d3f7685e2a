# ruff: noqa: N803, N806  X is scikit-learn's name
"""The estimator on Dask collections: `fit` adds up sums of partitions, and predictions are lazy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import dask
import dask.array as da
import numpy as np
from dask import delayed, is_dask_collection
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from softmaxloss import classifier
from softmaxloss.class_labels import is_soft
from softmaxloss.classifier import FEATURES
from softmaxloss.dask.partitions import (
    Census,
    Options,
    PartitionedObjective,
    Partitions,
    census_of,
    one_thread,
    part_of,
)
from softmaxloss.fit_callbacks import Iterations, with_callbacks
from softmaxloss.objective import penalty_of

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]


class SoftmaxClassifier(classifier.SoftmaxClassifier):
    """`softmaxloss.SoftmaxClassifier` on Dask collections: the same coefficients, from partitions that stay in place.

    Each evaluation of the objective is one pass over the partitions of X. For each partition, a worker computes what
    the partition adds to loss and gradient. The workers sum these shares. One sum, as large as the coefficients,
    returns to the process that called `fit`. Persisted partitions stay in memory. All others are computed
    again in each pass, for example read from a file again. For data that are not Dask collections, every method works
    as in the base class.

    Parameters
    ----------
    C, fit_intercept, max_iter, tol, class_weight, label_smoothing, warm_start, random_state, verbose, ...
        As in `softmaxloss.SoftmaxClassifier`, which also documents the attributes. Early stopping does not work on Dask
        collections.

    Examples
    --------
    >>> import dask.array as da
    >>> from sklearn.datasets import load_iris
    >>> from softmaxloss.dask import SoftmaxClassifier
    >>> X, y = (da.from_array(array, chunks=50) for array in load_iris(return_X_y=True))
    >>> model = SoftmaxClassifier().fit(X, y)
    >>> round(float(model.score(X, y)), 3)
    0.973
    """

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        callback: Callable[[int, float], object] | None = None,
    ) -> Self:
        """Fit coefficients and intercepts.

        Parameters
        ----------
        X : dask.array.Array or dask.dataframe.DataFrame of shape (n_samples, n_features)
            Blocks are NumPy arrays, sparse matrices of SciPy, or dataframes of numbers. The lengths of partitions may
            be unknown. float32 stays float32; all other types become float64.
        y : Dask array or series of shape (n_samples,), or floats of shape (n_samples, n_classes)
            Labels of any kind, or soft labels, in partitions of the same lengths as those of X. Other arrays are
            split as X is; for this, the lengths of the partitions of X must be known.
        sample_weight : Dask array or series of shape (n_samples,), or float, optional
            In partitions of the same lengths as those of X, or split as `y`.
        callback : callable, optional
            As in the base class. It is called in the process that calls `fit`.

        Returns
        -------
        SoftmaxClassifier
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data are not as described.

        Warns
        -----
        ConvergenceWarning
            As in the base class.
        """
        if not is_dask_collection(X):
            return super().fit(X, y, sample_weight, callback=callback)
        self._check_parameters()
        if self.early_stopping:
            raise ValueError(
                "early_stopping must be False for Dask collections, got True; set it to False, or pass arrays in memory"
            )
        tasks = Iterations.of(self, X=X, y=y, metadata={"sample_weight": sample_weight})
        with self._as_before_if_it_fails():
            X = _in_rows(X)
            dtype = validate_data(self, _no_rows(X), ensure_min_samples=0, **FEATURES).dtype
            blocks = _partitions(X)
            labels, weights = _labels_and_weights(X, y, sample_weight)
            soft = is_soft(_no_rows(y) if is_dask_collection(y) else y)
            part = delayed(part_of, pure=False)
            rows = zip(blocks, labels, weights, strict=True)
            parts = dask.persist(*(part(*row, dtype, soft=soft) for row in rows))
            classes, counts = Partitions(parts).merged(census_of, Census.merge).compute()
            check_classification_targets(np.tile(classes, 3))  # thrice: it warns if all labels are different
            class_weight = self._weight_of(classes, counts)
            total = float(counts @ class_weight)
            options = Options(dtype, classes, class_weight, self.label_smoothing, normalizer=total)
            objective = PartitionedObjective(Partitions(blocks, parts), options, penalty_of(self.C, total))
            self._minimise(objective, classes, callback, tasks)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from one more batch, as the base class does. A Dask collection as X raises TypeError.

        Parameters
        ----------
        X, y, classes, sample_weight
            As in the base class.

        Returns
        -------
        SoftmaxClassifier
            The estimator itself.
        """
        if is_dask_collection(X):
            raise TypeError(
                "X must be in memory in partial_fit, got a Dask collection; call fit, or pass one computed block "
                "after the other"
            )
        return super().partial_fit(X, y, classes, sample_weight)

    def decision_function(self, X: Any) -> Any:
        """Return the logits: a lazy Dask array if X is a Dask collection, else a NumPy array."""
        return self._of_blocks("decision_function", X)

    def predict(self, X: Any) -> Any:
        """Return the most probable classes: a lazy Dask array if X is a Dask collection, else a NumPy array."""
        return self._of_blocks("predict", X)

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities: a lazy Dask array if X is a Dask collection, else a NumPy array."""
        return self._of_blocks("predict_proba", X)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the log-probabilities: a lazy Dask array if X is a Dask collection, else a NumPy array."""
        return self._of_blocks("predict_log_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the accuracy: a lazy Dask array of one number if X is a Dask collection, else a float.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        dask.array.Array of shape (), or float
        """
        if not is_dask_collection(X):
            return super().score(X, y, sample_weight)
        X = _in_rows(X)
        model = self._delayed(X)
        rows = Partitions(_partitions(X), *_labels_and_weights(X, y, sample_weight), [model] * X.npartitions)
        hits = rows.merged(_hits_of, np.add)
        return da.from_delayed(hits[0] / hits[1], shape=(), dtype=np.float64)

    def _of_blocks(self, method: str, X: Any) -> Any:
        """Call a method of the base class on each block of a collection, or on X itself if it is none."""
        if not is_dask_collection(X):
            return getattr(super(), method)(X)
        X = _in_rows(X)
        model, width = self._delayed(X), len(self.classes_)
        if method == "predict":
            nothing = self.classes_[:0]
        else:
            dtype = np.result_type(check_array(_no_rows(X), ensure_min_samples=0, **FEATURES), self.coef_)
            one_column = method == "decision_function" and width == 2
            nothing = np.empty(0 if one_column else (0, width), dtype)
        if not isinstance(X, da.Array):
            return X.map_partitions(_apply, model, method, nothing, meta=nothing)
        shape: dict[str, Any] = {"chunks": (X.chunks[0], (width,))} if nothing.ndim == 2 else {"drop_axis": 1}
        return X.map_blocks(_apply, model, method, nothing, dtype=nothing.dtype, meta=nothing, **shape)

    def _delayed(self, X: Any) -> Any:
        """Return the fitted model as one node of a graph: each worker gets it once. Raise if X does not fit it."""
        check_is_fitted(self)
        validate_data(self, _no_rows(X), reset=False, ensure_min_samples=0, **FEATURES)
        return delayed(self._local(), pure=False, traverse=False)

    def _local(self) -> classifier.SoftmaxClassifier:
        """Return a model of the base class, for blocks whose columns have been checked."""
        model = classifier.SoftmaxClassifier()
        model.__dict__.update(vars(self))
        model.__dict__.pop("feature_names_in_", None)
        return model


def _apply(x: Any, model: Any, method: str, nothing: Array) -> Array:
    """Return the result of a method of the model for a block. A block without rows gives `nothing`."""
    if not x.shape[0]:
        return nothing
    with one_thread():
        result: Array = getattr(model, method)(check_array(x, **FEATURES))
        return result


def _hits_of(x: Any, y: Any, weight: Any, model: Any) -> Array:
    """Return the total weight of the samples of a block that are classified correctly, and of all its samples."""
    if not len(y):
        return np.zeros(2)
    x, y = check_X_y(x, y, **FEATURES)
    weight = np.broadcast_to(1.0 if weight is None else np.asarray(weight, np.float64), len(y))
    return np.array([weight @ (_apply(x, model, "predict", model.classes_[:0]) == y), weight.sum()])


def _in_rows(collection: Any, name: str = "X") -> Any:
    """Return a Dask collection whose partitions hold whole rows."""
    if isinstance(collection, da.Array):
        if np.isnan(collection.shape[1:]).any():
            raise ValueError(
                f"{name} must have a known number of columns, got shape {collection.shape}; call "
                f"{name}.compute_chunk_sizes() first"
            )
        return collection.rechunk(dict.fromkeys(range(1, collection.ndim), -1))
    if not hasattr(collection, "_meta"):
        kind = type(collection).__name__
        raise TypeError(f"{name} must be a Dask array, dataframe or series, got {kind}; convert it first")
    return collection


def _no_rows(collection: Any) -> Any:
    """Return an empty block that has the columns and dtypes of a collection."""
    if not isinstance(collection, da.Array):
        return collection._meta  # noqa: SLF001  Dask documents it for this purpose
    return np.empty((0, *collection.shape[1:]), collection.dtype)


def _partitions(collection: Any) -> list[Any]:
    """Return the partitions of a collection of whole rows as delayed blocks."""
    if isinstance(collection, da.Array):
        return list(collection.to_delayed().ravel())
    # not fully optimized: Dask would then read several parts of a Parquet file as one if few of its columns are used
    return list(collection.simplify().to_delayed(optimize_graph=False))


def _labels_and_weights(X: Any, y: Any, sample_weight: Any) -> tuple[list[Any], list[Any]]:
    """Return the blocks of labels and those of weights that belong to the partitions of X."""
    labels = _split_as(X, y, "y")
    if sample_weight is None or (np.ndim(sample_weight) == 0 and not is_dask_collection(sample_weight)):
        return labels, [sample_weight] * len(labels)
    return labels, _split_as(X, sample_weight, "sample_weight")


def _split_as(X: Any, value: Any, name: str) -> list[Any]:
    """Return the blocks of labels or weights that belong to the partitions of X."""
    lengths = X.chunks[0] if isinstance(X, da.Array) else (np.nan,) * X.npartitions
    known = not np.isnan(lengths).any()
    if not is_dask_collection(value):
        if not known:
            raise TypeError(
                f"{name} must be a Dask collection where the lengths of the partitions of X are unknown, got "
                f"{type(value).__name__}; pass X as an array with known chunks (to_dask_array(lengths=True))"
            )
        value = da.from_array(np.asarray(value))
    value = _in_rows(value, name)
    if known and isinstance(value, da.Array) and not np.isnan(value.shape[0]):
        if value.shape[0] != sum(lengths):
            raise ValueError(f"{name} must have one entry per row of X, got {value.shape[0]} for {sum(lengths)} rows")
        value = value.rechunk({0: lengths})
    blocks = _partitions(value)
    if len(blocks) != len(lengths):
        raise ValueError(
            f"{name} must have the partitions of X, {len(lengths)} of them, got {len(blocks)}; repartition {name}"
        )
    return blocks
