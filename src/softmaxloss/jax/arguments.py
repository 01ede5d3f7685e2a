"""The checks of arguments: of shapes and dtypes always, of values only when JAX knows them.

While JAX traces a function, for example under `jax.jit`, arrays have no values. Then a label that is not a class makes
its row NaN, and `jax.experimental.checkify` reports the label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from softmaxloss.array.wanted import ignored
from softmaxloss.core import checks, target_checks
from softmaxloss.core.options import NUMBERS, RowOptions, checked_numbers
from softmaxloss.jax.derivatives import Asked
from softmaxloss.log_probabilities import NOT_TAKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softmaxloss.jax.derivatives import Array, Others

    NumPyArray = np.ndarray[Any, Any]

_ARRAYS = ("class_weight", "sample_weight", "class_mask", "normalizer")
_OPTIONAL = (*_ARRAYS, "ignore_index", "softcap")  # None is their default


def as_array(name: str, value: Any) -> Array:
    """Return a value as a JAX array."""
    if isinstance(value, jax.Array):
        return value
    return jnp.asarray(checks.as_array(name, value))


def known(name: str, value: Any) -> NumPyArray:
    """Return a value as a NumPy array. For a traced value, only the shape and dtype of this array are right."""
    if not isinstance(value, jax.Array):
        return checks.as_array(name, value)
    if is_traced(value):
        return form(value.shape, value.dtype)
    return np.asarray(value)


def is_traced(value: Any) -> bool:
    """Return whether the values of an array cannot be read, because it is traced, or in part on other computers."""
    return isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True)


def form(shape: tuple[int, ...], dtype: Any) -> NumPyArray:
    """Return a NumPy array of a shape and dtype that takes the memory of only one number."""
    return np.broadcast_to(np.ones((), dtype), shape)


def static(**options: Any) -> None:
    """Raise TypeError for traced values of options that decide what is computed."""
    for name, value in options.items():
        if isinstance(value, jax.core.Tracer):
            how = "mark it with static_argnames in jax.jit, or close over it"
            raise TypeError(f"{name} must be known when the function is traced, got a traced value; {how}")


def request(
    shape: tuple[int, ...],
    dtype: Any,
    targets: Any,
    axis: int,
    options: Mapping[str, Any],
    *,
    log_probs: bool = False,
) -> tuple[Asked, Others]:
    """Check all arguments but the logits. Return what to compute, and the arrays that it depends on."""
    checks.no_options(options.keys() - RowOptions.__annotations__, RowOptions.__annotations__)
    given = {name: value for name, value in options.items() if value is not None or name not in _OPTIONAL}
    static(axis=axis, **{name: value for name, value in given.items() if name not in _ARRAYS})
    logits = checks.logits(form(shape, dtype))
    axis = checks.axis(axis, logits)
    batch = shape[:axis] + shape[axis + 1 :]
    reduction = given.get("reduction", "mean")
    checks.reduction(reduction)
    numbers = {name: given[name] for name in NUMBERS if name in given}
    numbers = dict(zip(NUMBERS, checked_numbers(**numbers), strict=True)) | {"axis": axis, "reduction": reduction}
    numbers["softcap"] = numbers["softcap"] or None
    labels = target_checks.targets(known("targets", targets), shape, batch)
    if "ignore_index" in given:
        numbers["ignore_index"] = checks.integer("ignore_index", given["ignore_index"])
        if labels.ndim == len(shape):
            target_checks.refuse_ignore_index()
    _check_arrays({name: given[name] for name in _ARRAYS if name in given}, shape[axis], batch, reduction)
    arrays = {name: as_array(name, given[name]) for name in _ARRAYS if name in given}
    targets = as_array("targets", targets)
    if targets.ndim < len(shape) and targets.size:
        _check_labels(targets, labels, given, shape[axis])
    return Asked(tuple(sorted(numbers.items())), log_probs), (targets, arrays)


def request_log_probs(
    shape: tuple[int, ...], dtype: Any, targets: Any, axis: int, options: Mapping[str, Any]
) -> tuple[Asked, Others]:
    """Return the same as `request`, for log-probabilities and entropies."""
    checks.refused(options, NOT_TAKEN)
    if (kind := known("targets", targets).dtype).kind not in "iu":
        raise TypeError(
            f"targets must be class indices, which are integers, got {kind}; for one-hot rows pass their argmax"
        )
    return request(shape, dtype, targets, axis, {**options, "reduction": "none"}, log_probs=True)


def _check_arrays(arrays: Mapping[str, Any], n_classes: int, batch: tuple[int, ...], reduction: str) -> None:
    if "class_weight" in arrays:
        checks.class_weight(known("class_weight", arrays["class_weight"]), n_classes)
    if "class_mask" in arrays:
        checks.class_mask(known("class_mask", arrays["class_mask"]), n_classes)
    if "sample_weight" in arrays:
        checks.sample_weight(known("sample_weight", arrays["sample_weight"]), batch)
    if "normalizer" in arrays:
        divisor: Any = arrays["normalizer"]
        divisor = known("normalizer", divisor) if isinstance(divisor, jax.Array) else divisor
        checks.normalizer(divisor, reduction)


def _check_labels(targets: Array, labels: NumPyArray, options: Mapping[str, Any], n_classes: int) -> None:
    """Raise ValueError for labels that are no classes. If they cannot be read yet, let `checkify` report them later."""
    weight, ignore_index = options.get("sample_weight"), options.get("ignore_index")
    if not (is_traced(targets) or is_traced(weight) or is_traced(options.get("class_mask"))):
        live = np.ones(labels.size, bool) if ignore_index is None else labels.reshape(-1) != ignore_index
        if weight is not None:
            live &= np.asarray(weight).reshape(-1) != 0
        exists = np.asarray(options.get("class_mask", np.ones(0, bool)))
        target_checks.labels(labels.reshape(-1), live, exists, n_classes, labels.shape)
        return
    label = targets.astype(int)  # wide enough for n_classes
    live = jnp.ones(label.shape, bool)
    if ignore_index is not None:
        live &= ~ignored(targets, ignore_index, jnp)
    if weight is not None:
        live &= jnp.asarray(weight) != 0
    outside = (label < 0) | (label >= n_classes)
    _report(live & outside, targets, f"targets must be classes from 0 to {n_classes - 1}, got label {{label}}")
    if "class_mask" in options:
        masked = ~jnp.take(jnp.asarray(options["class_mask"]), jnp.clip(label, 0, n_classes - 1))
        _report(
            live & masked & ~outside, targets, "targets must be classes whose class_mask is True, got label {label}"
        )


def _report(wrong: Array, targets: Array, message: str) -> None:
    """Let `checkify` report the first wrong label and, if there is more than one label, its position."""
    first = jnp.argmax(wrong)
    index = dict(zip("ijklmnop", jnp.unravel_index(first, targets.shape), strict=False))
    place = ", ".join(f"{{{name}}}" for name in index)
    message += f" at position {f'({place})' if len(index) > 1 else place}" if index else ""
    checkify.debug_check(~jnp.any(wrong), message, label=jnp.ravel(targets)[first], **index)
