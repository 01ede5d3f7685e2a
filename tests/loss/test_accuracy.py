"""Against exact arithmetic on the hard points: within 4 units in the last place of the dtype of the logits."""

from functools import cache
from itertools import cycle, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exact
import softmaxloss as sl
from hard_rows import ROWS, row_of
from softmaxloss import reference
from thorough import parametrize

LIMIT = 4  # ulp
INF = np.inf
TARGETS = {
    "the winner": (lambda z: int(np.argmax(z)), {}),
    "the last class": (lambda z: len(z) - 1, {}),
    "the last winner, weighted": (lambda z: len(z) - 1 - int(np.argmax(z[::-1])), {"weight": 0.3, "class_weight": 0.7}),
    "smoothed": (lambda z: int(np.argmax(z)), {"label_smoothing": 0.1}),
    "smoothed, the last class": (lambda z: len(z) - 1, {"label_smoothing": 1e-3}),
    "soft": (lambda z: np.resize([0.5, 0, 0.25, 0.1], len(z)), {}),
    "soft, mostly the winner": (lambda z: np.where(z == z.max(), 0.9, np.resize([1e-3, 0], len(z))), {"weight": 7}),
}

over_rows = pytest.mark.parametrize("name", ROWS)
over_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PROBLEMS = list(product(ROWS, TARGETS, (np.float32, np.float64)))
IN_TURN = set(zip(ROWS, cycle(TARGETS)))  # by default, each row has one of the targets
over_problems = parametrize(
    ["name", "target", "dtype"],
    PROBLEMS,
    [f"{name}-{target}-{dtype.__name__}" for name, target, dtype in PROBLEMS],
    [(name, target) in IN_TURN for name, target, _ in PROBLEMS],
)


@cache
def problem(name, dtype, target):
    """Return the logits of a row, its target, the options of the functions, and the exact results."""
    logits = row_of(name, dtype)
    choose, options = TARGETS[target]
    options = dict(options)
    if "class_weight" in options:
        options["class_weight"] = np.resize([options["class_weight"], 1.25], len(logits))
    chosen = choose(logits)
    right = exact.row(logits, chosen, **options)
    if "weight" in options:
        options["sample_weight"] = options.pop("weight")
    return logits, chosen, options, right


@over_dtypes
@over_rows
def test_softmax_is_exact_to_4_ulp(name, dtype):
    logits, _, _, right = problem(name, dtype, "the winner")
    assert exact.ulps(sl.softmax(logits), right.softmax) <= LIMIT


@over_dtypes
@over_rows
def test_log_softmax_is_exact_to_4_ulp(name, dtype):
    logits, _, _, right = problem(name, dtype, "the winner")
    assert exact.ulps(sl.log_softmax(logits), right.log_softmax) <= LIMIT


@over_dtypes
@over_rows
def test_logsumexp_is_exact_to_4_ulp_of_its_largest_term(name, dtype):
    logits, _, _, right = problem(name, dtype, "the winner")
    scale = max(abs(float(logits.max())), float(right.loss.high))
    assert exact.ulps(sl.logsumexp(logits), right.logsumexp, scale=scale) <= LIMIT


@over_problems
def test_the_loss_is_exact_to_4_ulp(name, dtype, target):
    logits, targets, options, right = problem(name, dtype, target)
    loss = sl.cross_entropy(logits, targets, reduction="none", **options)
    assert loss.dtype == dtype
    assert exact.ulps(loss, right.loss) <= LIMIT


@over_problems
def test_the_gradient_is_exact_to_4_ulp(name, dtype, target):
    """Of itself for a class index; of the size of its two terms, which may cancel, for other targets."""
    logits, targets, options, right = problem(name, dtype, target)
    _, d_logits = sl.cross_entropy_and_grad(logits, targets, reduction="none", **options)
    one_hot = np.ndim(targets) == 0 and "label_smoothing" not in options
    scale = None if one_hot else right.d_scale
    assert exact.ulps(d_logits, right.d_logits, scale=scale) <= LIMIT


@over_dtypes
@pytest.mark.parametrize("upstream", [1e-300, 1e-30, 2**16, 1e19])
@pytest.mark.parametrize("name", ["mixed * 30", "ascending by more than exp can reach", "a late rise"])
def test_a_scaled_gradient_is_exact_to_4_ulp(name, upstream, dtype):
    """As in mixed-precision training; what is small as a probability may be a normal number as a gradient."""
    logits = row_of(name, dtype)
    right = exact.row(logits, 7, weight=upstream)
    _, d_logits = sl.cross_entropy_and_grad(logits, 7, reduction="none", upstream=upstream)
    assert exact.ulps(d_logits, right.d_logits) <= LIMIT


@pytest.mark.parametrize("upstream", [1e50, 1e90, 1e94, 1e97, 1e150, 1e300])
def test_a_gradient_is_infinite_only_beyond_the_largest_number(upstream):
    logits = np.array([0, -100, -120, -131], np.float32)
    right = exact.row(logits, 0, weight=upstream)
    _, d_logits = sl.cross_entropy_and_grad(logits, 0, reduction="none", upstream=upstream)
    assert exact.ulps(d_logits, right.d_logits) <= LIMIT


def test_a_tiny_loss_is_not_rounded_to_zero():
    logits = np.array([[0, -40]], np.float32)
    loss, d_logits = sl.cross_entropy_and_grad(logits, [0])
    assert loss == pytest.approx(4.2483542552915889e-18, rel=1e-7)
    assert d_logits[0].tolist() == pytest.approx([-4.2483542552915889e-18, 4.2483542552915889e-18], rel=1e-7)


def test_an_offset_of_a_million_costs_no_accuracy():
    logits = (np.array([[2, -1]]) + 1e6).astype(np.float32)
    loss = sl.cross_entropy(logits, [0], reduction="none")
    assert exact.ulps(loss, exact.row(logits[0], 0).loss) <= LIMIT


def rows_and_targets(dtype):
    width = np.finfo(dtype).bits
    numbers = st.floats(-50, 50, width=width) | st.floats(allow_nan=False, allow_infinity=False, width=width)
    shares = st.sampled_from([0.0, 0.0, 1.0, 0.3, 1e-6])
    return st.integers(1, 6).flatmap(
        lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(shares, min_size=n, max_size=n))
    )


@over_dtypes
def test_any_finite_row_is_exact_to_4_ulp(dtype):
    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(rows_and_targets(dtype))
    def check(row):
        logits, targets = np.array(row[0], dtype), np.array(row[1])
        for target in (0, targets):
            right = exact.row(logits, target)
            loss, d_logits = sl.cross_entropy_and_grad(logits, target, reduction="none")
            scale = right.d_scale if np.ndim(target) else None
            assert exact.ulps(loss, right.loss) <= LIMIT
            assert exact.ulps(d_logits, right.d_logits, scale=scale) <= LIMIT

    check()


def test_the_reference_is_exact_as_long_as_differences_of_logits_are():
    for name in ("margin 0.3", "margin 200 to many", "(2, -1) + 1e+06", "near equal", "ties", "with -inf"):
        logits = row_of(name, np.float32)
        right = exact.row(logits, 1)
        loss, d_logits = reference.cross_entropy_and_grad(logits, 1, reduction="none")
        assert exact.ulps(loss, right.loss) <= LIMIT
        assert exact.ulps(d_logits, right.d_logits) <= LIMIT
