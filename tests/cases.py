"""The table of cases that every law is checked on: shape x targets x options x dtype.

A new option is one row of OPTIONS.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np
import pytest


def positive(rng, shape):
    return rng.uniform(0.5, 2, shape)


def some_zero(rng, shape):
    return rng.integers(0, 3, shape)


def signed(rng, shape):
    return rng.normal(size=shape)


def some_exist(rng, n_classes):
    mask = rng.random(n_classes) < 0.6
    mask[rng.integers(n_classes)] = True
    return mask


SHAPES = {  # of the logits, and the axis of the classes, counted from the end so that batches can be stacked in front
    "one row": ((3,), -1),
    "no rows": ((0, 3), -1),
    "no rows, 3-d": ((2, 0, 3, 4), -1),
    "one class": ((2, 1), -1),
    "two classes": ((5, 2), -1),
    "many rows": ((3000, 3), -1),
    "3-d": ((2, 3, 10), -1),
    "4-d": ((2, 1, 3, 100), -1),
    "1000 classes": ((4, 1000), -1),
    "5000 classes": ((3, 5000), -1),
    "images": ((2, 5, 3, 4), -3),
    "large image": ((1, 3, 150, 140), -3),
    "classes in front": ((10, 2, 6), -3),
    "1000 classes in front": ((1000, 20), -2),
    "few rows side by side": ((2, 5, 3), -2),
}

TARGETS = ("index", "small index", "bool", "one-hot", "soft")

OPTIONS = {  # a function stands for one number per class (class_weight, class_mask) or per row (all others)
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "normalizer": {"normalizer": 7.5},
    "class_weight": {"class_weight": positive},
    "class_weight 0": {"class_weight": some_zero},
    "sample_weight": {"sample_weight": positive},
    "sample_weight 0": {"sample_weight": some_zero},
    "ignore_index": {"ignore_index": 255},
    "ignore a class": {"ignore_index": 0, "reduction": "none"},
    "class_mask": {"class_mask": some_exist},
    "label_smoothing": {"label_smoothing": 0.1},
    "label_smoothing 1": {"label_smoothing": 1.0, "reduction": "none"},
    "z_loss": {"z_loss": 0.2},
    "softcap": {"softcap": 6.0},
    "temperature": {"temperature": 0.7},
    "upstream": {"upstream": -0.7},
    "upstream per row": {"upstream": signed, "reduction": "none"},
    "all options": {
        "class_weight": positive,
        "sample_weight": some_zero,
        "ignore_index": 255,
        "class_mask": some_exist,
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 8.0,
        "temperature": 1.3,
        "normalizer": 2.5,
        "upstream": 3,
    },
}

HALF = (np.float16, ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Case:
    """Arguments of cross_entropy_and_grad; the axis is among the options where it is not the last."""

    name: str
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any] = field(repr=False)

    @property
    def loss_options(self):
        """The options of the loss alone, which knows no upstream gradient."""
        return without(self.options, "upstream")

    @property
    def options_per_row(self):
        """The options, but one loss per row."""
        return without(self.options, "normalizer") | {"reduction": "none"}

    @property
    def axis(self):
        return self.options.get("axis", -1)

    @property
    def n_classes(self):
        return self.logits.shape[self.axis]

    @property
    def batch_shape(self):
        return self.by_row(self.logits).shape[:-1]

    @property
    def class_major(self):
        """Whether rows are computed side by side, which may give other last bits than row by row."""
        return self.axis != -1 and prod(self.logits.shape[self.axis + 1 :]) >= 8

    @property
    def has_indices(self):
        return self.targets.ndim < self.logits.ndim

    @property
    def exists(self):
        """The classes that exist, shape (V,)."""
        return self.options.get("class_mask", np.ones(self.n_classes, bool))

    @property
    def sample_weight(self):
        return self.options.get("sample_weight", np.ones(self.batch_shape))

    @property
    def dead(self):
        """Rows that take no part, of the batch's shape."""
        ignored = self.targets == self.options["ignore_index"] if "ignore_index" in self.options else False
        return ignored | (self.sample_weight == 0)

    @property
    def is_half(self):
        return self.logits.dtype.itemsize == 2

    @property
    def precision(self):
        """How closely two ways to compute the same losses agree, relative to their size."""
        return 1e-12 if self.logits.dtype == np.float64 else 2e-6

    @property
    def rounding(self):
        """The same of arrays in the dtype of the logits."""
        return float(ml_dtypes.finfo(self.logits.dtype).eps) if self.is_half else self.precision

    def by_row(self, array):
        """Return an array of the logits' shape with the classes last."""
        return np.moveaxis(array, self.axis, -1)

    def by_axis(self, rows):
        """Return rows with the classes where this case has them."""
        return np.moveaxis(rows, -1, self.axis)

    def as_seen(self, logits):
        """Return logits after soft cap and temperature, in float64; -inf for classes that do not exist."""
        x, cap = self.by_row(logits).astype(np.float64), self.options.get("softcap")
        z = (x if cap is None else cap * np.tanh(x / cap)) / self.options.get("temperature", 1.0)
        return self.by_axis(np.where(self.exists, z, -np.inf))

    def with_nan(self, where):
        """Return the logits with NaN in some places."""
        logits = self.logits.copy()
        logits[np.broadcast_to(where, logits.shape)] = np.nan
        return logits


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


def make_case(shape, target, option, dtype):
    name = f"{shape}, {target}, {option}, {np.dtype(dtype).name}"
    rng = np.random.default_rng(crc32(name.encode()))
    full_shape, axis = SHAPES[shape]
    batch, n_classes = tuple(np.delete(full_shape, axis)), full_shape[axis]
    options = {
        name: value(rng, n_classes if name in {"class_weight", "class_mask"} else batch) if callable(value) else value
        for name, value in OPTIONS[option].items()
        if name != "ignore_index" or "index" in target
    }
    exists = options.get("class_mask", np.ones(n_classes, bool))
    logits = np.moveaxis((5 * rng.normal(size=(*batch, n_classes))).astype(dtype), -1, axis)
    index = rng.choice(np.flatnonzero(exists), batch)
    if "index" in target:
        if "ignore_index" in options:
            index = np.where(rng.random(batch) < 0.3, options["ignore_index"], index)
        targets = index.astype(np.uint8 if target == "small index" and n_classes < 256 else np.int64)
    elif target == "soft":
        targets = rng.dirichlet(np.ones(n_classes), batch).astype(dtype)
        targets[..., : n_classes // 2] = 0  # so that the rows do not sum to 1
        targets[..., ~exists] = 0
    else:
        targets = (index[..., None] == np.arange(n_classes)).astype(bool if target == "bool" else dtype)
    if "index" not in target:
        targets = np.moveaxis(targets, -1, axis)
    if axis != -1:
        options["axis"] = axis
    return Case(name, logits.copy(), targets.copy(), options)


def is_selected(shape, target, option, dtype):
    if dtype in HALF:
        halved = {"sum", "class_mask", "z_loss", "softcap", "temperature", "all options"}
        return shape in {"4-d", "images"} and target in {"index", "soft"} and option in halved
    if option in {"none", "all options"}:
        return True
    return shape == "3-d" or (shape == "images" and target in {"index", "soft"})


CASES = [
    make_case(shape, target, option, dtype)
    for shape in SHAPES
    for option in OPTIONS
    for target in TARGETS
    for dtype in (np.float32, np.float64, *HALF)
    if is_selected(shape, target, option, dtype)
]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


over_cases = over(CASES)
