"""The table of cases that every law is checked on: shape x targets x options x dtype.

A new option is one row of OPTIONS, from which fuzzing, combinations and accuracy take its values, too.
The table is in one piece, so the file has over 300 lines.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple
from zlib import crc32

import ml_dtypes
import numpy as np

from thorough import covering, pairs, parametrize


def positive(rng, shape):
    return rng.uniform(0.5, 2, shape)


def some_zero(rng, shape):
    return rng.integers(0, 3, shape)


def some_true(rng, shape):
    return rng.random(shape) < 0.6


def fractions_some_zero(rng, shape):
    return 0.7 * some_zero(rng, shape)


def positive_but_some(rng, shape):
    """Return positive weights, a fifth of them replaced by 0."""
    weights = positive(rng, shape)
    return weights * (weights > 0.8)


def of_any_scale(rng, shape):
    return 10 ** rng.uniform(-10, 10, shape)


def signed(rng, shape):
    return rng.normal(size=shape)


def signed_single(rng, shape):
    return rng.normal(size=shape).astype(np.float32)


def some_exist(rng, n_classes):
    mask = rng.random(n_classes) < 0.6
    mask[rng.integers(n_classes)] = True
    mask[0] &= n_classes == 1 or not mask.all()
    return mask


def few_or_most_exist(rng, n_classes):
    mask = rng.random(n_classes) < rng.choice([0.1, 0.9])
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


class Option(NamedTuple):
    """Values to try an option with; a function stands for one number per class (class_...) or per row."""

    alone: Any
    """The value where the option is the only one."""
    together: Any
    """The value beside all other options, and where every combination of options is tried."""
    fuzzed: tuple = ()
    """Further values for fuzzing, which draws the first one, too."""
    to_ulp: tuple = ()
    """Numbers with which the loss is held to a few ulp, by the formula in test_option_accuracy.py."""


OPTIONS = {
    "class_weight": Option(positive, positive_but_some, (some_zero, of_any_scale), (positive_but_some,)),
    "sample_weight": Option(positive, fractions_some_zero, (some_zero, some_true, of_any_scale), (positive,)),
    "ignore_index": Option(255, 255, (0, -100)),
    "class_mask": Option(some_exist, some_exist, (few_or_most_exist,)),
    "label_smoothing": Option(0.1, 0.2, (1, 1e-4), (0.1, 0.3, 0.9)),
    "z_loss": Option(0.2, 0.1, (1e-4,), (1e-4, 0.1)),
    "softcap": Option(6.0, 8.0, (0.5, 30.0, 1e4)),
    "temperature": Option(0.7, 1.3, (0.1, 3.0, 1e-30, 1e30), (0.7, 3.3, 0.013)),
    "normalizer": Option(7.5, 2.5),
    "upstream": Option(-0.7, 3, (2.0**16, 0, signed_single), (0.3,)),
}

OPTION_SETS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    **{name: {name: option.alone} for name, option in OPTIONS.items()},
    "class_weight 0": {"class_weight": some_zero},
    "sample_weight 0": {"sample_weight": some_zero},
    "ignore a class": {"ignore_index": 0, "reduction": "none"},
    "label_smoothing 1": {"label_smoothing": 1.0, "reduction": "none"},
    "upstream per row": {"upstream": signed, "reduction": "none"},
    "all options": {name: option.together for name, option in OPTIONS.items()},
}

HALF = (np.float16, ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Case:
    """Arguments of cross_entropy_and_grad; the axis is among the options where it is not the last."""

    values: tuple[str, ...]  # shape, targets, options and dtype
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any] = field(repr=False)

    @property
    def name(self):
        return ", ".join(self.values)

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


def side_by_side(rows, axis):
    """Repeat rows to so many that they are computed side by side, with the classes in front; or leave them."""
    return np.repeat(rows, 16, axis=0).T.copy() if axis == 0 else rows


def made(options, rng, batch, n_classes):
    """Return options with one number per class or row where the table has a function."""
    return {
        name: np.asarray(value(rng, n_classes if name.startswith("class_") else batch)) if callable(value) else value
        for name, value in options.items()
    }


def make_case(shape, target, option, dtype):
    values = (shape, target, option, np.dtype(dtype).name)
    rng = np.random.default_rng(crc32(", ".join(values).encode()))
    full_shape, axis = SHAPES[shape]
    batch, n_classes = tuple(np.delete(full_shape, axis)), full_shape[axis]
    options = made(OPTION_SETS[option], rng, batch, n_classes)
    if "index" not in target:
        options.pop("ignore_index", None)
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
    return Case(values, logits.copy(), targets.copy(), options)


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
    for option in OPTION_SETS
    for target in TARGETS
    for dtype in (np.float32, np.float64, *HALF)
    if is_selected(shape, target, option, dtype)
]


def made_of(case):
    """Return what a case has: pairs of values, and what decides which kernels compute it."""
    shape, _, option, dtype = case.values
    return pairs(case.values) | {(shape, case.has_indices, dtype), (option, case.has_indices, case.class_major)}


CHOSEN = covering([made_of(case) for case in CASES])
BY_DEFAULT = {case.name for case, chosen in zip(CASES, CHOSEN, strict=True) if chosen}


def over(cases):
    """Run a test over cases, and by default over the chosen ones, and each shape with each dtype."""
    default = [case.name in BY_DEFAULT for case in cases]
    seen = {(case.values[0], case.values[-1]) for case, runs in zip(cases, default, strict=True) if runs}
    for k, case in enumerate(cases):
        key = case.values[0], case.values[-1]
        default[k] |= key not in seen
        seen.add(key)
    return parametrize(["case"], [(case,) for case in cases], [case.name for case in cases], default)


over_cases = over(CASES)
