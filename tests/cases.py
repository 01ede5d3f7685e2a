"""The table of cases that every law is checked on: shape x targets x options x dtype.

A new option is one row of OPTIONS.
"""

from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import pytest


def positive(rng, shape):
    return rng.uniform(0.5, 2, shape)


def some_zero(rng, shape):
    return rng.integers(0, 3, shape)


def signed(rng, shape):
    return rng.normal(size=shape)


SHAPES = {  # of the batch, and the number of classes
    "one row": ((), 3),
    "no rows": ((0,), 3),
    "no rows, 3-d": ((2, 0, 3), 4),
    "one class": ((2,), 1),
    "two classes": ((5,), 2),
    "many rows": ((3000,), 3),
    "3-d": ((2, 3), 10),
    "4-d": ((2, 1, 3), 100),
    "1000 classes": ((4,), 1000),
    "5000 classes": ((3,), 5000),
}

TARGETS = ("index", "small index", "bool", "one-hot", "soft")

OPTIONS = {  # a function stands for one number per class (class_weight) or per row (all others)
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "class_weight": {"class_weight": positive},
    "class_weight 0": {"class_weight": some_zero},
    "sample_weight": {"sample_weight": positive},
    "sample_weight 0": {"sample_weight": some_zero},
    "ignore_index": {"ignore_index": 255},
    "ignore a class": {"ignore_index": 0, "reduction": "none"},
    "label_smoothing": {"label_smoothing": 0.1},
    "label_smoothing 1": {"label_smoothing": 1.0, "reduction": "none"},
    "upstream": {"upstream": -0.7},
    "upstream per row": {"upstream": signed, "reduction": "none"},
    "all options": {
        "class_weight": positive,
        "sample_weight": some_zero,
        "ignore_index": 255,
        "label_smoothing": 0.2,
        "upstream": 3,
    },
}


@dataclass(frozen=True)
class Case:
    """Arguments of cross_entropy_and_grad."""

    name: str
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any] = field(repr=False)

    @property
    def loss_options(self):
        """The options of the loss alone, which knows no upstream gradient."""
        return {name: value for name, value in self.options.items() if name != "upstream"}

    @property
    def has_indices(self):
        return self.targets.ndim < self.logits.ndim

    @property
    def dead(self):
        """Rows that take no part, shape (...)."""
        ignored = self.targets == self.options["ignore_index"] if "ignore_index" in self.options else False
        weight = self.options.get("sample_weight", np.ones(self.logits.shape[:-1]))
        return ignored | (weight == 0)

    @property
    def precision(self):
        """How closely two ways to compute the same numbers agree, relative to their size."""
        return 1e-12 if self.logits.dtype == np.float64 else 2e-6


def make_case(shape, target, option, dtype):
    name = f"{shape}, {target}, {option}, {np.dtype(dtype).name}"
    rng = np.random.default_rng(crc32(name.encode()))
    batch, n_classes = SHAPES[shape]
    options = {
        name: value(rng, n_classes if name == "class_weight" else batch) if callable(value) else value
        for name, value in OPTIONS[option].items()
        if name != "ignore_index" or "index" in target
    }
    logits = (5 * rng.normal(size=(*batch, n_classes))).astype(dtype)
    index = rng.integers(0, n_classes, batch)
    if "index" in target:
        if "ignore_index" in options:
            index = np.where(rng.random(batch) < 0.3, options["ignore_index"], index)
        targets = index.astype(np.uint8 if target == "small index" and n_classes < 256 else np.int64)
    elif target == "soft":
        targets = rng.dirichlet(np.ones(n_classes), batch).astype(dtype)
        targets[..., : n_classes // 2] = 0  # so that the rows do not sum to 1
    else:
        targets = (index[..., None] == np.arange(n_classes)).astype(bool if target == "bool" else dtype)
    return Case(name, logits, targets, options)


CASES = [
    make_case(shape, target, option, dtype)
    for shape in SHAPES
    for option in OPTIONS
    for target in TARGETS
    for dtype in (np.float32, np.float64)
    if shape == "3-d" or option in {"none", "all options"}
]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


over_cases = over(CASES)
