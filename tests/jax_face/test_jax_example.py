"""The training example learns."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_jax.py"


def test_the_example_learns_digits():
    spec = importlib.util.spec_from_file_location("train_jax", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    losses, accuracy = example.train(8)
    assert losses[-1] < losses[0] / 3
    assert accuracy > 0.93
