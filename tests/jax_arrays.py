"""Cases of the table as arguments of softmaxloss.jax, and its results as arrays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import softmaxloss.jax as slj
from cases import without


def in_jax(options):
    """Return options whose arrays are those of JAX."""
    return {name: jnp.asarray(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def of_case(case, function=slj.cross_entropy):
    """Return the loss of a case and its gradient in the logits, in the precision of the case."""
    with jax.enable_x64(case.logits.dtype == np.float64):
        loss_of = partial(function, **in_jax(without(case.options, "upstream")))

        @jax.jit
        def loss_and_gradient(logits, targets):
            loss, pull_back = jax.vjp(lambda z: loss_of(z, targets), logits)
            upstream = jnp.asarray(case.options.get("upstream", 1.0), loss.dtype)
            return loss, *pull_back(jnp.broadcast_to(upstream, loss.shape))

        return loss_and_gradient(jnp.asarray(case.logits), jnp.asarray(case.targets))


def layer_problem(n=6, n_features=4, n_classes=11, dtype=np.float32):
    """Return features, weight and bias of a linear layer, and labels."""
    rng = np.random.default_rng(0)
    shapes = (n, n_features), (n_classes, n_features), (n_classes,)
    return *(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes), jnp.asarray(rng.integers(0, n_classes, n))
