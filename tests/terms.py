"""What results must be: as near to the reference as the rounding of their terms allows, and of the right form."""

import contextlib
from unittest import mock

import ml_dtypes
import numpy as np

import softmaxloss as sl
from agree import assert_same_bits
from cases import without
from softmaxloss import reference
from softmaxloss.core import layout
from strategies import INF, NAN, SINGLE


class Terms:
    """The sizes of the terms that results add up from, by row: what rounding errors are relative to."""

    def __init__(self, problem, vector=None):
        options = without(problem.options, "upstream")
        self.problem, self.rows = problem, (rows := reference._rows(problem.logits.shape, problem.targets, **options))
        self.view = view = reference._view(rows.read(problem.logits), rows.q, rows.softcap, rows.temperature)
        self.b = 2 * rows.z_loss * (np.abs(view.lse) + 2 * view.cost)
        self.a = rows.mass + self.b
        self.d_z = self.a * view.p + rows.q
        if vector is not None:
            self.v, self.s_k, self.s, _ = [np.abs(array) for array in reference._along(rows, view, vector)]
            self.m = np.sum(view.p * self.s, -1, keepdims=True)

    @property
    def loss(self):
        rows, view = self.rows, self.view
        lse = np.abs(view.lse) + 2 * view.cost
        z_loss = rows.z_loss * lse * lse  # in this order, as 0 * inf is NaN
        return self.reduced(rows.mass * view.cost - reference._total(rows.q, view.gap) + z_loss)

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
