"""Summaries of sets of classes merge to that of their union, however the classes are divided."""

import math
from functools import reduce

import numpy as np
import pytest

import exact
from softmaxloss.core.layout import Layout
from softmaxloss.core.rows import describe
from softmaxloss.core.rowwise import summarize
from softmaxloss.core.summary import RowSummary, merge, total_loss

N_ROWS = 4
RNG = np.random.default_rng(0)
LOGITS = {
    "mixed": 10 * RNG.normal(size=(N_ROWS, 600)),
    "ties": RNG.integers(0, 3, (N_ROWS, 600)).astype(float),
    "with -inf": np.where(RNG.random((N_ROWS, 600)) < 0.7, -np.inf, RNG.normal(size=(N_ROWS, 600))),
    "far apart": 1e4 * RNG.normal(size=(N_ROWS, 600)),
    "offset": RNG.normal(size=(N_ROWS, 600)) + 1e6,
}
TARGETS = RNG.dirichlet(np.ones(600), N_ROWS) * (RNG.random((N_ROWS, 600)) < 0.5)

over_logits = pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
over_cuts = pytest.mark.parametrize(
    "cuts", [[], [300], [1], [599], [1, 2, 3], list(range(50, 600, 50)), [256, 512]], ids=str
)


def summaries(logits, cuts):
    """Return the summary of each piece of the classes, which are cut before each of `cuts`."""
    logits = np.where(TARGETS > 0, np.maximum(logits, -1e5), logits)  # so that dot stays finite
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, 600], strict=True):
        layout = Layout((N_ROWS, stop - start))
        rows, _ = describe(TARGETS[:, start:stop], layout, reduction="none")
        part = summarize(logits[:, start:stop], rows, layout)
        parts.append(part._replace(argmax=part.argmax + start))
    return parts


def assert_same_summary(got, right):
    assert np.array_equal(got.argmax, right.argmax)
    assert np.array_equal(got.peak, right.peak)
    for name in ("rest", "dot", "mass"):
        np.testing.assert_allclose(getattr(got, name), getattr(right, name), rtol=2e-15, err_msg=name)


@over_logits
@over_cuts
def test_the_parts_merge_to_the_whole(logits, cuts):
    (whole,) = summaries(logits, [])
    assert_same_summary(merge(summaries(logits, cuts)), whole)


@over_logits
def test_the_order_of_the_parts_does_not_matter(logits):
    parts = summaries(logits, [100, 101, 350, 500])
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert_same_summary(merge([parts[i] for i in order]), merge(parts))


@over_logits
def test_the_nesting_of_the_merges_does_not_matter(logits):
    parts = summaries(logits, [100, 101, 350, 500])
    from_the_left = reduce(lambda a, b: merge([a, b]), parts)
    from_the_right = reduce(lambda a, b: merge([b, a]), reversed(parts))
    tree = merge([merge(parts[:2]), merge(parts[2:])])
    for nested in (from_the_left, from_the_right, tree):
        assert_same_summary(nested, merge(parts))


@over_logits
def test_a_summary_gives_the_exact_loss(logits):
    logits = np.where(TARGETS > 0, np.maximum(logits, -1e5), logits)
    summary = merge(summaries(logits, [7, 200]))
    loss = summary.mass * np.log1p(summary.rest) - summary.dot
    for i in range(N_ROWS):
        assert exact.ulps(loss[i], exact.row(logits[i], TARGETS[i]).loss) <= 4


def test_a_set_of_classes_all_at_minus_infinity_adds_nothing():
    (whole,) = summaries(LOGITS["mixed"], [])
    zeros = np.zeros(N_ROWS)
    nothing = RowSummary(np.full(N_ROWS, 600), np.full(N_ROWS, -np.inf), zeros, zeros, zeros)
    for parts in ([whole, nothing], [nothing, whole], [nothing, whole, nothing]):
        assert_same_summary(merge(parts), whole)


def test_the_winner_of_a_tie_is_the_lowest_class_in_any_order():
    def at(k):
        return RowSummary(np.array([k]), np.array([2.5]), np.zeros(1), np.zeros(1), np.zeros(1))

    for order in ([3, 8, 5], [8, 5, 3], [5, 3, 8]):
        merged = merge([at(k) for k in order])
        assert merged.argmax[0] == 3
        assert merged.rest[0] == 2.0


def test_a_nan_in_one_part_is_a_nan_in_the_whole():
    for bad in (np.nan, np.inf):
        logits = LOGITS["mixed"].copy()
        logits[1, 400] = bad
        merged = merge(summaries(logits, [300]))
        loss = merged.mass * np.log1p(merged.rest) - merged.dot
        usable = np.isfinite(merged.peak) & np.isfinite(loss)
        assert usable.tolist() == [True, False, True, True]


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000, 100_000])
@pytest.mark.parametrize("decades", [1, 30, 300])
def test_losses_are_added_up_as_if_rounded_once(n, decades):
    rng = np.random.default_rng(n)
    losses = 10.0 ** rng.uniform(-decades, decades, n)
    right = math.fsum(losses)
    assert abs(total_loss(losses) - right) <= np.spacing(right)


@pytest.mark.parametrize(
    ("unusual", "right"), [([np.inf], np.inf), ([np.nan], np.nan), ([np.inf, np.nan], np.nan), ([1e308, 1e308], np.inf)]
)
def test_a_total_is_infinite_or_nan_where_the_losses_are_or_overflow(unusual, right):
    losses = np.ones(200)
    losses[:: 199 // len(unusual)][: len(unusual)] = unusual
    np.testing.assert_equal(total_loss(losses), right)
