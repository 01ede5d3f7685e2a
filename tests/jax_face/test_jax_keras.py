"""Keras on JAX trains with the loss of docs/recipes.md; the oracle is Keras' own loss."""

import re
from pathlib import Path

import numpy as np
import pytest

from scripts import run

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TRAINING = """
import warnings
import keras
from sklearn.datasets import load_digits

warnings.filterwarnings("ignore", "Explicitly requested dtype int64")  # Keras 3.15 requests it of JAX 0.12
digits, labels = load_digits(return_X_y=True)
digits, weight = (digits / 16).astype("float32"), 1.0 + (labels == 3)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["sparse_categorical_accuracy"])
history = model.fit(digits, labels, sample_weight=weight, epochs=5, verbose=0)
print(keras.backend.backend(), history.history["sparse_categorical_accuracy"][-1])
theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
logits = model(digits)
print(model.evaluate(digits, labels, sample_weight=weight, verbose=0)[0], theirs(np.eye(10)[labels], logits, weight))
"""


@pytest.mark.thorough
def test_the_recipe_trains_on_jax():
    (recipe,) = re.findall(r"```python\n(from softmaxloss\.jax .*?)```", PAGE.read_text(), re.DOTALL)
    told, losses = run(recipe + TRAINING, KERAS_BACKEND="jax").splitlines()
    backend, accuracy = told.split()
    assert backend == "jax"
    assert float(accuracy) > 0.9
    ours, theirs = map(float, losses.split())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
