"""Softmax with loss for JAX: exact losses with every option, under jit, grad, vmap and the other transformations.

On a single CPU, the kernels of the NumPy functions compute losses and gradients. Everything else is computed by
operations on JAX arrays, which run wherever JAX runs. The gradient is the formula y - t (probabilities minus targets):
JAX does not differentiate each operation.
"""

from importlib.util import find_spec

for package in ("jax", "array_api_compat"):
    if find_spec(package) is None:
        raise ImportError(f'softmaxloss.jax needs {package}: pip install "softmaxloss[jax]"')

from softmaxloss.jax.functional import (  # noqa: E402
    LogProbs,
    cross_entropy,
    log_probs,
    log_softmax,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from softmaxloss.jax.linear import linear_cross_entropy, linear_log_probs  # noqa: E402

__all__ = [
    "LogProbs",
    "cross_entropy",
    "linear_cross_entropy",
    "linear_log_probs",
    "log_probs",
    "log_softmax",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
