"""What targets and options ask of each row, in the few numbers that a kernel needs.

Every option of the loss is interpreted here and nowhere else. With class weights r, label smoothing eps over V classes
and a target distribution P, the effective target of a row is

    q_j = r_j * (keep * P_j + floor),    keep = 1 - eps,    floor = eps / V

and all that remains of the options is q, its sum `mass`, and one weight per row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, NamedTuple, Self, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks
from softmaxloss.core.kernels import targets as target_kernels
from softmaxloss.core.parallel import map_row_blocks

Float64s = NDArray[np.float64]


class RowOptions(TypedDict, total=False):
    """The options that every loss function takes; `describe` interprets them, `cross_entropy` documents them."""

    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int | None
    label_smoothing: float
    reduction: str


class Rows(NamedTuple):
    """The row descriptor of N rows of logits over V classes; it never sees the logits.

    Attributes
    ----------
    label : int64 array, shape (N,)
        The class whose P is 1; -1 where P is the row of `dense`, or 0 everywhere if there is no `dense`.
    dense : array, shape (N, V), or None
        Target distributions of the rows without a label.
    mass : float64 array, shape (N,)
        Sum of q over the classes.
    weight : float64 array, shape (N,)
        Factor of the row's loss; a row of weight 0 is never read.
    class_weight : float64 array, shape (V,), or None
        r; None stands for ones.
    keep, floor : float
        What label smoothing leaves of P, and what it gives to each class.
    """

    label: NDArray[np.int64]
    dense: NDArray[Any] | None
    mass: Float64s
    weight: Float64s
    class_weight: Float64s | None
    keep: float
    floor: float

    def part(self, rows: slice | NDArray[np.intp]) -> Self:
        """Return the descriptor of some of the rows."""
        return self._replace(
            label=self.label[rows],
            dense=None if self.dense is None else self.dense[rows],
            mass=self.mass[rows],
            weight=self.weight[rows],
        )


class Reduction(NamedTuple):
    """How the losses of single rows become the result, and a gradient from above one number per row."""

    kind: str
    batch_shape: tuple[int, ...]
    divisor: float  # of a mean: sum_i w_i sum_c r_c P_ic

    def result(self, losses: Float64s, dtype: np.dtype[Any]) -> Any:
        """Return the sum of the losses, whose weights hold a mean's divisor, or the losses in the logits' dtype."""
        if self.kind == "none":
            return per_row(losses, self.batch_shape, dtype)
        return float(np.sum(losses))

    def upstream(self, value: ArrayLike | None) -> Float64s:
        """Return the gradient from above as one number per row."""
        shape = self.batch_shape if self.kind == "none" else ()
        given = checks.upstream(value, shape)
        return np.broadcast_to(given, self.batch_shape).reshape(-1)


def per_row(values: Float64s, batch_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return one number per row in the batch's shape and a logits' dtype; of a single row the number itself."""
    with np.errstate(over="ignore"):  # a loss beyond the range of float32 is inf there
        return values.astype(dtype.newbyteorder("=")).reshape(batch_shape)[()]


def without_target(n_rows: int) -> Rows:
    """Return rows that ask for log(sum(exp(z))) alone, whose gradient is the softmax."""
    ones = np.ones(n_rows)
    return Rows(np.full(n_rows, -1), None, ones, ones, None, 1.0, 0.0)


def describe(
    targets: ArrayLike,
    batch_shape: tuple[int, ...],
    n_classes: int,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Rows, Reduction]:
    """Return what targets and options ask for; ValueError or TypeError where they make no sense."""
    n_rows = int(np.prod(batch_shape))
    checks.reduction(reduction)
    eps = checks.fraction("label_smoothing", label_smoothing)
    r = checks.class_weight(class_weight, n_classes)
    weight = checks.sample_weight(sample_weight, batch_shape).reshape(n_rows)
    target = checks.targets(targets, batch_shape, n_classes)

    if target.ndim == len(batch_shape):
        label, weight = _labels(target, weight, ignore_index, n_classes)
        dense = None
        share = np.ones(n_rows) if r is None else r[label]
    else:
        if ignore_index is not None:
            message = "ignore_index belongs to class-index targets, but targets are one-hot or soft rows"
            raise ValueError(f"{message}: give such rows sample_weight 0 instead")
        dense = target.reshape(n_rows, n_classes)
        label, share = _read_dense(dense, weight, r, batch_shape)
        if not np.any((label < 0) & (weight != 0)):
            dense = None

    keep, floor = 1.0 - eps, eps / max(n_classes, 1)
    total_class_weight = float(n_classes) if r is None else float(r.sum())
    mass = keep * share + floor * total_class_weight
    with np.errstate(over="ignore"):
        divisor = float(np.sum(weight * share))  # not a BLAS dot, whose last bit depends on its threads
    if reduction == "mean":
        if not np.isfinite(divisor):
            raise ValueError("sample_weight, class_weight or targets are too large: the mean's divisor overflows")
        weight = weight / divisor if divisor > 0 else np.zeros(n_rows)  # a mean over nothing is 0
    return Rows(label, dense, mass, weight, r, keep, floor), Reduction(reduction, batch_shape, divisor)


def _labels(
    target: NDArray[Any], weight: Float64s, ignore_index: int | None, n_classes: int
) -> tuple[NDArray[np.int64], Float64s]:
    """Return valid labels, and weights that are 0 in the ignored rows; rows of weight 0 get label 0."""
    labels = target.reshape(-1)
    if ignore_index is not None:
        weight = np.where(labels == checks.integer("ignore_index", ignore_index), 0.0, weight)
    live = weight != 0
    checks.labels(labels, live, n_classes, target.shape)
    return np.where(live, labels, 0).astype(np.int64), weight


def _read_dense(
    dense: NDArray[Any], weight: Float64s, class_weight: Float64s | None, batch_shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], Float64s]:
    """Return the label of each one-hot row (-1 for others) and sum_j r_j P_j; rows of weight 0 are not read."""
    label = np.full(len(dense), -1)
    share = np.zeros(len(dense))
    wrong_class = np.full(len(dense), -1)

    def read(rows: slice, block: NDArray[Any]) -> None:
        target_kernels.read_dense_rows(block, weight[rows], class_weight, label[rows], share[rows], wrong_class[rows])

    map_row_blocks(read, dense)
    checks.soft_targets(dense, wrong_class, batch_shape)
    return label, share


F = TypeVar("F", bound=Callable[..., Any])


def with_row_options(function: F) -> F:
    """Show the row options, instead of `**options`, in the signature that help() and editors print; refuse others."""
    shown = signature(function)
    own = [p for p in shown.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [p for name, p in signature(describe).parameters.items() if name in RowOptions.__annotations__]
    positional = [p for p in own if p.kind is not Parameter.KEYWORD_ONLY]
    keyword_only = [p for p in own if p.kind is Parameter.KEYWORD_ONLY]
    known = [p.name for p in (*own, *options)]

    @wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        checks.known_keywords(function.__name__, keywords, known)
        return function(*arguments, **keywords)

    checked.__signature__ = shown.replace(parameters=[*positional, *options, *keyword_only])  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]
