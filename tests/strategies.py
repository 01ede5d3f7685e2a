"""What fuzzing draws: arrays of any dtype and memory layout, and problems of a loss with options that make sense.

SOFTMAXLOSS_FUZZ_EXAMPLES sets how many examples are tried in all; a number beyond the default draws targets of another
precision than the logits, too, which needs more kernels.
"""

import os
from collections import Counter
from functools import wraps
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases import OPTIONS, made

DEFAULT_EXAMPLES = 2400
EXAMPLES = int(os.environ.get("SOFTMAXLOSS_FUZZ_EXAMPLES", DEFAULT_EXAMPLES))
TRIED: Counter[str] = Counter()

SINGLE = [np.dtype(dtype) for dtype in (np.float16, ml_dtypes.bfloat16, np.float32)]  # computed in single precision
DOUBLE = [np.dtype(dtype) for dtype in (np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64)]
DTYPES = [*SINGLE, *SINGLE, *DOUBLE[:1] * 3, *DOUBLE[1:]]
INF, NAN = np.inf, np.nan


def fuzz(share, *strategies):
    """Try a thorough test on its share of all examples, and count them."""

    def decorate(test):
        @settings(
            max_examples=max(1, round(share * EXAMPLES)),
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(*strategies)
        @wraps(test)
        def counted(**example):
            TRIED[test.__name__] += 1
            test(**example)

        return pytest.mark.thorough(pytest.mark.usefixtures("threads_as_before", "count_of_examples")(counted))

    return decorate


class Values(NamedTuple):
    """The range of a dtype, as the logits use it: the reference squares them in float64."""

    largest: float
    normal: float
    subnormal: float


def values_of(dtype):
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return Values(min(info.max, 2.0**62), 1, 1)
    info = ml_dtypes.finfo(dtype)
    return Values(min(float(info.max), 1e150), float(info.smallest_normal), float(info.smallest_subnormal))


KINDS = {
    "ordinary": lambda rng, shape, _: 5 * rng.normal(size=shape),
    "ties": lambda rng, shape, _: rng.integers(-2, 3, shape) * 1.0,
    "equal": lambda rng, shape, _: np.full(shape, rng.normal()),
    "an offset": lambda rng, shape, _: rng.normal(size=shape) + 1000.1,
    "huge": lambda rng, shape, values: rng.uniform(-1, 1, shape) * values.largest,
    "the largest": lambda rng, shape, values: rng.choice([-1, 1], shape) * values.largest,
    "tiny": lambda rng, shape, values: rng.normal(size=shape) * 100 * values.normal,
    "subnormal": lambda rng, shape, values: rng.integers(-9, 10, shape) * values.subnormal,
    "of any scale": lambda rng, shape, _: rng.normal(size=shape) * 10 ** rng.uniform(-30, 30, shape),
}
NOT_FINITE = [(), (), (NAN,), (INF,), (-INF,), (-INF,), (NAN, INF, -INF)]


def cast(array, dtype):
    """Return values rounded to a dtype, finite ones beyond its range as its largest."""
    largest = values_of(dtype).largest
    within = np.clip(array, 0 if dtype.kind == "u" else -largest, largest)
    with np.errstate(under="ignore"):
        return np.where(np.isinf(array), array, within).astype(dtype)


def logits_of(rng, dtype, shape, kind, not_finite):
    """Return rows of logits; a third of them are not finite at one place, at half of all, or at all."""
    logits = KINDS[kind](rng, shape, values_of(dtype))
    if not_finite and dtype.kind not in "iu" and logits.size:
        shares = rng.choice([1 / shape[-1], 0.5, 1.0], (*shape[:-1], 1))
        bad = (rng.random((*shape[:-1], 1)) < 1 / 3) & (rng.random(shape) < shares)
        logits = np.where(bad, rng.choice(not_finite, shape), logits)
    return cast(logits, dtype)


def placed(rng, values, *, writeable=False):
    """Return an array in memory of any layout: axes in any order, backwards, with gaps, unaligned, big-endian."""
    order = rng.permutation(values.ndim)
    steps = rng.choice([1, 1, 1, 2, -1, -3], values.ndim)
    shape = [n * abs(step) for n, step in zip(values.shape, steps, strict=True)]
    dtype = values.dtype
    if not writeable and dtype.kind in "iuf" and rng.random() < 0.2:
        dtype = dtype.newbyteorder(">")
    shift = int(rng.choice([0, 0, 1]))
    memory = np.full(prod(shape) * dtype.itemsize + shift, 255, np.uint8)  # NaN, -1 or True beside the values
    in_order = memory[shift:].view(dtype).reshape([shape[axis] for axis in order])
    view = in_order.transpose(np.argsort(order))[(..., *(slice(None, None, step) for step in steps))]
    view[...] = values
    view.flags.writeable = writeable or rng.random() < 0.5
    return view


class Problem(NamedTuple):
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]
    rng: np.random.Generator

    @property
    def axis(self):
        return self.options["axis"]

    def __repr__(self):
        def shown(value):
            return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)

        options = ", ".join(f"{name}={shown(value)}" for name, value in self.options.items())
        return f"Problem({shown(self.logits)}, {shown(self.targets)}, {options})"


@st.composite
def shapes(draw):
    """Draw a batch, the number of classes, and their axis; few elements in all."""
    n_classes = draw(st.integers(1, 40) | st.sampled_from([1, 2, 3, 300, 5000]))
    budget, batch = max(20_000 // n_classes, 3), []
    for _ in range(draw(st.integers(0, 3))):
        batch.append(min(draw(st.sampled_from([1, 2, 3, 5, 8, 13, 40, 0])), budget))
        budget //= max(batch[-1], 1)
    return tuple(batch), n_classes, draw(st.integers(-len(batch) - 1, len(batch)))


VALUES = {name: (option.alone, *option.fuzzed) for name, option in OPTIONS.items()} | {"reduction": ("none", "sum")}
KINDS_OF_TARGETS = ["index", "one-hot", "bool", "soft", "mixed"]


@st.composite
def problems(draw, *, names=tuple(VALUES), kinds=tuple(KINDS_OF_TARGETS), last_axis=False):
    """Draw arguments of a loss, with some of the options of these names."""
    batch, n_classes, axis = draw(shapes())
    axis = -1 if last_axis else axis
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = {name: draw(st.none() | st.sampled_from(VALUES[name])) for name in names}
    kind = draw(st.sampled_from(kinds))
    if chosen.get("reduction") is not None:
        chosen.pop("normalizer", None)
    if callable(chosen.get("upstream")) and chosen["reduction"] != "none":
        chosen["upstream"] = 1.5
    if kind != "index":
        chosen.pop("ignore_index", None)

    options = made({name: value for name, value in chosen.items() if value is not None}, rng, batch, n_classes)
    exists = options.get("class_mask", np.ones(n_classes, bool))
    dead = options.get("sample_weight", np.ones(batch)) == 0
    logits = logits_of(
        rng, dtype, (*batch, n_classes), *[draw(st.sampled_from(some)) for some in (list(KINDS), NOT_FINITE)]
    )
    index = rng.choice(np.flatnonzero(exists), batch)
    if "ignore_index" in options:
        index = np.where(rng.random(batch) < 0.3, options["ignore_index"], index)
        dead |= index == options["ignore_index"]
    index = np.where(dead & (index != options.get("ignore_index")), rng.choice([-7, 0, 120], batch), index)
    if dtype.kind not in "iu":
        logits[dead] = rng.choice([0.0, NAN, INF])
        logits[..., ~exists] = rng.choice([0.0, NAN, INF])
    targets = index.astype(draw(st.sampled_from(fitting(index))))
    if kind != "index":
        targets = np.moveaxis(
            target_rows(draw, rng, kind=kind, dtype=dtype, index=index, exists=exists, dead=dead), -1, axis
        )
    logits = np.moveaxis(logits, -1, axis)
    if draw(st.booleans()):
        logits, targets = placed(rng, logits), placed(rng, targets)
        options = {
            name: placed(rng, value) if isinstance(value, np.ndarray) else value for name, value in options.items()
        }
    if draw(st.integers(0, 9)) == 0:
        repeated = draw(st.integers(0, logits.ndim - 1))
        logits = np.broadcast_to(logits.take([0] if logits.shape[repeated] else [], repeated), logits.shape)
    return Problem(logits, targets, {"axis": axis, **options}, rng)


def fitting(index):
    """Return integer dtypes that hold the labels."""
    low, high = np.min(index, initial=0), np.max(index, initial=0)
    return [dtype for dtype in "bBhHiIlLqQ" if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max]


def target_rows(draw, rng, *, kind, dtype, index, exists, dead):
    """Return one-hot rows, bools, soft rows, or a mixture of one-hot, soft and empty rows; classes last."""
    n_classes = exists.size
    one_hot = index[..., None] == np.arange(n_classes)
    same = SINGLE if dtype in SINGLE else DOUBLE[:1]
    if kind == "bool":
        some = one_hot | (rng.random(one_hot.shape) < 0.2) if same is SINGLE else one_hot
        return some & exists
    soft = rng.random(one_hot.shape) * (rng.random(one_hot.shape) < rng.choice([0.1, 0.9]))
    soft = soft / (soft.sum(-1, keepdims=True) + 1e-9) if rng.random() < 0.7 else soft * rng.choice([1e-6, 3])
    if kind != "soft":
        empty = rng.random((*index.shape, 1)) < 0.2
        soft = np.where(empty, 0, np.where(rng.random((*index.shape, 1)) < 0.3, soft, one_hot))
    if kind == "one-hot":
        soft = one_hot
    soft = np.where(exists, soft, 0.0)
    soft[dead] = rng.choice([NAN, -1, INF])
    return soft.astype(draw(st.sampled_from(same if EXAMPLES <= DEFAULT_EXAMPLES else [*SINGLE, *DOUBLE[:1]])))
