"""The results for each row (losses, or log-probabilities and entropies), and their derivatives.

The gradient with respect to logits is the formula y - t, computed by the kernels (see by_kernels.py) or by
`softmaxloss.array`. JAX gets it as a custom JVP, a rule that says how a small change of the logits changes a result: by
the sum of gradient times change. This sum is linear in the change. So JAX can transpose it, which gives the gradient
again. For second derivatives JAX differentiates the formula of the gradient. Derivatives with respect to targets and
weights need no rule: JAX finds them by itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from softmaxloss.array.loss import gradient_of, gradients_of_log_probs, log_probs_of, loss_of
from softmaxloss.array.rows import frame_of
from softmaxloss.array.summary import look, summarize, whole
from softmaxloss.array.wanted import Options, wanted
from softmaxloss.jax import by_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.array.rows import View
    from softmaxloss.array.summary import Look, Summary
    from softmaxloss.array.wanted import Wanted

Array = jax.Array
Others = tuple[Array, dict[str, Array]]  # the targets, and the options that are arrays
Numbers = tuple[Array, ...]  # results of rows: the losses, or log-probabilities and entropies


class Asked(NamedTuple):
    """The static part of the arguments: it decides what is computed."""

    numbers: tuple[tuple[str, Any], ...]  # the options that are not arrays
    log_probs: bool = False  # compute log-probabilities and entropies, not losses
    block: int = 0  # how many classes of a linear layer are computed at once

    def of(self, shape: tuple[int, ...], dtype: Any, others: Others) -> Wanted:
        """Return targets and options, for logits of this shape and dtype, as `Wanted`."""
        targets, arrays = others
        options = Options(**{**dict(self.numbers), **arrays}, xp=jnp)
        return wanted(frame_of(jax.ShapeDtypeStruct(shape, dtype), options.axis, jnp), targets, options)  # type: ignore[no-untyped-call]

    def numbers_of(self, rows: Wanted, summary: Summary) -> Numbers:
        """Return the results of rows from their summary."""
        seen = whole(rows, summary)
        found = log_probs_of(rows, summary, seen) if self.log_probs else (loss_of(rows, summary, seen),)
        return tuple(jnp.squeeze(of, axis=rows.frame.axis) for of in found)

    def gradients_of(self, rows: Wanted, looked: Look, summary: Summary, seen: View) -> Numbers:
        """Return the gradients of the results with respect to the logits."""
        if self.log_probs:
            return gradients_of_log_probs(rows, looked, summary, seen)
        return (gradient_of(rows, looked, summary, seen),)


@partial(jax.jit, static_argnums=0)
def of_logits(asked: Asked, logits: Array, others: Others) -> Numbers:
    """Return the results for rows of logits."""
    return _of_logits(asked, logits, others)


def _plain(asked: Asked, logits: Array, others: Others) -> Numbers:
    rows = asked.of(logits.shape, logits.dtype, others)
    return asked.numbers_of(rows, summarize(rows, look(rows, logits), entropy=asked.log_probs))


def _fastest(asked: Asked, logits: Array, others: Others) -> Numbers:
    rows = asked.of(logits.shape, logits.dtype, others)
    if by_kernels.suits(asked, rows, logits):
        return by_kernels.losses(rows, logits, others[0], gradient=False)
    return _plain(asked, logits, others)


_of_logits = jax.custom_jvp(_fastest, nondiff_argnums=(0,))


def _change(asked: Asked, primals: tuple[Array, Others], tangents: tuple[Any, Any]) -> tuple[Numbers, Numbers]:
    (logits, others), (d_logits, d_others) = primals, tangents
    changes = change_by_others(partial(_plain, asked, logits), others, d_others)
    if is_zero(d_logits):
        numbers = _of_logits(asked, logits, others)
    else:
        rows = asked.of(logits.shape, logits.dtype, others)
        numbers, gradients = _with_gradients(asked, rows, logits, others)
        d_logits = rows.frame.numbers(d_logits)
        changes = added(changes, tuple(change_of(rows, rows.frame.total(of * d_logits)) for of in gradients))
    return numbers, changes or tuple(jnp.zeros_like(of) for of in numbers)


def _with_gradients(asked: Asked, rows: Wanted, logits: Array, others: Others) -> tuple[Numbers, Numbers]:
    """Return the results of rows, and their gradients with respect to the logits."""
    if by_kernels.suits(asked, rows, logits):
        loss, gradient = by_kernels.losses(rows, logits, others[0], gradient=True)
        return (loss,), (gradient,)
    looked = look(rows, logits)
    summary = summarize(rows, looked, entropy=asked.log_probs)
    gradients = asked.gradients_of(rows, looked, summary, whole(rows, summary))
    return _of_logits(asked, logits, others), gradients


_of_logits.defjvp(_change, symbolic_zeros=True)


def change_of(rows: Wanted, change: Array) -> Array:
    """Return the change of a result per row. It is 0 in a row that does not count, even if the given one is NaN."""
    change = change if rows.live is None else jnp.where(rows.live, change, 0.0)
    return jnp.squeeze(change, axis=rows.frame.axis)


def added(a: Numbers, b: Numbers) -> Numbers:
    """Return the sum of changes a and b. If `a` is (), which stands for no change, return b."""
    return tuple(x + y for x, y in zip(a, b, strict=True)) if a else b


def is_zero(tangent: Any) -> bool:
    """Return whether a tangent is known to be 0, as those of integers are."""
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


def change_by_others(function: Callable[[Others], Numbers], others: Others, d_others: Any) -> Numbers:
    """Return how changes of targets and options change the results of a function; () if none of them changes."""
    leaves, form = jax.tree.flatten(others)
    tangents = jax.tree.leaves(d_others, is_leaf=lambda of: isinstance(of, SymbolicZero))
    changing = {k: of for k, of in enumerate(tangents) if not is_zero(of)}
    if not changing:
        return ()

    def of_changing(*values: Array) -> Numbers:
        now = dict(zip(changing, values, strict=True))
        return function(jax.tree.unflatten(form, [now.get(k, leaf) for k, leaf in enumerate(leaves)]))

    changes: Numbers = jax.jvp(of_changing, [leaves[k] for k in changing], list(changing.values()))[1]
    return changes
