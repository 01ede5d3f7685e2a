"""Targets and options, turned into numbers per row and per class before any logit is read.

With target distribution P, class weights r, and smoothing eps over V classes:

    q_j = r_j ((1 - eps) P_j + eps / V)               the effective target
    t   = argmax_j q_j                                the class that rows.py keeps apart from all others
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.array.rows import Array, Frame

__all__ = ["Options", "Wanted", "wanted"]


class Options(NamedTuple):
    """The options of the loss, which `softmaxloss.cross_entropy` documents.

    Arrays are of the namespace and on the device of the logits. Numbers are Python numbers, because they decide what is
    computed. If there are no class weights, `class_mask` may also have the shape of the logits: then each row has its
    own classes.
    """

    axis: int = -1
    class_weight: Array | None = None
    sample_weight: Array | None = None
    ignore_index: int | None = None
    class_mask: Array | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    reduction: str = "mean"
    normalizer: float | Array | None = None
    xp: Any = None  # the namespace: array_api_compat could find it, but then torch.compile warns


class Wanted(NamedTuple):
    """Targets and options of rows: numbers per row, and the terms of q along the axis of the classes."""

    frame: Frame
    options: Options
    t: Array
    q_t: Array
    unsmoothed: Array  # sum_c r_c P_c
    weight: Array  # w, divided by the divisor of a mean; 0 in a row that does not count, NaN if the label is no class
    live: Array | None  # whether the row counts; None if all do, whatever the values of the options
    label: Array | None  # the class where P is 1; None if that is t in all rows, and for distributions
    p: Array | None  # P, along the axis of the classes; None for labels
    r: Array | float  # class weights, 0 for classes that do not exist; 1.0 if no option needs them
    exists: Array | None  # whether a class exists, along the axis of the classes; None if all exist
    floor: Array  # eps / V

    @property
    def is_sharp(self) -> bool:
        """Whether q is 0 for all classes but t."""
        return self.p is None and not self.options.label_smoothing

    def q(self) -> Array:
        """Return q along the axis of the classes. Unless targets are distributions, the entry of t may be wrong."""
        frame, keep = self.frame, 1 - self.options.label_smoothing
        if self.p is not None:
            return self.r * (keep * self.p + self.floor if self.options.label_smoothing else self.p)
        if self.label is None:
            return self.r * self.floor
        return self.r * (frame.xp.where(frame.index == self.label, frame.numbers(keep), 0.0) + self.floor)

    def of_block(self, first: int | Array, cut: Callable[[Array], Array]) -> Wanted:
        """Return the same for a block of classes, given its first class and a function that cuts out the block."""
        frame = self.frame._replace(index=cut(self.frame.index), first=first)
        along = (self.p, self.r, self.exists)
        p, r, exists = (of if of is None or isinstance(of, float) else cut(of) for of in along)
        return self._replace(frame=frame, p=p, r=r, exists=exists)


def wanted(frame: Frame, targets: Array, options: Options) -> Wanted:
    """Return targets and options of the rows of a frame as `Wanted`."""
    xp, eps = frame.xp, options.label_smoothing
    are_labels = targets.ndim < len(frame.row_shape)
    exists, r, n_classes = None, 1.0, frame.index.shape[frame.axis]
    if options.class_weight is not None:
        r = frame.per_class(frame.numbers(options.class_weight))
    if options.class_mask is not None:
        exists = options.class_mask if options.class_mask.ndim > 1 else frame.per_class(options.class_mask)
        n_classes = frame.total(frame.numbers(exists))
        if options.class_weight is not None or eps:
            r = xp.where(exists, frame.numbers(r), 0.0)
    weight = xp.ones(frame.row_shape, dtype=frame.dtype, device=frame.device)
    if options.sample_weight is not None:
        weight = frame.per_row(frame.numbers(options.sample_weight))

    rows = Wanted(
        frame,
        options,
        None,
        None,
        None,
        weight,
        None,
        None,
        None,
        r,
        exists,
        frame.numbers(eps / n_classes if eps else 0.0),
    )
    rows = _of_labels(rows, targets) if are_labels else _of_distributions(rows, targets)
    may_be_0 = [options.sample_weight, options.ignore_index if are_labels else None]
    if options.reduction == "mean":
        rows = rows._replace(weight=_averaged(rows))
        may_be_0 += [options.class_weight, options.normalizer, rows.p]
    return rows if all(of is None for of in may_be_0) else rows._replace(live=rows.weight != 0)


def ignored(labels: Array, ignore_index: int, xp: Any) -> Array:
    """Return which labels equal `ignore_index`: none if their dtype cannot hold it, where libraries wrap or raise."""
    numbers = xp.iinfo(labels.dtype)
    if not numbers.min <= ignore_index <= numbers.max:
        return xp.zeros_like(labels, dtype=xp.bool)
    return labels == xp.full_like(labels, ignore_index)


def _of_labels(rows: Wanted, labels: Array) -> Wanted:
    (frame, options), r, weight = rows[:2], rows.r, rows.weight
    xp, keep = frame.xp, 1 - options.label_smoothing
    label = frame.per_row(labels)
    if options.ignore_index is not None:
        weight = xp.where(ignored(label, options.ignore_index, xp), 0.0, weight)
    label = xp.astype(label, xp.arange(0).dtype)  # wide enough for all classes; larger labels become negative
    known = (label >= 0) & (label < frame.index.shape[frame.axis])
    if rows.exists is not None:
        exists = xp.take(xp.reshape(rows.exists, (-1,)), xp.reshape(xp.where(known, label, 0), (-1,)))
        known = known & xp.reshape(exists, label.shape)
    weight = xp.where(known | (weight == 0), weight, nan)
    label = xp.astype(xp.where(known, label, 0), frame.index.dtype)  # only known labels are used as an index
    r_label = xp.ones_like(weight)
    if options.class_weight is not None:
        r_label = xp.reshape(xp.take(xp.reshape(r, (-1,)), xp.reshape(label, (-1,))), label.shape)
    rows = rows._replace(t=label, q_t=r_label * (keep + rows.floor), unsmoothed=r_label, weight=weight)
    if options.class_weight is None or not options.label_smoothing:
        return rows
    # a class of large weight may have a larger q than the label
    q_of_favourite = rows.floor * xp.max(r, axis=frame.axis, keepdims=True)
    other = q_of_favourite > rows.q_t
    t, q_t = xp.where(other, frame.highest(r), label), xp.where(other, q_of_favourite, rows.q_t)
    return rows._replace(t=t, q_t=q_t, label=label)


def _of_distributions(rows: Wanted, targets: Array) -> Wanted:
    frame, xp = rows.frame, rows.frame.xp
    p = frame.numbers(targets)
    if rows.options.sample_weight is not None:
        p = xp.where(rows.weight == 0, 0.0, p)
    rows = rows._replace(p=p)
    q = rows.q()
    t = frame.highest(q)
    return rows._replace(t=t, q_t=frame.of_class(q, t), unsmoothed=frame.total(rows.r * p))


def _averaged(rows: Wanted) -> Array:
    """Return the weights of rows divided by the divisor of the mean; the mean over nothing is 0."""
    frame, given, where = rows.frame, rows.options.normalizer, rows.frame.xp.where
    divisor = frame.xp.sum(rows.weight * rows.unsmoothed) if given is None else frame.numbers(given)
    nothing = divisor == 0
    return where(nothing, 0.0, rows.weight / where(nothing, 1.0, divisor))
