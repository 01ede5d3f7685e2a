"""The checks of targets: every message about class indices and rows of targets."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core import checks

Array = NDArray[Any]


def targets(value: ArrayLike, row_shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> Array:
    """Return class indices (integers of the batch's shape) or target rows (floats or bools of the logits' shape)."""
    array = checks.as_array("targets", value)
    shape = array.shape
    if array.dtype.kind in "iu":
        if shape == batch_shape:
            return array
        if shape == row_shape:
            raise TypeError(
                f"targets must be class indices of shape {batch_shape}, or one-hot rows of bools or floats, got "
                f"integers of shape {shape}; for one-hot rows pass targets.astype(bool)"
            )
        remedy = _remedy_for_indices(shape, row_shape, batch_shape)
        raise ValueError(f"targets: class indices must have shape {batch_shape}, got {checks.of_shape(array)}{remedy}")
    if array.size == 0 and shape == batch_shape:
        return array.astype(np.int64)
    if array.dtype.kind != "b" and not checks.is_real(array.dtype):
        expected = "class indices (integers), or one-hot or soft rows (bools or floats), of at most 64 bits"
        got = f"dtype {array.dtype}" if array.ndim else checks.shown(array.item())
        raise TypeError(f"targets must be {expected}, got {got}{_remedy_for_names(array)}")
    if shape == row_shape:
        return array
    if shape == batch_shape:
        raise TypeError(f"targets: class indices must be integers, got {array.dtype}; pass targets.astype(int)")
    remedy = _remedy_for_rows(shape, row_shape, batch_shape)
    expected = f"the shape of logits {row_shape}"
    raise ValueError(f"targets: one-hot or soft rows must have {expected}, got {checks.of_shape(array)}{remedy}")


def _remedy_for_indices(shape: tuple[int, ...], row_shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> str:
    """Return advice about class indices of a wrong shape, or "" if the shape tells nothing."""
    axes = [axis for axis in range(len(row_shape)) if shape == row_shape[:axis] + row_shape[axis + 1 :]]
    if axes:
        return f"; if the classes are on axis {axes[0]} of logits, whose shape is {row_shape}, pass axis={axes[0]}"
    if _without_ones(shape) == _without_ones(batch_shape):
        right = "np.ravel(targets)" if len(batch_shape) == 1 else f"np.reshape(targets, {batch_shape})"
        return f"; pass {right}"
    return ""


def _remedy_for_rows(shape: tuple[int, ...], row_shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> str:
    """Return advice about target rows of a wrong shape, or "" if the shape tells nothing."""
    if sorted(shape) == sorted(row_shape):
        return "; use np.moveaxis to give targets the class axis of logits"
    if _without_ones(shape) == _without_ones(batch_shape):
        return "; for class indices pass np.ravel(targets).astype(int)"
    if len(shape) == len(row_shape) + 1:
        return "; pass logits first and targets second"
    return ""


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _remedy_for_names(array: Array) -> str:
    """Return advice about targets that are the names of classes, or "" if they are not."""
    if array.dtype.kind in "UST" or (array.dtype.kind == "O" and any(isinstance(name, str) for name in array.flat)):
        return "; turn names into indices with names, targets = np.unique(targets, return_inverse=True)"
    return ""


def labels(
    values: Array, live: NDArray[np.bool_], exists: NDArray[np.bool_], n_classes: int, batch_shape: tuple[int, ...]
) -> None:
    """Refuse a class index outside 0..n_classes-1, or of a class that does not exist.

    Only rows whose weight is not 0 are checked: those that are `live`.
    """
    outside = (values < 0) | (values >= n_classes)
    masked = ~exists[np.where(outside, 0, values)] & ~outside if exists.size else np.zeros_like(outside)
    wrong = live & (outside | masked)
    count = int(np.count_nonzero(wrong))
    if count == 0:
        return
    first = int(np.argmax(wrong))
    label = int(values[first])
    position = np.unravel_index(first, batch_shape)
    where = f" at position {checks.position(position)}" if position else ""
    many = f"{count} of {values.size} labels {'is' if count == 1 else 'are'}"
    if masked[first]:
        raise ValueError(
            f"targets must be classes whose class_mask is True, got label {label}{where}; {many} masked; correct the "
            "labels, or set class_mask to True for each class that exists"
        )
    if label < 0 or label == 255:
        remedy = f"if {label} marks rows to ignore, pass ignore_index={label}"
    elif label == n_classes and int(values[live].min()) >= 1:
        remedy = "if labels count from 1, pass targets - 1"
    else:
        remedy = "correct the labels, or use as many classes as the labels need"
    raise ValueError(
        f"targets: label {label}{where} is not in 0..{n_classes - 1} ({n_classes} classes); "
        f"{many} out of range; {remedy}"
    )


def soft_targets(
    rows: Array, wrong: NDArray[np.bool_], exists: NDArray[np.bool_], axis: int, name: str = "targets"
) -> None:
    """Refuse targets if a row of them is `wrong`.

    Such a row has an entry that is negative, NaN or infinite, or that is not 0 although its class does not exist.
    """
    if not wrong.any():
        return
    by_row = np.moveaxis(rows, axis, -1)
    place = [int(i) for i in np.unravel_index(int(np.argmax(wrong)), by_row.shape[:-1])]
    row = by_row[tuple(place)]
    invalid, rule = ~(np.isfinite(row) & (row >= 0)), "finite and not negative"
    if not invalid.any():
        invalid, rule = ~exists & (row != 0), "0 for the classes that class_mask leaves out"
    column = int(np.argmax(invalid))
    place.insert(axis, column)
    count = np.count_nonzero(wrong)
    raise ValueError(
        f"{name} must be {rule}, got {row[column]} at position {checks.position(tuple(place))}; {count} of "
        f"{len(wrong)} rows {'holds' if count == 1 else 'hold'} such values; to leave out a row, give it sample_weight "
        "0"
    )


def one_class_per_row(label: NDArray[np.int64], live: NDArray[np.bool_], batch_shape: tuple[int, ...]) -> None:
    """Refuse a distribution as the target of a row that is `live`: its weight is not 0."""
    soft = live & (label < 0)
    if soft.any():
        position = checks.position(np.unravel_index(int(np.argmax(soft)), batch_shape))
        count = np.count_nonzero(soft)
        raise ValueError(
            f"targets must be class indices or one-hot rows, got a soft row at position {position}; {count} of "
            f"{len(label)} rows {'is' if count == 1 else 'are'} soft; for the likeliest class pass the argmax of each "
            "row"
        )


def refuse_ignore_index() -> None:
    """Refuse `ignore_index`, which has no meaning if targets are one-hot or soft rows."""
    raise ValueError(
        "ignore_index must be None unless targets are class indices, got one-hot or soft rows; to ignore a row, give "
        "it sample_weight 0"
    )
