"""Losses of rows and their gradients, computed by the kernels if JAX computes on a single CPU.

A primitive is an operation that JAX does not look into. Ours returns the losses and, if wanted, the gradients. How it
is computed is decided when JAX compiles (lowers) a function for its devices:

- On a single CPU, XLA calls Python, and the kernels read and write XLA's memory: nothing is copied.
- On other or several devices, and in an export, the operations of `softmaxloss.array` replace the primitive.

Its derivatives are also those of `softmaxloss.array`. `jax.vmap` turns it into one call with a larger batch.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from softmaxloss import array
from softmaxloss.core import rowwise
from softmaxloss.core.options import NUMBERS, ONE, per_row, request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.array.wanted import Wanted
    from softmaxloss.jax.derivatives import Asked

Array = jax.Array
_OF_CLASSES = ("class_weight", "class_mask")
_XLA_CALLS_PYTHON = find_spec("jax.experimental.buffer_callback") is not None  # later versions of JAX may drop it


class Work(NamedTuple):
    """The static parameters of the primitive."""

    axis: int  # the axis of the classes, counted from the end, so that `vmap` can add an axis in front
    numbers: tuple[tuple[str, Any], ...]  # the options that are numbers
    names: tuple[str, ...]  # the names of the options that are arrays with one entry per class
    gradient: bool  # whether it also returns gradients

    def options(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Return all options but the weights of the rows."""
        given = dict(zip(self.names, arrays, strict=True))
        return {**dict(self.numbers), **given, "axis": self.axis, "reduction": "none"}


def suits(asked: Asked, rows: Wanted, logits: Array) -> bool:
    """Return whether the primitive can compute the results of these rows, and is faster."""
    exists, mesh = rows.options.class_mask, jax.typeof(logits).sharding.mesh
    has_losses = not asked.log_probs and 0 not in logits.shape and (exists is None or exists.ndim == 1)
    # Gradients in half precision would be rounded twice. With a soft cap, XLA is usually faster: in 0.3 to 0.8 of the
    # time, it computes a loss of float32 in single precision, where the kernels compute in double precision.
    is_faster = logits.dtype == rows.frame.dtype and rows.options.softcap is None
    # on mesh axes that are not automatic, as in jax.shard_map, each operation must say how its results are split
    return has_losses and is_faster and all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def losses(rows: Wanted, logits: Array, targets: Array, *, gradient: bool) -> tuple[Array, ...]:
    """Return the losses of rows, and their gradients with respect to the logits if wanted."""
    axis, options = rows.frame.axis, rows.options._asdict()
    if rows.p is None:  # a label that is no class has become 0, and the weight of its row NaN
        targets = jnp.squeeze(rows.t if rows.label is None else rows.label, axis=axis)
    names = tuple(name for name in _OF_CLASSES if options[name] is not None)
    work = Work(axis - logits.ndim, tuple((name, options[name]) for name in NUMBERS), names, gradient)
    weight = jnp.squeeze(rows.weight, axis=axis)
    return tuple(_losses.bind(logits, targets, weight, *(options[name] for name in names), work=work))


def _by_arrays(work: Work, logits: Any, targets: Any, weight: Any, *arrays: Any) -> tuple[Any, ...]:
    options = {**work.options(arrays), "sample_weight": weight}
    if work.gradient:
        return array.losses_and_gradients(logits, targets, **options)
    return (array.losses(logits, targets, **options),)


def _by_kernels(work: Work, logits: Array, targets: Array, weight: Array, *arrays: Array) -> tuple[Array, ...]:
    from jax.experimental.buffer_callback import buffer_callback  # noqa: PLC0415  only a CPU needs it

    called: Any = buffer_callback(partial(_compute, work), (weight, logits)[: 1 + work.gradient])
    return tuple(called(logits, targets, weight, *arrays))


def _compute(work: Work, _context: Any, results: Sequence[Any], *arguments: Any) -> None:
    """Write losses, and gradients if wanted, to the memory of the results."""
    loss, *gradient = map(np.asarray, results)
    logits, targets, weight, *arrays = map(np.asarray, arguments)
    options = work.options(arrays)
    if arrays or targets.ndim == logits.ndim:
        options["sample_weight"] = weight != 0  # `request` must not check the targets of rows of weight 0
    with np.errstate(all="ignore"):
        try:
            z, layout, rows, _ = request(logits, targets, options.pop("axis"), options)  # type: ignore[arg-type]
        except ValueError:  # values that `request` refuses, such as negative class weights: the formula still holds
            found = _by_arrays(work, logits, targets, weight, *arrays)
            for result, place in zip(found, (loss, *gradient), strict=True):
                place[...] = result
            return
        rows = rows._replace(weight=weight.astype(np.float64).reshape(-1))
        if gradient:
            of_rows = rowwise.losses_and_gradients(z, rows, ONE, gradient[0], layout)
        else:
            of_rows = rowwise.losses(z, rows, layout)
        loss[...] = per_row(of_rows, layout.batch_shape, z.dtype)


_losses: Any = Primitive("softmaxloss_losses")
_losses.multiple_results = True
_losses.def_impl(lambda *arguments, work: _by_arrays(work, *arguments))
_losses.def_abstract_eval(lambda logits, _, weight, *_arrays, work: [weight, logits][: 1 + work.gradient])


def _change(primals: Sequence[Array], tangents: Sequence[Any], *, work: Work) -> Any:
    changes = jax.jvp(partial(_by_arrays, work), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))[1]
    return _losses.bind(*primals, work=work), changes


def _mapped(arguments: Sequence[Array], axes: Sequence[int | None], *, work: Work) -> Any:
    of_rows, of_classes = arguments[:3], arguments[3:]
    if any(axis is not None for axis in axes[3:]):
        results = jax.vmap(partial(_by_arrays, work), axes)(*arguments)
    else:
        (size,) = {of.shape[axis] for of, axis in zip(of_rows, axes[:3], strict=True) if axis is not None}
        stack: Any = batching.bdim_at_front
        stacked = [stack(of, axis, size) for of, axis in zip(of_rows, axes[:3], strict=True)]
        results = _losses.bind(*stacked, *of_classes, work=work)
    return results, [0] * len(results)


def _lowered(context: Any, *arguments: Any, work: Work) -> Any:
    module, compute = context.module_context, _by_arrays
    is_one = isinstance(module.axis_context, mlir.ShardingContext) and module.axis_context.num_devices == 1
    is_on_cpu = tuple(module.platforms) == ("cpu",) and not module.lowering_parameters.for_export
    if is_one and is_on_cpu and _XLA_CALLS_PYTHON:
        compute = _by_kernels
    return mlir.lower_fun(partial(compute, work), multiple_results=True)(context, *arguments)


ad.primitive_jvps[_losses] = _change
batching.primitive_batchers[_losses] = _mapped
mlir.register_lowering(_losses, _lowered)  # one rule for all platforms: JAX fails to combine several in an export
