"""What targets and options ask of each row, in the few numbers that a kernel needs.

Every option of the loss is interpreted here and nowhere else. With class weights r, label smoothing eps over V classes
and a target distribution P, the effective target of a row is

    q_j = r_j * (keep * P_j + floor),    keep = 1 - eps,    floor = eps / V

and all that remains of the options that concern targets is q, its sum `mass`, and one weight per row. What is left is
how logits are to be seen: which classes exist, their temperature and soft cap, and how much their scale costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks
from softmaxloss.core.elementwise import kernel_dtype
from softmaxloss.core.kernels import targets as target_kernels
from softmaxloss.core.kernels.compilation import inline
from softmaxloss.core.kernels.exponential import (
    Temperature,
    temperature_from,
    temperature_numbers,
    temperature_of,
)
from softmaxloss.core.parallel import for_each
from softmaxloss.core.summary import total_loss

if TYPE_CHECKING:
    from softmaxloss.core.layout import Layout, Piece

Float64s = NDArray[np.float64]


class RowOptions(TypedDict, total=False):
    """The options that every loss function takes; `describe` interprets them, `cross_entropy` documents them."""

    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int | None
    class_mask: ArrayLike | None
    label_smoothing: float
    z_loss: float
    softcap: float | None
    temperature: float
    reduction: str
    normalizer: float | None


class Rows(NamedTuple):
    """The row descriptor of N rows of logits over V classes; it never sees the logits.

    Attributes
    ----------
    label : int64 array, shape (N,)
        The class whose P is 1; -1 where P is the row of `dense`, or 0 everywhere if there is no `dense`.
    dense : array, shape of the logits, or None
        Target distributions of the rows without a label.
    mass : float64 array, shape (N,), or (1,) where it is the same for all rows
        Sum of q over the classes.
    weight : float64 array, shape (N,), or (1,) where it is the same for all rows
        Factor of the row's loss; a row of weight 0 is never read.
    class_weight : float64 array, shape (V,) or (0,)
        r, 0 for classes that do not exist; empty where all are 1.
    keep, floor : float
        What label smoothing leaves of P, and what it gives to each class.
    class_mask : bool array, shape (V,) or (0,)
        Whether a class exists; empty where all do.
    z_loss : float
        Factor of lse**2 in the loss.
    softcap : float
        What logits are kept below, by a hyperbolic tangent; 0 for no cap.
    temperature : Temperature
        What they are divided by after that.
    """

    label: NDArray[np.int64]
    dense: NDArray[Any] | None
    mass: Float64s
    weight: Float64s
    class_weight: Float64s
    keep: float
    floor: float
    class_mask: NDArray[np.bool_]
    z_loss: float
    softcap: float
    temperature: Temperature

    def part(self, rows: slice | NDArray[np.intp], dense: Any) -> Self:
        """Return the descriptor of some of the rows, given their dense targets."""
        if dense is self.dense and isinstance(rows, slice) and rows == slice(0, len(self.label)):
            return self
        mass, weight = (of if len(of) == 1 else of[rows] for of in (self.mass, self.weight))
        return self._replace(label=self.label[rows], dense=dense, mass=mass, weight=weight)

    def with_labels(self, label: NDArray[np.int64]) -> Self:
        """Return the same rows with other labels."""
        return tuple.__new__(type(self), (label, *self[1:]))  # half the time of calling Rows

    def fields(self) -> tuple[Any, ...]:
        """Return what `rows_of` makes rows of in a kernel: Numba tells few types of plain tuples much faster."""
        label, dense, mass, weight, r, keep, floor, exists, z_loss, softcap, temperature = self
        return label, dense, mass, weight, r, exists, _numbers(keep, floor, z_loss, softcap, temperature.value)

    def each(self) -> Rows:
        """Return the same rows with a mass and a weight for each of them."""
        mass, weight = (np.array(np.broadcast_to(of, len(self.label))) for of in (self.mass, self.weight))
        return self._replace(mass=mass, weight=weight)

    def without_targets(self) -> Rows:
        """Return the same rows, but without targets; they keep no weight but 0 and 1."""
        return logits_alone(len(self.label), self.temperature.value)._replace(
            weight=(self.weight != 0) * 1.0, class_mask=self.class_mask, softcap=self.softcap
        )


@lru_cache(maxsize=64)
def _numbers(keep: float, floor: float, z_loss: float, softcap: float, temperature: float) -> Float64s:
    """Return the numbers of rows that are the same for all of them."""
    numbers = np.array([keep, floor, z_loss, softcap, *temperature_numbers(temperature_of(temperature))])
    numbers.setflags(write=False)
    return numbers


@inline
def rows_of(fields: Any) -> Rows:
    """Return rows, given their fields."""
    label, dense, mass, weight, r, exists, numbers = fields
    keep, floor, z_loss, softcap, temperature = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4:]
    return Rows(label, dense, mass, weight, r, keep, floor, exists, z_loss, softcap, temperature_from(temperature))


class Reduction(NamedTuple):
    """How the losses of single rows become the result, and a gradient from above one number per row."""

    kind: str
    batch_shape: tuple[int, ...]
    divisor: float  # of a mean: sum_i w_i sum_c r_c P_ic, or what the caller put in its place

    def result(self, losses: Float64s, logits_dtype: np.dtype[Any]) -> Any:
        """Return the sum of the losses, whose weights hold a mean's divisor, or the losses of the rows."""
        if self.kind == "none":
            return per_row(losses, self.batch_shape, logits_dtype)
        return total_loss(losses)

    def upstream(self, value: ArrayLike | None) -> Float64s:
        """Return the gradient from above as one number per row, or one for all."""
        if value is None:
            return ONE
        return checks.upstream(value, self.batch_shape if self.kind == "none" else ()).reshape(-1)


def per_row(values: Float64s, batch_shape: tuple[int, ...], logits_dtype: np.dtype[Any]) -> Any:
    """Return one number per row in the batch's shape, in what logits are computed in; of a single row a scalar."""
    with np.errstate(all="ignore"):  # a loss beyond the range of float32 is inf or 0 there
        return values.astype(kernel_dtype(logits_dtype)).reshape(batch_shape)[()]


ALL_CLASSES = np.ones(0, bool)
ALL_ONE = np.ones(0)
ONE = np.ones(1)
_INTEGER = np.dtype(np.int64)
NO_LABELS = np.zeros(0, np.int64)  # these arrays are shared: nobody writes to them


def logits_alone(n_rows: int, temperature: float) -> Rows:
    """Return rows without targets, which ask for log(sum(exp(z))) alone; its gradient by z is the softmax."""
    t = temperature_of(checks.temperature(temperature))
    return Rows(np.full(n_rows, -1), None, ONE, ONE, ALL_ONE, 1.0, 0.0, ALL_CLASSES, 0.0, 0.0, t)


def describe(
    targets: ArrayLike,
    layout: Layout,
    /,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    class_mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    **unknown: object,
) -> tuple[Rows, Reduction]:
    """Return what targets and options ask for; ValueError or TypeError where they make no sense."""
    checks.no_options(unknown, RowOptions.__annotations__)
    checks.reduction(reduction)
    scalars = _Scalars(
        checks.fraction("label_smoothing", label_smoothing),
        checks.non_negative("z_loss", z_loss),
        0.0 if softcap is None else checks.positive("softcap", softcap),
        temperature_of(checks.temperature(temperature)),
        reduction,
        checks.normalizer(normalizer, reduction),
    )
    r = checks.class_weight(class_weight, layout.n_classes)
    exists = ALL_CLASSES if class_mask is None else checks.class_mask(class_mask, layout.n_classes)
    weight = checks.sample_weight(sample_weight, layout.batch_shape)
    target = checks.targets(targets, layout.shape, layout.batch_shape)
    if exists.size and (r is not None or scalars.eps > 0):
        r = np.where(exists, 1.0 if r is None else r, 0.0)

    share: float | Float64s  # sum_c r_c P_ic; one number, as weight is, where it is the same for all rows
    if target.ndim == len(layout.batch_shape):
        label, weight = _labels(target, weight, ignore_index, exists, layout.n_classes)
        dense = None
        share = 1.0 if r is None else r[label]
    else:
        if ignore_index is not None:
            message = "ignore_index belongs to class-index targets, but targets are one-hot or soft rows"
            raise ValueError(f"{message}: give such rows sample_weight 0 instead")
        dense, weight = target, _one_each(weight, layout.n_rows)
        label, share = _read_dense(dense, weight, r, exists, layout)
        if not np.any((label < 0) & (weight != 0)):
            dense = None
    rows, reduction_of_rows = _combined(scalars, layout, weight, share, class_weight=r, exists=exists)
    return Rows(label, dense, *rows[2:]), reduction_of_rows


@dataclass(frozen=True, eq=False)
class _Scalars:
    """The checked options that are single numbers or words."""

    eps: float
    z_loss: float
    softcap: float
    temperature: Temperature
    reduction: str
    normalizer: float | None


def _combined(
    scalars: _Scalars,
    layout: Layout,
    weight: float | Float64s,
    share: float | Float64s,
    *,
    class_weight: Float64s | None,
    exists: NDArray[np.bool_],
) -> tuple[Rows, Reduction]:
    """Return rows that still lack their targets."""
    eps, total, r = scalars.eps, scalars.normalizer, class_weight
    n_classes = int(exists.sum()) or max(layout.n_classes, 1)
    keep, floor = 1.0 - eps, eps / n_classes
    mean_class_weight = 1.0 if r is None else float(r.sum()) / n_classes
    # the two are equal, but each rounds least on its side: keep is exact from 0.5 on
    less = eps * (mean_class_weight - share) if eps < 0.5 else eps * mean_class_weight
    mass = (share if eps < 0.5 else keep * share) + less
    divisor = _total(weight, share, layout.n_rows)
    if scalars.reduction == "mean":
        counts = divisor > 0 or bool(np.any((np.asarray(weight) > 0) & (np.asarray(share) > 0)))
        divisor = checks.divisor(divisor, total, counts=counts and layout.n_rows > 0)
        weight = weight / divisor if divisor > 0 else weight * 0.0  # a mean over nothing is 0
    r = ALL_ONE if r is None else r
    mass, weight = np.atleast_1d(mass), np.atleast_1d(weight)
    rows = Rows(
        NO_LABELS, None, mass, weight, r, keep, floor, exists, scalars.z_loss, scalars.softcap, scalars.temperature
    )
    return rows, Reduction(scalars.reduction, layout.batch_shape, divisor)


def _one_each(value: float | Float64s, n_rows: int) -> Float64s:
    """Return one number per row, given that or the one number of all rows."""
    return np.full(n_rows, value) if isinstance(value, float) else value


def _total(weight: float | Float64s, share: float | Float64s, n_rows: int) -> float:
    """Return the sum of weight * share over the rows."""
    if isinstance(weight, float) and isinstance(share, float):
        return n_rows * weight * share
    with np.errstate(all="ignore"):
        return float(np.sum(weight * share))  # not a BLAS dot, whose last bit depends on its threads


def plain_labels(target: NDArray[Any], n_classes: int) -> NDArray[np.int64] | None:
    """Return labels, a copy, as what kernels rely on must not change under them; None if not all are classes."""
    labels = target.astype(_INTEGER).ravel()
    return labels if target_kernels.all_within(labels, n_classes) else None


def _labels(
    target: NDArray[Any],
    weight: float | Float64s,
    ignore_index: int | None,
    exists: NDArray[np.bool_],
    n_classes: int,
) -> tuple[NDArray[np.int64], float | Float64s]:
    """Return valid labels, and weights that are 0 in the ignored rows; rows of weight 0 get label 0."""
    if ignore_index is None and not exists.size and isinstance(weight, float):
        plain = plain_labels(target, n_classes)
        if plain is not None:
            return plain, weight
    labels = target.reshape(-1)
    if ignore_index is not None:
        weight = np.where(labels == checks.integer("ignore_index", ignore_index), 0.0, weight)
    weight = _one_each(weight, labels.size)
    live = weight != 0
    checks.labels(labels, live, exists, n_classes, target.shape)
    return np.where(live, labels, 0).astype(np.int64), weight


def _read_dense(
    dense: NDArray[Any],
    weight: Float64s,
    class_weight: Float64s | None,
    exists: NDArray[np.bool_],
    layout: Layout,
) -> tuple[NDArray[np.int64], Float64s]:
    """Return the label of each one-hot row (-1 for others) and sum_j r_j P_j; rows of weight 0 are not read."""
    label = np.full(layout.n_rows, -1)
    share = np.zeros(layout.n_rows)
    wrong_class = np.full(layout.n_rows, -1)
    by_row, factors = layout.row_by_row, ALL_ONE if class_weight is None else class_weight

    def read(piece: Piece) -> None:
        rows = piece.rows
        block = by_row.arranged(by_row.part(dense, piece).astype(kernel_dtype(dense.dtype), copy=False), read_only=True)
        found = label[rows], share[rows], wrong_class[rows]
        target_kernels.read_dense_rows(block, weight[rows], factors, exists, *found)

    for_each(read, by_row.pieces())
    checks.soft_targets(dense, wrong_class, exists, layout.axis)
    return label, share
