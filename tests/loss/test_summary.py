"""Summaries of sets of classes merge to that of their union, however the classes are divided."""

import math
from functools import reduce

import numpy as np
import pytest

import exact
import softmaxloss as sl
from agree import assert_close
from cases import CASES, over, without
from softmaxloss import RowSummary, merge, summarize
from softmaxloss.kernels import summary as kernels
from softmaxloss.kernels.summary import total

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
    """Return the summary of each slice of the classes, which are cut before each of `cuts`."""
    logits = np.where(TARGETS > 0, np.maximum(logits, -1e5), logits)  # so that dot stays finite
    ends = zip([0, *cuts], [*cuts, 600], strict=True)
    return [summarize(logits[:, a:b], TARGETS[:, a:b], first_class=a, n_classes=600) for a, b in ends]


def assert_same_summary(got, right):
    for name in ("peak", "target_logit", "q_target"):
        assert np.array_equal(getattr(got, name), getattr(right, name)), name
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
    for i, loss in enumerate(summary.losses()):
        assert exact.ulps(loss, exact.row(logits[i], TARGETS[i]).loss) <= 4


def test_a_set_of_classes_all_at_minus_infinity_adds_nothing():
    (whole,) = summaries(LOGITS["mixed"], [])
    zeros = np.zeros(N_ROWS)
    never = np.full(N_ROWS, -np.inf)
    nothing = RowSummary(never, zeros, zeros, zeros, never, zeros)
    for parts in ([whole, nothing], [nothing, whole], [nothing, whole, nothing]):
        assert_same_summary(merge(parts), whole)


def test_a_tiny_loss_keeps_its_digits_wherever_the_target_is():
    for label in (0, 599):
        logits = np.zeros((1, 600))
        logits[0, label] = 80
        parts = [summarize(logits[:, a : a + 200], [label], first_class=a, n_classes=600) for a in (0, 200, 400)]
        for order in (parts, parts[::-1]):
            assert exact.ulps(merge(order).losses()[0], exact.row(logits[0], label).loss) <= 4


# Masked classes may be anywhere in the table, but in a sliced vocabulary they are padding at its end.
IN_SLICES = [case for case in CASES if case.axis == -1 and case.n_classes > 1 and "class_mask" not in case.options]


@over(IN_SLICES)
def test_slices_of_a_vocabulary_give_the_loss_under_every_option(case):
    shared = without(case.options_per_row, "class_weight", "upstream", "reduction")
    class_weight = case.options.get("class_weight", np.ones(case.n_classes))
    right = np.asarray(
        sl.cross_entropy(case.logits, case.targets, class_weight=class_weight, reduction="none", **shared)
    )
    parts = []
    for a, b in ((0, 1), (1, case.n_classes)):
        targets = case.targets if case.has_indices else case.targets[..., a:b]
        mine = {"first_class": a, "n_classes": case.n_classes, "class_weight": class_weight[a:b]}
        parts.append(summarize(case.logits[..., a:b], targets, **mine, **without(shared, "z_loss")))
    t, live = shared.get("temperature", 1.0), ~np.broadcast_to(case.dead, case.batch_shape).reshape(-1)
    losses = merge(parts, temperature=t).losses(z_loss=shared.get("z_loss", 0.0), temperature=t)
    losses = np.where(live, losses, 0.0) * case.sample_weight.reshape(-1)
    assert_close(losses, right.reshape(-1), case.rounding)


def test_the_padding_of_a_vocabulary_is_masked_in_its_last_slice():
    logits, labels, padded = RNG.normal(size=(5, 12)), [0, 3, 8, 9, 5], np.arange(6) < 4
    logits[:, 10:] = np.nan
    right = sl.cross_entropy(logits[:, :10], labels, label_smoothing=0.2, reduction="none")
    left = summarize(logits[:, :6], labels, n_classes=10, label_smoothing=0.2)
    rest = summarize(logits[:, 6:], labels, first_class=6, n_classes=10, label_smoothing=0.2, class_mask=padded)
    assert_close(merge([left, rest]).losses(), right, 1e-15)


def test_a_nan_in_one_part_is_a_nan_in_the_whole():
    for bad in (np.nan, np.inf):
        logits = LOGITS["mixed"].copy()
        logits[1, 400] = bad
        merged = merge(summaries(logits, [300]))
        usable = np.isfinite(merged.losses())
        assert usable.tolist() == [True, False, True, True]


def test_merge_says_what_is_wrong():
    two, three = (summarize(np.zeros((n_rows, 4)), np.zeros(n_rows, int)) for n_rows in (2, 3))
    with pytest.raises(ValueError, match=r"parts must be one or more .* equally many rows, got \[\] rows"):
        merge([])
    with pytest.raises(ValueError, match=r"parts must be .* equally many rows, got \[2, 3\] rows"):
        merge([two, three])
    with pytest.raises(ValueError, match=r"temperature must .*, got 0"):
        merge([two], temperature=0)
    with pytest.raises(TypeError, match=r"temperature must .*, got '1'"):
        merge([two], temperature="1")


def test_a_temperature_of_any_type_merges_with_the_machine_code_of_floats():
    part = summarize(np.arange(8.0).reshape(2, 4), [0, 1])
    right, known = merge([part, part], temperature=2.0), len(kernels.merge.signatures)
    for two in (2, np.float32(2)):
        assert_same_summary(merge([part, part], temperature=two), right)
    assert len(kernels.merge.signatures) == known


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000, 100_000])
@pytest.mark.parametrize("decades", [1, 30, 300])
def test_losses_are_added_up_as_if_rounded_once(n, decades):
    rng = np.random.default_rng(n)
    losses = 10.0 ** rng.uniform(-decades, decades, n)
    right = math.fsum(losses)
    assert abs(total(losses) - right) <= np.spacing(right)


@pytest.mark.parametrize(
    ("unusual", "right"), [([np.inf], np.inf), ([np.nan], np.nan), ([np.inf, np.nan], np.nan), ([1e308, 1e308], np.inf)]
)
def test_a_total_is_infinite_or_nan_where_the_losses_are_or_overflow(unusual, right):
    losses = np.ones(200)
    losses[:: 199 // len(unusual)][: len(unusual)] = unusual
    np.testing.assert_equal(total(losses), right)
