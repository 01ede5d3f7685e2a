"""What NaN and infinity mean among logits, and that a row which holds them leaves the others alone."""

from math import log

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import side_by_side

LOGITS = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, -4.0], [2.0, 2.0, 1.0]])
LABELS = np.array([0, 2, 1])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
REDUCTIONS = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
BAD_ROWS = pytest.mark.parametrize(
    "bad_row",
    [
        [np.nan, 0, 1],
        [0, np.inf, 1],
        [-np.inf] * 3,
        [np.inf, -np.inf, 0],
        [np.inf] * 3,
        [-np.inf, -np.inf, np.nan],
        [-np.inf, 0, -np.nan],
        [-np.inf, -np.inf, -np.nan],
        [np.inf, 0, -np.nan],
    ],
    ids=str,
)


@REDUCTIONS
@BAD_ROWS
@pytest.mark.parametrize("how", ["ignore_index", "sample_weight", "dense"])
def test_rows_that_take_no_part_are_never_read(bad_row, how, reduction):
    logits = np.vstack([LOGITS, [bad_row]])
    weight = [1, 1, 1, 0]
    targets, options = {
        "ignore_index": ([*LABELS, -100], {"ignore_index": -100}),
        "sample_weight": ([*LABELS, 10**6], {"sample_weight": weight}),
        "dense": (np.vstack([np.eye(3)[LABELS], [np.nan, -1, np.inf]]), {"sample_weight": weight}),
    }[how]
    right_loss, right_d_logits = sl.cross_entropy_and_grad(LOGITS, LABELS, reduction=reduction)
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets, reduction=reduction, **options)
    assert_close(loss, np.append(right_loss, 0.0) if reduction == "none" else right_loss, 1e-15)
    assert_close(d_logits[:3], right_d_logits, 1e-15)
    assert np.all(d_logits[3] == 0)


@DTYPES
def test_a_smoothed_class_at_minus_infinity_makes_the_loss_infinite_and_the_gradient_stays_finite(dtype):
    logits = np.array([[0, 0, -np.inf], [0, 0, 0]], dtype)
    loss, d_logits = sl.cross_entropy_and_grad(logits, [0, 0], label_smoothing=0.3, reduction="none")
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])
    assert_close(d_logits[0], [0.5 - 0.8, 0.5 - 0.1, -0.1], 1e-6)


@DTYPES
def test_a_smoothed_class_without_class_weight_may_be_at_minus_infinity(dtype):
    logits = np.array([0, 0, -np.inf], dtype)
    loss = sl.cross_entropy(logits, 0, label_smoothing=0.3, class_weight=[1, 1, 0], reduction="none")
    assert loss == pytest.approx((0.8 + 0.1) * np.log(2), rel=1e-6)


@DTYPES
@pytest.mark.parametrize("rest", [0.0, 0.25])
def test_a_soft_target_of_zero_on_a_logit_of_minus_infinity_contributes_zero(dtype, rest):
    logits, targets = np.array([[0, 0, -np.inf]], dtype), np.array([[1 - rest, rest, 0]], dtype)
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets)
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    assert_close(d_logits, [[rest - 0.5, 0.5 - rest, 0]], 1e-6)


@DTYPES
@pytest.mark.parametrize("target", [1, [0, 1, 0], [0.5, 0.5, 0]], ids=str)
def test_a_target_at_minus_infinity_costs_infinity_and_its_gradient_is_p_minus_q(dtype, target):
    logits = np.array([[np.log(3), -np.inf, 0]], dtype)
    dense = np.eye(3)[target] if np.ndim(target) == 0 else np.array(target, float)
    targets = np.array([target]) if np.ndim(target) == 0 else dense[None]
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets)
    assert loss == np.inf
    assert_close(d_logits, [[0.75, 0, 0.25] - dense], 1e-6)


@DTYPES
@BAD_ROWS
@pytest.mark.parametrize("target", [0, 1, 2, [0.2, 0.3, 0.5], [0.0, 0.0, 0.0]], ids=str)
def test_a_row_without_a_softmax_is_nan_and_leaves_the_others_alone(dtype, bad_row, target):
    logits = np.vstack([LOGITS[:1], [bad_row], LOGITS[1:]]).astype(dtype)
    targets = np.array([target] * 4)
    good = [0, 2, 3]
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets, reduction="none")
    right_loss, right_d_logits = sl.cross_entropy_and_grad(logits[good], targets[good], reduction="none")
    assert np.isnan(loss[1])
    assert np.all(np.isnan(d_logits[1]))
    assert_same_bits(loss[good], right_loss)
    assert_same_bits(d_logits[good], right_d_logits)
    if np.any(target):
        assert np.isnan(sl.cross_entropy(logits, targets))


@DTYPES
@BAD_ROWS
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_a_row_without_a_softmax_is_nan_and_leaves_the_others_alone_where_classes_are_major(dtype, bad_row, soft):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 20)).astype(dtype)
    targets = rng.random((3, 20)).astype(dtype) if soft else rng.integers(0, 3, 20)
    right = sl.cross_entropy_and_grad(logits, targets, axis=0, reduction="none")
    logits[:, 6] = bad_row
    got = sl.cross_entropy_and_grad(logits, targets, axis=0, reduction="none")
    for result, right_result in zip(got, right, strict=True):
        assert np.all(np.isnan(result[..., 6]))
        assert_same_bits(np.delete(result, 6, -1), np.delete(right_result, 6, -1))


@DTYPES
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_minus_infinity_means_the_same_where_classes_are_major(dtype, label_smoothing):
    """A label there, none there, and a soft target there and not there."""
    rows = np.array([[log(3), -np.inf, 0]] * 4, dtype)
    targets = np.array([[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]], dtype)
    loss, d_logits = sl.cross_entropy_and_grad(
        side_by_side(rows, 0),
        side_by_side(targets, 0),
        axis=0,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    always = label_smoothing > 0
    assert_same_bits(np.isinf(loss[::16]), np.array([True, always, True, always]))
    if not always:
        assert_close(loss[::16][[1, 3]], [log(4 / 3), log(4) - log(3) / 2], 1e-6)
    q = (1 - label_smoothing) * targets + label_smoothing / 3
    assert_close(d_logits.T[::16], [0.75, 0, 0.25] - q, 1e-6)


@DTYPES
@BAD_ROWS
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_softmax_of_a_row_without_a_softmax_is_nan_and_leaves_the_others_alone(dtype, bad_row, function):
    logits = np.vstack([LOGITS[:1], [bad_row], LOGITS[1:]]).astype(dtype)
    got = getattr(sl, function)(logits)
    assert np.all(np.isnan(got[1]))
    assert_same_bits(got[[0, 2, 3]], getattr(sl, function)(logits[[0, 2, 3]]))


@DTYPES
@BAD_ROWS
def test_logsumexp_is_infinite_where_a_logit_or_all_of_them_are(dtype, bad_row):
    logits = np.vstack([LOGITS[:1], [bad_row], LOGITS[1:]]).astype(dtype)
    got = sl.logsumexp(logits)
    np.testing.assert_array_equal(got[1], np.max(bad_row))
    assert_same_bits(got[[0, 2, 3]], sl.logsumexp(logits[[0, 2, 3]]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", [0, [0.5], [0.0]], ids=str)
def test_the_only_class_must_be_finite_as_well(value, target):
    loss, d_logits = sl.cross_entropy_and_grad([[value]], np.array([target]), reduction="none")
    assert np.isnan(loss[0])
    assert np.isnan(d_logits[0, 0])


@DTYPES
@pytest.mark.parametrize("nan", [np.nan, -np.nan], ids=["nan", "-nan"])
@pytest.mark.parametrize("others", [0.0, -np.inf, np.inf])
@pytest.mark.parametrize(
    ("n_classes", "place"), [(5000, 0), (5000, 3000), (5000, 4999), *((9, place) for place in range(9))]
)
def test_a_nan_in_any_block_makes_the_row_nan(dtype, nan, others, n_classes, place):
    """Among -inf its block has no peak without it; a minus sign puts it below -inf in the order of the bits."""
    logits = np.full(n_classes, -np.inf, dtype)
    logits[0] = others
    logits[place] = nan
    loss, d_logits = sl.cross_entropy_and_grad(logits, 1, reduction="none", label_smoothing=0.1)
    for result in (loss, d_logits, sl.softmax(logits), sl.log_softmax(logits), sl.logsumexp(logits)):
        assert np.all(np.isnan(result))


@DTYPES
@pytest.mark.parametrize("place", range(9))
def test_a_row_that_holds_nan_has_no_right_class(dtype, place):
    logits, label = np.zeros((40, 9), dtype), (place + 1) % 9
    logits[:, label] = 5
    logits[3, place] = np.nan
    assert sl.metrics(logits, np.full(40, label)).accuracy == 39 / 40
