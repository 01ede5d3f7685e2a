"""The arguments `axis` and `where` of optax and `jax.nn`: classes on several axes, masks of logits or of rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from softmaxloss.core import checks
from softmaxloss.jax.arguments import as_array, form, static

if TYPE_CHECKING:
    from jax.typing import ArrayLike

Axes = int | tuple[int, ...] | None
Array = jax.Array


def axes_of(axes: Axes, logits: Array) -> tuple[int, ...]:
    """Return the axes of the classes, counted from 0. None stands for all axes."""
    checked = checks.logits(form(logits.shape, logits.dtype))
    if axes is None:
        return tuple(range(logits.ndim))
    several = tuple(axes) if isinstance(axes, tuple | list) else (axes,)
    for axis in several:
        static(axis=axis)
    along = tuple(checks.axis(axis, checked) for axis in several)
    if len(set(along)) < max(1, len(along)):
        raise ValueError(f"axis must be an axis, or several that differ, got {checks.shown(axes)}")
    return along


def joined(array: Array, along: tuple[int, ...]) -> Array:
    """Join the axes of the classes into one axis at the end; an array with one such axis stays as it is."""
    if len(along) == 1:
        return array
    batch = [axis for axis in range(array.ndim) if axis not in along]
    n_classes = math.prod(array.shape[axis] for axis in along)
    return array.transpose(*batch, *along).reshape(*(array.shape[axis] for axis in batch), n_classes)


def parted(array: Array, along: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Undo `joined`: return the array in its original shape."""
    if len(along) == 1:
        return array
    order = [*(axis for axis in range(len(shape)) if axis not in along), *along]
    return array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def broadcast(name: str, array: Array, shape: tuple[int, ...], given: tuple[int, ...] | None = None) -> Array:
    """Return an array broadcast to the shape of the logits. An error shows `given`, its shape without added axes."""
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} must have the shape of logits {shape}, or broadcast to it, got shape {given or array.shape}"
        ) from None


def mask_of(where: ArrayLike, shape: tuple[int, ...], along: tuple[int, ...] = ()) -> Array:
    """Return a mask of the logits that count. If `where` lacks the axes of the classes, it is a mask of rows."""
    mask = as_array("where", where)
    if mask.dtype != bool:
        raise TypeError(f"where must be bool, True for logits that count, got {mask.dtype}; pass where.astype(bool)")
    of_rows = mask.ndim == len(shape) - len(along)
    return broadcast("where", jnp.expand_dims(mask, along) if of_rows else mask, shape, mask.shape)
