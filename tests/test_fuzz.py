"""Every public function on arrays, dtypes, memory layouts and options drawn at random.

Whatever is drawn: no crash, no hang, no access out of bounds, no error but ValueError and TypeError, no input changed,
and no result that the reference contradicts. SOFTMAXLOSS_FUZZ_EXAMPLES sets how many examples are tried in all; a
number beyond the default draws targets of another precision than the logits, too, which needs more kernels.
"""

import array
import contextlib
import datetime as dt
import decimal
import os
import re
import subprocess
import sys
from collections import Counter
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import softmaxloss as sl
from agree import assert_same_bits
from softmaxloss import reference
from softmaxloss.core import layout, rows, rowwise, summary
from softmaxloss.core.kernels import row_kernels
from test_errors import FUNCTIONS, names_in

DEFAULT_EXAMPLES = 2400
EXAMPLES = int(os.environ.get("SOFTMAXLOSS_FUZZ_EXAMPLES", DEFAULT_EXAMPLES))
SECONDS_PER_HANG = 900
TRIED: Counter[str] = Counter()

SINGLE = [np.dtype(dtype) for dtype in (np.float16, ml_dtypes.bfloat16, np.float32)]  # computed in single precision
DOUBLE = [np.dtype(dtype) for dtype in (np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64)]
DTYPES = [*SINGLE, *SINGLE, *DOUBLE[:1] * 3, *DOUBLE[1:]]
INF, NAN = np.inf, np.nan


def fuzz(share, *strategies):
    """Try a test on its share of all examples, and count them."""

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

        return counted

    return decorate


@pytest.fixture(autouse=True)
def _count(request, record_property):
    yield
    name = request.node.originalname
    if TRIED[name]:
        record_property("found", f"{TRIED[name]:,} examples of {name}")


@pytest.fixture(scope="module", autouse=True)
def _threads():
    before = sl.get_num_threads()
    yield
    sl.set_num_threads(before)


# Arrays


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


def memory_of(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@contextlib.contextmanager
def nothing_changes(*arguments):
    """Compare the bytes of all arrays before and after, with what lies between their elements."""
    arrays = [memory_of(argument) for argument in arguments if isinstance(argument, np.ndarray)]
    before = [array.tobytes() for array in arrays]
    yield
    assert [array.tobytes() for array in arrays] == before


# Problems: logits, targets and options that make sense


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


def positive(rng, shape):
    return rng.uniform(0.5, 2, shape)


def some_zero(rng, shape):
    return rng.integers(0, 3, shape)


def some_true(rng, shape):
    return rng.random(shape) < 0.6


def of_any_scale(rng, shape):
    return 10 ** rng.uniform(-10, 10, shape)


def signed(rng, shape):
    return rng.normal(size=shape).astype(np.float32)


def some_exist(rng, n_classes):
    exists = rng.random(n_classes) < rng.choice([0.1, 0.9])
    exists[rng.integers(n_classes)] = True
    return exists


CHOICES = {  # of each option; a function stands for one number per class or row
    "class_weight": [positive, some_zero, of_any_scale],
    "sample_weight": [positive, some_zero, some_true, of_any_scale],
    "ignore_index": [0, 255, -100],
    "class_mask": [some_exist],
    "label_smoothing": [0.1, 1, 1e-4],
    "z_loss": [1e-4, 0.5],
    "softcap": [0.5, 30.0, 1e4],
    "temperature": [0.1, 3.0, 1e-30, 1e30],
    "reduction": ["none", "sum"],
    "normalizer": [7.5],
    "upstream": [-0.7, 2.0**16, 0, signed],
}
KINDS_OF_TARGETS = ["index", "one-hot", "bool", "soft", "mixed"]


@st.composite
def problems(draw, *, names=tuple(CHOICES), kinds=tuple(KINDS_OF_TARGETS), last_axis=False):
    """Draw arguments of a loss, with some of the options of these names."""
    batch, n_classes, axis = draw(shapes())
    axis = -1 if last_axis else axis
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = {name: draw(st.none() | st.sampled_from(CHOICES[name])) for name in names}
    kind = draw(st.sampled_from(kinds))
    if chosen.get("reduction") is not None:
        chosen.pop("normalizer", None)
    if chosen.get("upstream") is signed and chosen["reduction"] != "none":
        chosen["upstream"] = 1.5
    if kind != "index":
        chosen.pop("ignore_index", None)

    options = {
        name: np.asarray(value(rng, n_classes if name.startswith("class") else batch)) if callable(value) else value
        for name, value in chosen.items()
        if value is not None
    }
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


# What results must be


class Terms:
    """The sizes of the terms that results add up from, by row: what rounding errors are relative to."""

    def __init__(self, problem, vector=None):
        options = without(problem.options, "upstream")
        self.problem, self.rows = problem, (rows := reference._rows(problem.logits.shape, problem.targets, **options))
        self.view = view = reference._view(rows.read(problem.logits), rows.softcap, rows.temperature)
        self.b = 2 * rows.z_loss * (np.abs(view.lse) + 2 * view.log_rest)
        self.a = rows.mass + self.b
        self.d_z = self.a * view.p + rows.q
        if vector is not None:
            self.v, self.s_k, self.s, _ = [np.abs(array) for array in reference._along(rows, view, vector)]
            self.m = np.sum(view.p * self.s, -1, keepdims=True)

    @property
    def loss(self):
        rows, view = self.rows, self.view
        lse = np.abs(view.lse) + 2 * view.log_rest
        z_loss = rows.z_loss * lse * lse  # in this order, as 0 * inf is NaN
        return self.reduced(rows.mass * view.log_rest - reference._total(rows.q, view.gap) + z_loss)

    @property
    def jvp(self):
        return self.reduced(self.b * self.s_k + self.a * self.m + np.sum(self.rows.q * self.s, -1, keepdims=True))

    @property
    def gradient(self):
        upstream = np.abs(np.asarray(self.problem.options.get("upstream", 1.0), np.float64)[..., None])
        return self.written(self.d_z * self.view.slope / self.rows.temperature * upstream)

    @property
    def hessian_diagonal(self):
        view = self.view
        square = self.a * view.p * view.not_p + 2 * self.rows.z_loss * view.p**2
        return self.written(square * (view.slope / self.rows.temperature) ** 2 + self.d_z * np.abs(view.bend))

    @property
    def hvp(self):
        view = self.view
        along = self.a * view.p * (self.s + self.m) + 2 * self.rows.z_loss * view.p * (self.s_k + self.m)
        return self.written(along * view.slope / self.rows.temperature + self.d_z * np.abs(view.bend * self.v))

    def reduced(self, terms):
        return self.rows.reduce(self.rows.weight * terms)

    def written(self, terms):
        return self.rows.write(self.rows.weight * terms)


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


def computed_in(dtype):
    return np.dtype(np.float32 if dtype.newbyteorder("=") in SINGLE else np.float64)


def result_of(dtype):
    return np.dtype(np.float64) if dtype.kind in "iu" else dtype.newbyteorder("=")


def precision_of(problem, dtype):
    """Return the relative error of terms: 8 ulp and, in double precision, what the rounded gaps cost the reference.

    The soft cap rounds z, whose absolute error is a relative one of exp(z).
    """
    options = problem.options
    base = 8 * float(np.finfo(np.float32).eps) if dtype == np.float32 else 2e-12
    return base + 2e-15 * (options.get("softcap") or 0.0) / options.get("temperature", 1.0)


def assert_near(got, want, terms, precision, flushed=0.0):
    """Compare within `precision` relative to the sizes of the terms, rounding to the dtype, and what may become 0.

    NaN must be where it is expected, and infinity where the dtype ends.
    """
    got, want = np.asarray(got), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    info = ml_dtypes.finfo(got.dtype)
    largest = float(info.max)
    within = precision * terms + float(info.eps) * np.abs(want) + flushed + float(info.smallest_subnormal)
    within = np.where(np.isinf(want), 0.0, within)
    low, high, value = (
        np.clip(bound, -largest, largest) for bound in (want - within, want + within, got.astype(float))
    )
    wrong = ~np.isnan(want) & ~((low <= value) & (value <= high))
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{wrong.sum()} of {wrong.size} wrong, first at {first}: {got[first]} for {want[first]}")


def computed(call, *arguments):
    """Return what call() does with one thread, which must have the same bits with three and the rows cut elsewhere."""
    with nothing_changes(*arguments):
        results = []
        for threads, elements in ((1, layout.PIECE_ELEMENTS), (3, 3000)):
            sl.set_num_threads(threads)
            with mock.patch.object(layout, "PIECE_ELEMENTS", elements):
                results.append(call())
    for first, second in zip(*map(leaves, results), strict=True):
        assert_same_bits(with_one_nan(first), with_one_nan(second))
    return results[0]


def with_one_nan(array):
    """Return an array whose NaN are all the same: their signs say nothing, and depend on NumPy's vector loops."""
    array = np.asarray(array)
    return array if array.dtype.kind in "iubO" else np.where(np.isnan(array), np.asarray(NAN, array.dtype), array)


def leaves(result):
    """Return the arrays and numbers in a result."""
    if isinstance(result, sl.Metrics):
        result = [*result.top_k.values(), *without(vars(result), "top_k").values()]
    return [leaf for part in result for leaf in leaves(part)] if isinstance(result, tuple | list) else [result]


def assert_form(got, dtype, shape):
    assert (np.asarray(got).dtype, np.shape(got)) == (dtype, shape)


def batch_of(problem):
    return np.moveaxis(problem.logits, problem.axis, -1).shape[:-1]


def assert_loss(problem, loss, want, terms):
    """Check a loss, or what is reduced as a loss is."""
    none = problem.options.get("reduction") == "none"
    dtype = computed_in(problem.logits.dtype) if none else np.dtype(np.float64)
    assert_form(loss, dtype, batch_of(problem) if none else ())
    assert_near(loss, want, terms, precision_of(problem, computed_in(problem.logits.dtype)), 1e-300)


def assert_nothing_in_dead_places(problem, array):
    """Check that masked classes and rows that take no part have exactly 0."""
    by_row = np.moveaxis(array, problem.axis, -1)
    weight = reference._rows(problem.logits.shape, problem.targets, **without(problem.options, "upstream")).weight
    assert np.all(by_row[weight[..., 0] == 0] == 0)
    assert np.all(by_row[..., ~problem.options.get("class_mask", np.ones(by_row.shape[-1], bool))] == 0)


def assert_right_loss_and_gradient(problem):
    arguments, options = (problem.logits, problem.targets), problem.options
    inputs = (*arguments, *options.values())
    loss, d_logits = computed(lambda: sl.cross_entropy_and_grad(*arguments, **options), *inputs)
    loss_alone = computed(lambda: sl.cross_entropy(*arguments, **without(options, "upstream")), *inputs)
    assert_same_bits(loss_alone, loss)
    assert np.all((np.asarray(loss) >= 0) | np.isnan(loss))
    assert_form(d_logits, result_of(problem.logits.dtype), problem.logits.shape)
    assert_nothing_in_dead_places(problem, d_logits)
    with np.errstate(all="ignore"):
        right_loss, right_d_logits = reference.cross_entropy_and_grad(*arguments, **options)
        terms, dtype = Terms(problem), computed_in(problem.logits.dtype)
        assert_loss(problem, loss, right_loss, terms.loss)
        # exponentials, and so all of the gradient, become 0 below the smallest normal number of what is computed
        flushed = np.finfo(dtype).tiny * (1 + np.max(terms.gradient, initial=0.0, where=terms.gradient < INF))
        assert_near(d_logits, right_d_logits, terms.gradient, precision_of(problem, dtype), flushed)


# Tests


@fuzz(0.35, problems())
def test_loss_and_gradient_are_those_of_the_reference(problem):
    assert_right_loss_and_gradient(problem)


@fuzz(0.15, problems(names=("temperature",)), st.sampled_from(["softmax", "log_softmax", "logsumexp"]))
def test_softmax_functions_are_those_of_the_reference(problem, name):
    logits, options, dtype = problem.logits, problem.options, problem.logits.dtype
    got = computed(lambda: getattr(sl, name)(logits, **options), logits)
    with np.errstate(all="ignore"):
        right = {
            each: getattr(reference, each)(logits, **options) if logits.size else np.zeros(logits.shape)
            for each in ("softmax", "log_softmax")
        }
        right["logsumexp"] = reference.logsumexp(logits, **options) if logits.size else np.zeros(batch_of(problem))
        largest = np.abs(np.max(logits.astype(np.float64), problem.axis, initial=-INF)) / options.get("temperature", 1)
    lse = name == "logsumexp"
    assert_form(got, computed_in(dtype) if lse else result_of(dtype), right[name].shape)
    terms = largest + np.log(max(logits.shape[problem.axis], 2)) if lse else np.abs(right[name])
    assert_near(got, right[name], terms, precision_of(problem, computed_in(dtype)), np.finfo(computed_in(dtype)).tiny)


METRICS = ("sample_weight", "ignore_index", "class_mask", "softcap", "temperature")


@fuzz(0.1, problems(names=METRICS, kinds=("index", "one-hot")), st.lists(st.integers(1, 50)))
def test_metrics_are_those_of_the_reference(problem, topk):
    arguments, options = (problem.logits, problem.targets), {**problem.options, "topk": topk}
    got = computed(lambda: sl.metrics(*arguments, **options), *arguments, *options.values())
    if not problem.logits.size:
        assert (got.rows, got.loss, got.perplexity, got.accuracy, got.entropy) == (0, 0, 1, 0, 0)
        return
    with np.errstate(all="ignore"):
        right, dtype = reference.metrics(*arguments, **options), computed_in(problem.logits.dtype)
        weight = Terms(problem).rows.weight[..., 0]
        precision = precision_of(problem, dtype)
        assert got.rows == np.count_nonzero(weight)
        assert_same_bits(got.argmax, right.argmax)
        assert_same_bits(got.rank, right.rank)
        assert_form(got.log_probability, dtype, batch_of(problem))
        assert_near(got.log_probability, right.log_probability, np.abs(right.log_probability), precision, 1e-45)
        assert_near(got.loss, right.loss, right.loss, precision, 1e-300)
        assert_near(got.entropy, right.entropy, right.entropy, precision, np.finfo(dtype).tiny)
        assert_near(got.perplexity, np.exp(got.loss), np.exp(got.loss), precision)
        assert got.accuracy == pytest.approx(right.accuracy, rel=1e-13)
        assert got.top_k == pytest.approx(right.top_k, rel=1e-13)


ROW_OPTIONS = tuple(without(CHOICES, "upstream"))


@fuzz(
    0.1,
    problems(names=ROW_OPTIONS),
    st.sampled_from(["hessian_diagonal", "hvp", "jvp"]),
    st.sampled_from([1, 1e-9, 1e9]),
)
def test_second_order_is_that_of_the_reference(problem, name, scale):
    with np.errstate(all="ignore"):
        vector = placed(problem.rng, scale * problem.rng.normal(size=problem.logits.shape))
        vectors = () if name == "hessian_diagonal" else (vector,)
        arguments, options = (problem.logits, problem.targets, *vectors), problem.options
        right = getattr(reference, name)(*arguments, **options)
        terms = Terms(problem, vector)
    got = computed(lambda: getattr(sl, name)(*arguments, **options), *arguments, *options.values())
    precision = precision_of(problem, np.dtype(np.float64))
    with np.errstate(all="ignore"):
        if name == "jvp":
            assert_loss(problem, got[0], right[0], terms.loss)
            assert_loss(problem, got[1], right[1], terms.jvp)
        else:
            assert_form(got, result_of(problem.logits.dtype), problem.logits.shape)
            assert_nothing_in_dead_places(problem, got)
            assert_near(got, right, getattr(terms, name), precision, 1e-300)


@fuzz(0.1, problems(last_axis=True), st.integers(0, 6), st.booleans(), st.sampled_from([1, 10_000, 2**25]))
def test_the_linear_loss_and_its_gradients_are_those_of_its_logits(problem, n_features, with_bias, max_memory):
    """Features and weights are multiples of 1/8, so that their logits are exact whatever the order of additions."""
    rng, shape, dtype = problem.rng, problem.logits.shape, result_of(problem.logits.dtype)
    options = without(problem.options, "axis")
    features, weight, bias = (
        (rng.integers(-40, 41, size) / 8).astype(dtype)
        for size in ((*shape[:-1], n_features), (shape[-1], n_features), shape[-1:])
    )
    logits = (features.astype(np.float64) @ weight.astype(np.float64).T + with_bias * bias).astype(computed_in(dtype))
    dead = reference._rows(shape, problem.targets, **without(options, "upstream")).weight[..., 0] == 0
    features[dead] = NAN
    masked = ~options.get("class_mask", np.ones(shape[-1], bool))
    weight[masked], bias[masked] = NAN, NAN
    features, weight, bias = (placed(rng, array) for array in (features, weight, bias))
    arguments = (features, weight, problem.targets, bias if with_bias else None)
    loss, gradients = computed(
        lambda: sl.linear_cross_entropy_and_grad(*arguments, max_memory=max_memory, **options),
        *arguments,
        *options.values(),
    )
    right_loss, d_logits = sl.cross_entropy_and_grad(logits, problem.targets, **options)
    assert_same_bits(loss, right_loss)
    assert_same_bits(sl.linear_cross_entropy(*arguments, **without(options, "upstream")), loss)

    d, x, w = (array.astype(np.float64) for array in (d_logits.reshape(-1, shape[-1]), features, weight))
    x = np.where(dead[..., None], 0, x).reshape(len(d), n_features)
    w = np.where(masked[:, None], 0, w)
    info = np.finfo(computed_in(dtype))
    for gradient, a, b in (
        (gradients.features, d, w),
        (gradients.weight, d.T, x),
        (gradients.bias, d.T, np.ones((len(d), 1))),
    ):
        if gradient is gradients.bias and not with_bias:
            assert gradient is None
            continue
        assert gradient.dtype == dtype
        with np.errstate(all="ignore"):
            terms = np.abs(a) @ np.abs(b)
            beyond = terms >= float(info.max)  # what overflows on the way may end as anything
            got, want = (np.where(beyond, 0, array.reshape(terms.shape)) for array in (gradient, a @ b))
        assert_near(got, want, terms, info.eps * (4 + a.shape[1]))


PLACES = ["elsewhere", "in place", "shifted", "reversed", "in the targets"]


@fuzz(0.1, problems(), st.sampled_from(["cross_entropy_and_grad", "softmax", "log_softmax"]), st.sampled_from(PLACES))
def test_out_gets_the_same_bits_and_nothing_beside_it_changes(problem, name, place):
    function, rng, logits, targets = getattr(sl, name), problem.rng, problem.logits, problem.targets
    arguments = (targets,) if name == "cross_entropy_and_grad" else ()
    options = (
        problem.options
        if arguments
        else {key: problem.options[key] for key in ("axis", "temperature") if key in problem.options}
    )
    dtype = result_of(logits.dtype)
    if dtype != logits.dtype and place != "in the targets":
        place = "elsewhere"
    axis = int(rng.integers(logits.ndim))
    wide = [n + (place == "shifted" and i == axis) for i, n in enumerate(logits.shape)]
    logits = out = placed(rng, np.zeros(wide, dtype), writeable=True)
    if place == "shifted":
        here, there = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
        logits, out = out[here], out[there]
    elif place == "reversed":
        out = np.flip(out, axis)
    elif place != "in place":
        logits = problem.logits
    if place == "in the targets" and targets.dtype == dtype and arguments:
        out = placed(rng, targets, writeable=True)
        arguments = (out,)
    if logits is not problem.logits:
        logits[...] = problem.logits
    right = function(problem.logits, *arguments, **options)
    untouched, before = out.copy(), memory_of(out).tobytes()
    results = function(logits, *arguments, **options, out=out)
    for got, want in zip(leaves(results), leaves(right), strict=True):
        assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(want))
    assert leaves(results)[-1] is out
    out[...] = untouched
    assert memory_of(out).tobytes() == before


# Arguments that make no sense


class Odd:
    """An object that is no array and no number."""

    def __repr__(self):
        raise RuntimeError("not even its representation works")


JUNK = [
    None,
    True,
    False,
    0,
    1,
    -1,
    5,
    2**31,
    2**63,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e300,
    NAN,
    INF,
    -INF,
    1j,
    "",
    "mean",
]
JUNK += [
    "none",
    b"sum",
    "\ud800",
    [],
    [[]],
    [1, [2]],
    [[1, 2], [3]],
    [None],
    ["a"],
    (0, 2),
    [0, 3],
    [-1, 255],
    {},
    {"a": 1},
]
JUNK += [
    {1, 2},
    range(2),
    object(),
    int,
    len,
    np.random.default_rng(0),
    np.float16(2),
    np.bool_(1),
    np.datetime64("NaT"),
]
JUNK += [decimal.Decimal(1), dt.date(2000, 1, 1), array.array("d", [0, 1]), memoryview(b"abc"), slice(None), ...]
JUNK += [
    np.ma.masked,
    np.ma.masked_array([0, 2], [0, 1]),
    np.ma.zeros((2, 3)),
    np.zeros((2, 3)),
    np.zeros((0, 3)),
    np.zeros(0),
]
JUNK += [
    np.zeros((2, 3, 1)),
    np.array(None),
    np.array([0, 2], object),
    np.zeros(2, "f4,i4"),
    np.rec.array([(1, 2)]),
    np.zeros(2, "V3"),
]
JUNK += [
    np.array([0, 7], np.uint64),
    np.full((2, 3), NAN),
    np.ones(3),
    -np.ones(3),
    np.eye(3)[:2],
    np.zeros((2, 3), np.longdouble),
]
JUNK += [
    np.zeros(3, bool),
    np.ones(3, bool),
    np.zeros((1 << 12, 1)),
    np.broadcast_to(0.0, (2, 3)),
    sl.SoftmaxWithLoss(),
    Odd(),
]


@st.composite
def calls_with_junk(draw):
    """Draw a public function and arguments for it, up to three of which are anything."""
    name = draw(st.sampled_from(list(FUNCTIONS)))
    names = sorted(names_in(name).values())
    wrong = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    values = st.sampled_from(JUNK) | hnp.arrays(
        hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    )
    return name, {argument: draw(values) for argument in wrong}


@fuzz(0.2, calls_with_junk())
def test_anything_at_all_is_taken_or_refused_by_name(call):
    name, junk = call
    function, right = FUNCTIONS[name]
    arguments = {**right, **junk}
    with nothing_changes(*(value for argument, value in arguments.items() if argument != "out")):
        message = refusal(function, arguments)
    names = names_in(name)
    assert not message or re.search(rf"\b({'|'.join([*names, *names.values()])})\b", message), message


@pytest.mark.parametrize("junk", [Odd(), [Odd()], ["a"]], ids=["odd", "list of odd", "letters"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_cannot_be_shown_is_taken_or_refused_by_name(name, junk):
    function, right = FUNCTIONS[name]
    names = names_in(name)
    for argument in names.values():
        message = refusal(function, {**right, argument: junk})
        assert not message or re.search(rf"\b({'|'.join([*names, *names.values()])})\b", message), message


def refusal(function, arguments):
    """Return what a function says against its arguments, if anything; other errors are not caught."""
    try:
        function(**arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


# Access out of bounds


def every_kernel():
    """Send through every kernel what reaches all its ends: those of lanes, blocks, runs of classes and tiles of rows.

    All is in single precision, and all arrays of options are there, so that each kernel is compiled only once.
    """
    rng = np.random.default_rng(0)
    row_by_row = [((3, n), -1) for n in (257, 2048, 2049, 4100)]
    side_by_side = [((1, 300), 0), ((13, 300), 0), ((3000, 40), 0), ((2, 9, 3, 5), 1), ((300, 13), -1), ((3, 2), -1)]
    for shape, axis in row_by_row + side_by_side:
        n_classes, batch = shape[axis], np.delete(shape, axis)
        exists, logits = some_exist(rng, n_classes), rng.normal(size=shape).astype(np.float32)
        labels = rng.choice(np.flatnonzero(exists), batch)
        shares, weight = np.ones((*batch, 1)), some_zero(rng, batch)
        shares.flat[0], weight.flat[0] = 0.5, 1  # with one soft row that counts, kernels read rows of targets
        targets = np.moveaxis((labels[..., None] == np.arange(n_classes)) * shares, -1, axis)
        options = {"axis": axis, "class_mask": exists, "class_weight": positive(rng, n_classes)}
        options |= {"label_smoothing": 0.1, "z_loss": 0.1, "sample_weight": weight}
        assert_right_loss_and_gradient(Problem(logits, targets.astype(np.float32), options, rng))
        sl.log_softmax(logits, axis=axis)
        sl.metrics(logits, labels, axis=axis, class_mask=exists)
    some = summary.RowSummary(np.zeros(3, int), *np.ones((4, 3)))
    summary.merge([some, some, some])


def detects_an_index_too_large():
    """Return whether a kernel fails that is given too few rows to write to."""
    logits = np.zeros((2, 3), np.float32)
    with contextlib.suppress(IndexError):
        row_kernels.log_softmax(
            logits, rows.logits_alone(2, 1.0).fields(), rowwise.none_taken(), 2, np.zeros((1, 3), np.float32)
        )
        return False
    return True


def test_no_kernel_reads_or_writes_out_of_bounds(tmp_path):
    """With Numba's checks, which are compiled into kernels of their own: some 30 seconds."""
    script = "import test_fuzz; assert test_fuzz.detects_an_index_too_large(); test_fuzz.every_kernel()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(__file__).parent,
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
