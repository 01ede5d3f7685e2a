"""The questions on which libraries differ, and the answers given here."""

from math import log

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16, finfo

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import side_by_side
from softmaxloss import reference

LOGITS = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, -4.0], [2.0, 2.0, 1.0]])
LABELS = np.array([0, 2, 1])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
REDUCTIONS = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([255, 255, 255], {"ignore_index": 255}),
        ([0, 1, 2], {"sample_weight": [0, 0, 0]}),
        ([0, 0, 0], {"class_weight": [0, 1, 1]}),
        ([0, 0, 0], {"class_weight": [0, 1, 1], "label_smoothing": 0.1}),
        (np.zeros((3, 3)), {}),
    ],
)
def test_the_mean_over_nothing_is_zero(labels, options):
    loss, d_logits = sl.cross_entropy_and_grad(LOGITS, labels, **options)
    assert loss == 0.0
    assert np.all(d_logits == 0)
    assert sl.jvp(LOGITS, labels, LOGITS, **options) == (0, 0)
    assert np.all(sl.hessian_diagonal(LOGITS, labels, **options) == 0)
    assert np.all(sl.hvp(LOGITS, labels, LOGITS, **options) == 0)


@REDUCTIONS
def test_no_rows_have_no_loss(reduction):
    loss, d_logits = sl.cross_entropy_and_grad(np.zeros((0, 3)), np.zeros(0, int), reduction=reduction)
    assert np.sum(loss) == 0.0
    assert np.shape(loss) == ((0,) if reduction == "none" else ())
    assert d_logits.shape == (0, 3)


@pytest.mark.parametrize(
    "targets", [LABELS, np.eye(3)[LABELS], np.eye(3, dtype=bool)[LABELS]], ids=["index", "float", "bool"]
)
def test_the_mean_divides_by_the_total_weight_of_the_targets(targets):
    options = {"class_weight": [1, 2, 3], "sample_weight": [1, 0.5, 2], "label_smoothing": 0.3}
    total = 1 * 1 + 0.5 * 3 + 2 * 2
    mean, mean_d = sl.cross_entropy_and_grad(LOGITS, targets, reduction="mean", **options)
    sum_, sum_d = sl.cross_entropy_and_grad(LOGITS, targets, reduction="sum", **options)
    assert mean == pytest.approx(sum_ / total, rel=1e-15)
    assert_close(mean_d, sum_d / total, 1e-15)


def test_the_mean_over_soft_targets_divides_by_their_sum():
    targets = np.array([[0.5, 0.1, 0], [0, 0, 0.2], [1, 1, 1]])
    mean = sl.cross_entropy(LOGITS, targets)
    assert mean == pytest.approx(sl.cross_entropy(LOGITS, targets, reduction="sum") / 3.8, rel=1e-15)


def test_the_mean_over_indices_divides_as_pytorch_does():
    weight = np.array([1.0, 2.0, 3.0])
    labels = np.array([0, -100, 1])
    loss = sl.cross_entropy(LOGITS, labels, class_weight=weight, ignore_index=-100, label_smoothing=0.2)
    right = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(labels), weight=torch.tensor(weight), label_smoothing=0.2
    )
    assert loss == pytest.approx(right.item(), rel=1e-14)


def test_a_normalizer_of_0_needs_rows_that_are_all_ignored():
    logits = np.zeros((3, 4))
    assert sl.cross_entropy(logits, [-1, -1, -1], ignore_index=-1, normalizer=0) == 0.0
    with pytest.raises(ValueError, match="got 0 for a total weight of 2"):
        sl.cross_entropy(logits, [0, -1, 1], ignore_index=-1, normalizer=0)


def test_with_a_normalizer_the_parts_of_a_batch_add_up_to_its_mean():
    weight, sample_weight = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 0.5])
    options = {"class_weight": weight, "label_smoothing": 0.2}
    parts = [
        sl.cross_entropy_and_grad(
            LOGITS[rows],
            LABELS[rows],
            sample_weight=sample_weight[rows],
            normalizer=weight[LABELS] @ sample_weight,
            **options,
        )
        for rows in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    rows = [0, 0, 0, 0, 2]  # as often as their weights are multiples of a half
    x = torch.tensor(LOGITS, requires_grad=True)
    right = torch.nn.functional.cross_entropy(
        x[rows], torch.tensor(LABELS[rows]), weight=torch.tensor(weight), label_smoothing=0.2
    )
    right.backward()
    assert sum(loss for loss, _ in parts) == pytest.approx(right.item(), rel=1e-14)
    assert_close(np.vstack([d_logits for _, d_logits in parts]), x.grad.numpy(), 1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 2), (2, 3, 4, 5)])
def test_axis_1_is_where_pytorch_has_the_classes(shape):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=shape), rng.integers(0, 3, (shape[0], *shape[2:]))
    loss, d_logits = sl.cross_entropy_and_grad(logits, labels, axis=1)
    x = torch.tensor(logits, requires_grad=True)
    right = torch.nn.functional.cross_entropy(x, torch.tensor(labels))
    right.backward()
    assert loss == pytest.approx(right.item(), rel=1e-14)
    assert_close(d_logits, x.grad.numpy(), 1e-14)


@DTYPES
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e30, 0.0])
def test_a_masked_class_is_never_read_and_has_no_gradient_and_no_share_of_the_smoothing(dtype, axis, padding):
    exists = np.array([True, False, True, True, False])
    logits, weight = np.full((3, 5), padding, dtype), np.array([1, np.pi, 2, 3, 0])
    logits[:, exists] = LOGITS
    labels = np.array([0, 3, 2])
    options = {"class_weight": weight, "label_smoothing": 0.3, "reduction": "none", "axis": axis}
    loss, d_logits = sl.cross_entropy_and_grad(
        side_by_side(logits, axis), np.repeat(labels, 16) if axis == 0 else labels, class_mask=exists, **options
    )
    q = weight[exists] * (0.7 * np.eye(3)[LABELS] + 0.3 / 3)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    if axis == 0:
        loss, d_logits = loss[::16], d_logits.T[::16]
    assert_close(loss, -(q * np.log(p)).sum(-1), 1e-6)
    assert_close(d_logits[:, exists], q.sum(-1, keepdims=True) * p - q, 1e-6)
    assert np.all(d_logits[:, ~exists] == 0)


def test_a_masked_class_is_no_target_but_of_rows_that_take_no_part():
    options = {"class_mask": [True, False, True], "reduction": "none"}
    for targets in (LABELS, np.eye(3)[LABELS], np.eye(3, dtype=bool)[LABELS], [[0.5, 1e-9, 0]] * 3):
        with pytest.raises(ValueError, match="class_mask"):
            sl.cross_entropy_and_grad(LOGITS, targets, **options)
        loss = sl.cross_entropy(LOGITS, targets, sample_weight=[0, 0, 0], **options)
        assert_same_bits(loss, np.zeros(3))
    loss = sl.cross_entropy(LOGITS, LABELS, ignore_index=1, **options)
    assert np.all(loss == [*loss[:2], 0])


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5], ids=str)
def test_half_precision_loses_nothing_but_the_last_rounding_of_the_gradient(dtype, axis, scale):
    """The smallest scale leaves float16 subnormal numbers, which count as well."""
    rng = np.random.default_rng(0)
    logits, labels = (5 * rng.normal(size=(200, 30))).astype(dtype), rng.integers(0, 30, 200)
    options = {"axis": axis, "reduction": "none", "upstream": scale}
    x = logits.T.copy() if axis == 0 else logits
    loss, d_logits = sl.cross_entropy_and_grad(x, labels, **options)
    right_loss, right = reference.cross_entropy_and_grad(x.astype(np.float64), labels, **options)
    assert (loss.dtype, d_logits.dtype) == (np.float32, dtype)
    np.testing.assert_allclose(loss, right_loss, rtol=4 * 2.0**-23)
    last_place = np.maximum(2.0 ** np.floor(np.log2(np.abs(right))), float(finfo(dtype).smallest_normal))
    error = np.abs(d_logits.astype(np.float64) - right) / (last_place * float(finfo(dtype).eps))
    assert np.max(error) <= 0.5 + 8 * 2.0**-23 / float(finfo(dtype).eps)
    assert type(sl.cross_entropy(x, labels, axis=axis)) is float


def test_sums_and_means_do_not_lose_small_losses_to_large_ones():
    logits = np.zeros((100_001, 2), np.float32)
    logits[0, 1] = -1e8
    labels = np.append(1, np.zeros(100_000, int))
    right = 1e8 + 1e5 * log(2)
    assert sl.cross_entropy(logits, labels, reduction="sum") == pytest.approx(right, rel=1e-10)
    assert sl.cross_entropy(logits, labels) == pytest.approx(right / 100_001, rel=1e-10)


def test_label_smoothing_gives_every_class_its_share_and_class_weights_multiply_after_it():
    weight = np.array([1.0, 2.0, 3.0])
    loss = sl.cross_entropy(LOGITS[0], 0, label_smoothing=0.3, class_weight=weight, reduction="none")
    q = weight * (0.7 * np.array([1, 0, 0]) + 0.1)
    assert loss == pytest.approx(-q @ np.log(np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()), rel=1e-14)


def test_soft_targets_need_not_sum_to_one():
    targets = np.array([[2.0, 0.5, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.0]])
    _, d_logits = sl.cross_entropy_and_grad(LOGITS, targets, reduction="sum")
    p = sl.softmax(LOGITS)
    assert_close(d_logits, targets.sum(-1, keepdims=True) * p - targets, 1e-15)


def test_a_label_out_of_range_is_found_before_any_work():
    out = np.full((3, 3), 7.0)
    with pytest.raises(ValueError, match="targets"):
        sl.cross_entropy_and_grad(LOGITS, [0, 1, 3], out=out)
    assert np.all(out == 7)


@REDUCTIONS
def test_upstream_multiplies_the_gradient_but_not_the_loss(reduction):
    upstream = np.array([2.0, -1.0, 0.0]) if reduction == "none" else -3.0
    loss, d_logits = sl.cross_entropy_and_grad(LOGITS, LABELS, reduction=reduction)
    same_loss, scaled = sl.cross_entropy_and_grad(LOGITS, LABELS, reduction=reduction, upstream=upstream)
    assert_same_bits(same_loss, loss)
    assert_close(scaled, d_logits * np.reshape(upstream, (-1, 1)), 1e-15)


def test_one_upstream_number_serves_all_rows():
    one = sl.cross_entropy_and_grad(LOGITS, LABELS, reduction="none", upstream=2.5)
    each = sl.cross_entropy_and_grad(LOGITS, LABELS, reduction="none", upstream=[2.5] * 3)
    assert_same_bits(one[1], each[1])


@DTYPES
def test_probabilities_have_no_floor(dtype):
    logits = np.array([[0, -90], [0, -1000]], dtype)
    loss = sl.cross_entropy(logits, [1, 1], reduction="none")
    assert_same_bits(loss, np.array([90, 1000], dtype))
    assert sl.cross_entropy(logits, [0, 0], reduction="none")[0] == pytest.approx(np.exp(-90.0), rel=1e-5)


@DTYPES
@pytest.mark.parametrize(
    ("target", "options"),
    [(0, {"label_smoothing": 0.5}), ([1.0, 0.25], {}), (1, {"class_weight": [1, 0.25]})],
    ids=["smoothed", "soft", "weighted"],
)
def test_a_gap_beyond_the_largest_number_is_no_infinite_loss(dtype, target, options):
    """The class that lies two largest numbers below the other is wanted by a quarter."""
    largest = float(np.finfo(dtype).max)
    loss = sl.cross_entropy(np.array([largest, -largest], dtype), target, reduction="none", **options)
    assert loss == pytest.approx(largest / 2, rel=1e-6)


def test_a_mask_of_rows_is_a_sample_weight():
    assert sl.cross_entropy(LOGITS, LABELS, sample_weight=[True, False, True]) == sl.cross_entropy(
        LOGITS[[0, 2]], LABELS[[0, 2]]
    )


def test_a_divisor_that_overflows_is_refused():
    with pytest.raises(ValueError, match="the mean divides by their total, got inf"):
        sl.cross_entropy(LOGITS, LABELS, sample_weight=[1e308, 1e308, 1e308])


@pytest.mark.parametrize("n_classes", [2049, 65_537, 600_000])
@pytest.mark.parametrize(
    ("dtype", "gap"), [(np.float32, 1e20), (np.float32, 3e38), (np.float64, 1e100), (np.float64, 1.5e308)]
)
@pytest.mark.parametrize("temperature", [1e-20, 1.0])
def test_a_winner_at_any_distance_from_another_block_is_right(n_classes, dtype, gap, temperature):
    rows = np.zeros((3, n_classes), dtype)
    rows[0, -1] = gap  # a low block, then a high one
    rows[1, :2048] = gap  # and the other way round
    rows[2], rows[2, 5] = -gap, gap
    p = sl.softmax(rows, temperature=temperature)
    expected = np.zeros_like(rows)
    expected[0, -1], expected[1, :2048], expected[2, 5] = 1, 1 / 2048, 1
    np.testing.assert_array_equal(p, expected)
    losses = sl.cross_entropy(rows, [n_classes - 1, 0, 5], temperature=temperature, reduction="none")
    np.testing.assert_allclose(losses, [0, np.log(2048), 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "stored", "ignored", "matches"),
    [
        (np.uint64, 2**64 - 100, 2**64 - 100, True),
        (np.uint64, 2**64 - 100, -100, False),
        (np.int64, -100, 2**64 - 100, False),
        (np.int8, -100, -100, True),
        (np.int8, -100, 156, False),
        (np.uint8, 156, -100, False),
    ],
)
def test_ignore_index_is_compared_as_a_number_and_not_as_bits(dtype, stored, ignored, matches):
    targets = np.array([1, stored, 0], dtype)
    if matches:
        loss = sl.cross_entropy(np.zeros((3, 3)), targets, ignore_index=ignored, reduction="none")
        np.testing.assert_array_equal(loss == 0, [False, True, False])
    else:
        with pytest.raises(ValueError, match=f"label {stored}"):
            sl.cross_entropy(np.zeros((3, 3)), targets, ignore_index=ignored)
