"""Targets and options, checked and turned into `Rows`, the descriptor of rows, and the `Reduction` of their losses.

Every option of the loss of NumPy arrays is read here and nowhere else. `array/wanted.py` does the same where no kernel
runs. With class weights r, label smoothing eps over V classes and a target distribution P, the effective target of a
row is

    q_j = r_j * (keep * P_j + floor),    keep = 1 - eps,    floor = eps / V

For targets, smoothing, class weights and class mask, kernels get the terms of this formula, and `mass`, the sum of q.
Sample weights, ignored labels and the divisor of the mean become one weight per row. Kernels get z_loss and temperature
as they are. `core/staging.py` applies the soft cap before kernels get the logits.

The file has over 300 lines, because every option is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from inspect import Parameter, signature
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks, target_checks
from softmaxloss.core.dtypes import DOUBLE, INTEGER, kernel_dtype
from softmaxloss.core.layout import Layout, layout_of
from softmaxloss.core.memory import reused_copy, reused_empty
from softmaxloss.core.rows import ALL_CLASSES, ALL_ONE, NO_LABELS, ONE, Rows, logits_alone
from softmaxloss.core.staging import scratch_for_columns
from softmaxloss.core.threads import for_each
from softmaxloss.kernels import summary as summary_kernels
from softmaxloss.kernels import targets as target_kernels
from softmaxloss.kernels.side_by_side import targets as side_by_side

if TYPE_CHECKING:
    from softmaxloss.core.layout import Piece

__all__ = [
    "ONE",
    "Reduction",
    "RowOptions",
    "Rows",
    "Slice",
    "are_constant",
    "averaged",
    "describe",
    "describe_labels",
    "per_row",
    "request",
    "request_without_targets",
    "with_row_options",
]

Array = NDArray[Any]
Float64s = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])


class Slice(NamedTuple):
    """The part of all classes to which the logits belong."""

    first: int
    n_classes: int  # of the whole vocabulary: each label is less than this
    n_existing: int  # how many classes of the whole vocabulary exist


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


def describe(
    targets: ArrayLike,
    layout: Layout,
    of: Slice | None = None,
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
    """Return the descriptor of the rows and the reduction, or raise ValueError or TypeError for a wrong argument.

    The logits are those of all classes, or of a slice of them (`of`).
    """
    checks.no_options(unknown, RowOptions.__annotations__)
    eps, *numbers = checked_numbers(label_smoothing, z_loss, softcap, temperature)
    checks.reduction(reduction)
    normalizer = checks.normalizer(normalizer, reduction)
    r = ALL_ONE if class_weight is None else checks.class_weight(class_weight, layout.n_classes)
    exists = ALL_CLASSES if class_mask is None else checks.class_mask(class_mask, layout.n_classes)
    weight = ONE if sample_weight is None else checks.sample_weight(sample_weight, layout.batch_shape)
    target = target_checks.targets(targets, layout.shape, layout.batch_shape)
    if exists.size and (r.size or eps > 0):
        r = np.where(exists, r if r.size else 1.0, 0.0)

    here = int(exists.sum()) or layout.n_classes
    n_existing = here if of is None else of.n_existing
    keep, floor = 1.0 - eps, eps / max(n_existing, 1)

    # unsmoothed = sum_c r_c P_ic, the mass before smoothing; like weight, one number if it is the same for all rows
    dense, unsmoothed = None, ONE
    if target.ndim == len(layout.batch_shape):
        if of is None:
            label, weight = _labels(target, weight, ignore_index, exists, layout.n_classes)
            # all labels are classes; with mode="raise", np.take would need a buffer
            unsmoothed = np.take(r, label, out=reused_empty(label.shape, DOUBLE), mode="clip") if r.size else ONE
        else:
            label, weight = _labels(target, weight, ignore_index, _among_all(exists, of), of.n_classes)
            label, unsmoothed = _in_slice(label - of.first, r, exists, layout.n_classes)
    else:
        if ignore_index is not None:
            target_checks.refuse_ignore_index()
        weight = _for_each_row(weight, layout.n_rows)
        label, unsmoothed = _read_dense(target, Rows(NO_LABELS, None, ONE, weight, r, exists, keep, floor), layout)
        dense = target if np.any((label < 0) & (weight != 0)) else None

    with np.errstate(all="ignore"):
        mean_class_weight = float(r.sum() if r.size else here) / max(n_existing, 1)
        mass = _smoothed(unsmoothed, eps, mean_class_weight)
        divisor = _total(weight, unsmoothed, layout.n_rows)
        if reduction == "mean":
            counts = divisor > 0 or bool(np.any((weight > 0) & (unsmoothed > 0)))
            divisor = checks.divisor(divisor, normalizer, counts=counts and layout.n_rows > 0)
            weight = averaged(weight, divisor)
    favourite = float(r.argmax()) if r.size and floor > 0 else -1.0
    rows = Rows(label, dense, mass, weight, r, exists, keep, floor, favourite, *numbers)
    return rows, Reduction(reduction, layout.batch_shape, divisor)


def averaged(weight: Float64s, divisor: float) -> Float64s:
    """Divide the weights of rows, so that their weighted losses add up to the mean; a mean over nothing is 0."""
    if divisor > 0:
        return np.divide(weight, divisor, out=reused_empty(weight.shape, DOUBLE))
    return weight * 0.0


def describe_labels(targets: ArrayLike, layout: Layout, options: RowOptions, not_taken: Mapping[str, str]) -> Rows:
    """Return the descriptor of rows whose targets are single classes; refuse the options in `not_taken`."""
    checks.refused(options, not_taken)
    rows = describe(targets, layout, **options)[0].each()
    target_checks.one_class_per_row(rows.label, rows.weight != 0, layout.batch_shape)
    return rows


def checked_numbers(
    label_smoothing: float = 0.0, z_loss: float = 0.0, softcap: float | None = None, temperature: float = 1.0
) -> tuple[float, float, float, float]:
    """Check the options that are one number each, and return them as Python floats; softcap=None becomes 0."""
    return (
        checks.fraction("label_smoothing", label_smoothing),
        checks.non_negative("z_loss", z_loss),
        0.0 if softcap is None else checks.positive("softcap", softcap),
        checks.temperature(temperature),
    )


class Reduction(NamedTuple):
    """How the losses of rows become the result, and how a gradient from above becomes one number per row."""

    kind: str
    batch_shape: tuple[int, ...]
    divisor: float  # of a mean: sum_i w_i sum_c r_c P_ic, or the caller's normalizer

    def result(self, losses: Float64s, logits_dtype: np.dtype[Any]) -> Any:
        """Return the losses of rows, or their sum. It is also the mean: the weights contain the divisor already."""
        if self.kind == "none":
            return per_row(losses, self.batch_shape, logits_dtype)
        return summary_kernels.total(losses)

    def upstream(self, value: ArrayLike | None) -> Float64s:
        """Return the gradient from above as one number per row, or one number for all rows."""
        if value is None:
            return ONE
        return checks.upstream(value, self.batch_shape if self.kind == "none" else ()).reshape(-1)


def per_row(values: Float64s, batch_shape: tuple[int, ...], logits_dtype: np.dtype[Any]) -> Any:
    """Return one number per row, in the shape of the batch and the dtype of the computation; a scalar for one row."""
    with np.errstate(all="ignore"):  # a loss beyond the range of float32 is inf or 0 there
        return values.astype(kernel_dtype(logits_dtype)).reshape(batch_shape)[()]


def with_row_options(function: F, but: Collection[str] = ()) -> F:
    """In the signature that help() and editors print, replace `**options` by the row options, except those in `but`."""
    shown = signature(function)
    own = [p for p in shown.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    names = RowOptions.__annotations__.keys() - set(but)
    options = [p for name, p in signature(describe).parameters.items() if name in names]
    positional = [p for p in own if p.kind is not Parameter.KEYWORD_ONLY]
    axis = [p for p in own if p.name == "axis"]
    keyword_only = [p for p in own if p.kind is Parameter.KEYWORD_ONLY and p not in axis]
    function.__signature__ = shown.replace(parameters=[*positional, *axis, *options, *keyword_only])  # type: ignore[attr-defined]
    return function


NUMBERS = ("label_smoothing", "z_loss", "softcap", "temperature")
_CONSTANT = {float, int, str, NoneType}
Request = tuple[Array, Layout, Rows, Reduction]


def are_constant(values: Iterable[object]) -> bool:
    """Return whether values can be remembered: numbers, words and None, but not arrays, which may change later."""
    return _CONSTANT.issuperset(map(type, values))


def request(logits: ArrayLike, targets: ArrayLike, axis: int, options: RowOptions) -> Request:
    """Return the logits as an array, their layout, rows and reduction; raise ValueError or TypeError if they are wrong.

    If targets are class indices and options are constants, then everything except the labels depends only on the
    options and on the shape and dtype of the logits. It is remembered, because working it out takes longer than
    computing a small loss.
    """
    z, t = checks.as_array("logits", logits), checks.as_array("targets", targets)
    plain = t.dtype.kind in "iu" and z.dtype.kind in "fV" and type(axis) is int
    if plain and (not options or are_constant(options.values())):
        known = _of_labels(z.shape, z.dtype, axis, tuple(options), *options.values())
        if known is not None and t.shape == known[0].batch_shape:
            layout, rows, reduction = known
            label = _plain_labels(t, layout.n_classes)
            if label is not None:
                return z, layout, rows.with_labels(label), reduction
    z = checks.logits(z)
    layout = layout_of(z.shape, checks.axis(axis, z))
    return z, layout, *describe(t, layout, **options)


def request_without_targets(
    logits: ArrayLike, axis: int, temperature: float, unknown: Collection[str]
) -> tuple[Array, Layout, Rows]:
    """Return the logits as an array, and rows whose loss is log(sum(exp(z))); its gradient is the softmax."""
    checks.no_options(unknown)
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    return z, layout, logits_alone(layout.n_rows, checks.temperature(temperature))


@lru_cache(maxsize=256, typed=True)  # -100.0 is refused as `ignore_index`, -100 is not
def _of_labels(
    shape: tuple[int, ...], dtype: np.dtype[Any], axis: int, names: tuple[str, ...], *constants: Any
) -> tuple[Layout, Rows, Reduction] | None:
    """Return the same as `request`, but without labels, or None if more than the labels depends on targets."""
    options: Any = dict(zip(names, constants, strict=True))
    ignored = options.pop("ignore_index", None)
    if 0 in shape or options.get("sample_weight") is not None or options.get("normalizer") == 0:
        return None  # a normalizer may be 0 if all rows are ignored
    if ignored is not None and 0 <= checks.integer("ignore_index", ignored) < shape[axis]:
        return None  # any other value is no class: no row is ignored if all labels are classes
    logits = checks.logits(np.broadcast_to(np.zeros((), dtype), shape))
    layout = layout_of(shape, checks.axis(axis, logits))
    rows, reduction = describe(np.zeros(layout.batch_shape, np.int64), layout, **options)
    return layout, rows.with_labels(NO_LABELS), reduction


def _smoothed(mass: Float64s, eps: float, mean_class_weight: float) -> Float64s:
    """Return (1 - eps) * mass + eps * mean_class_weight."""
    if eps == 0:
        return mass
    smoothed = reused_copy(mass, DOUBLE)
    if eps < 0.5:  # the formula above, rearranged to round less
        np.subtract(mean_class_weight, mass, out=smoothed)
        smoothed *= eps
        smoothed += mass
    else:  # 1 - eps is exact, so the formula rounds little
        smoothed *= 1 - eps
        smoothed += eps * mean_class_weight
    return smoothed


def _for_each_row(value: Float64s, n_rows: int) -> Float64s:
    """Return one number per row, given one per row or one for all rows."""
    return value if len(value) == n_rows else reused_copy(np.broadcast_to(value, n_rows), DOUBLE)


def _total(weight: Float64s, unsmoothed: Float64s, n_rows: int) -> float:
    """Return the sum of weight * unsmoothed over the rows."""
    if weight is ONE or unsmoothed is ONE:
        products = unsmoothed if weight is ONE else weight
    else:  # not np.dot: the last bit of BLAS depends on its threads
        products = np.multiply(weight, unsmoothed, out=reused_empty(weight.shape, DOUBLE))
    return float(np.sum(products)) if len(products) == n_rows else n_rows * float(products[0])


def _plain_labels(target: Array, n_classes: int) -> NDArray[np.int64] | None:
    """Return a copy of labels: kernels rely on labels that do not change. Return None if not all are classes."""
    labels = reused_copy(target, INTEGER)
    return labels if target_kernels.all_within(labels, n_classes) else None


def _labels(
    target: Array, weight: Float64s, ignore_index: int | None, exists: NDArray[np.bool_], n_classes: int
) -> tuple[NDArray[np.int64], Float64s]:
    """Return valid labels, and weights that are 0 in the ignored rows; rows of weight 0 get label 0.

    The array `weight`, unless it is ONE, is overwritten.
    """
    if ignore_index is None and not exists.size and weight is ONE:
        plain = _plain_labels(target, n_classes)
        if plain is not None:
            return plain, weight
    label = reused_copy(target, INTEGER)
    weight = reused_copy(np.broadcast_to(ONE, target.size), DOUBLE) if weight is ONE else weight
    ignored = None if ignore_index is None else checks.integer("ignore_index", ignore_index)
    low, high = np.iinfo(target.dtype).min, np.iinfo(target.dtype).max
    ignores = ignored is not None and low <= ignored <= high  # no label equals a number outside
    as_label = np.array(ignored if ignores else 0, target.dtype).astype(INTEGER)
    if target_kernels.read_labels(label, ignores, as_label[()], exists, n_classes, weight):
        target_checks.labels(target.reshape(-1), weight != 0, exists, n_classes, target.shape)
    return label, weight


def _among_all(exists: NDArray[np.bool_], of: Slice) -> NDArray[np.bool_]:
    """Return which of all classes exist. A slice knows its own classes; the others are taken to exist."""
    if not exists.size:
        return exists
    among_all = np.ones(of.n_classes, bool)
    part = among_all[of.first : of.first + exists.size]
    part[...] = exists[: part.size]
    return among_all


def _in_slice(
    label: NDArray[np.int64], r: Float64s, exists: NDArray[np.bool_], n_classes: int
) -> tuple[NDArray[np.int64], Float64s]:
    """Return labels that count from the first class of a slice, and their r.

    If the label of a row is outside the slice, P is 0 for all classes of the slice, and so is r.
    """
    inside = (label >= 0) & (label < n_classes)
    target = int(r.argmax()) if r.size else int(exists.argmax()) if exists.size else 0
    label = np.where(inside, label, -1 - target)
    return label, np.where(inside, r[label] if r.size else 1.0, 0.0)


def _read_dense(dense: Array, rows: Rows, layout: Layout) -> tuple[NDArray[np.int64], Float64s]:
    """Return the label of each one-hot row, or -1 - t for other rows, and sum_j r_j P_j. Skip rows of weight 0."""
    rows = rows.with_labels(reused_copy(np.broadcast_to(-1, layout.n_rows), INTEGER))
    unsmoothed = reused_copy(np.broadcast_to(0.0, layout.n_rows), DOUBLE)
    wrong = np.zeros(layout.n_rows, bool)

    def read(piece: Piece) -> None:
        part = layout.part(dense, piece).astype(kernel_dtype(dense.dtype), copy=False)
        some = rows._replace(label=rows.label[piece.rows], weight=rows.weight[piece.rows])
        block, found = layout.arranged(part, read_only=True), (unsmoothed[piece.rows], wrong[piece.rows])
        if layout.class_major:
            side_by_side.read_dense_rows(block, some.fields(), scratch_for_columns(layout, block), *found)
        else:
            target_kernels.read_dense_rows(block, some.fields(), *found)

    for_each(read, layout.pieces())
    target_checks.soft_targets(dense, wrong, rows.class_mask, layout.axis)
    return rows.label, unsmoothed
