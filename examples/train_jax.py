"""Train a small classifier of handwritten digits with JAX, optax and softmaxloss.jax: `python examples/train_jax.py`.

One `jax.lax.scan` goes through all batches of an epoch. Rows with the label -1 fill the last batch. They do not count
in the loss.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from softmaxloss.jax import cross_entropy

Parameters = dict[str, jax.Array]
WIDTHS = (64, 128, 10)


def parameters(seed: int) -> Parameters:
    """Return random weights and biases of 0."""
    keys = jax.random.split(jax.random.key(seed), len(WIDTHS) - 1)
    values: Parameters = {}
    for k, (key, n_in, n_out) in enumerate(zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)):
        values[f"weight{k}"] = jax.random.normal(key, (n_out, n_in)) / n_in**0.5
        values[f"bias{k}"] = jnp.zeros(n_out)
    return values


def logits_of(values: Parameters, images: jax.Array) -> jax.Array:
    """Return the logits of images."""
    hidden = jax.nn.relu(images @ values["weight0"].T + values["bias0"])
    return hidden @ values["weight1"].T + values["bias1"]


def loss_of(values: Parameters, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the loss of the rows whose label is not -1."""
    return cross_entropy(logits_of(values, images), labels, ignore_index=-1, label_smoothing=0.05, z_loss=1e-4)


def train(n_epochs: int, seed: int = 0, batch: int = 128) -> tuple[list[float], float]:
    """Return the mean loss of each epoch, and the accuracy on images that were not trained on."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    x, t = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(digits[order], jnp.int32)
    n_train = 1400
    missing = -n_train % batch
    x_batches = jnp.pad(x[:n_train], ((0, missing), (0, 0))).reshape(-1, batch, 64)
    t_batches = jnp.pad(t[:n_train], (0, missing), constant_values=-1).reshape(-1, batch)
    optimizer = optax.adam(3e-3)

    def step(state: Any, some: Any) -> tuple[Any, jax.Array]:
        values, memory = state
        loss, gradient = jax.value_and_grad(loss_of)(values, *some)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(values, updates), memory), loss

    @jax.jit
    def epoch(state: Any) -> tuple[Any, jax.Array]:
        state, losses = jax.lax.scan(step, state, (x_batches, t_batches))
        return state, losses.mean()

    values = parameters(seed)
    state, losses = (values, optimizer.init(values)), []
    for _ in range(n_epochs):
        state, loss = epoch(state)
        losses.append(float(loss))
    right = jnp.argmax(logits_of(state[0], x[n_train:]), 1) == t[n_train:]
    return losses, float(right.mean())


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    losses, accuracy = train(parser.parse_args().epochs)
    print(f"loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last; accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
