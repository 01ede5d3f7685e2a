"""Targets that want more than one class, soft or smoothed, however rows of so many classes are computed."""

import numpy as np
import pytest

import softmaxloss as sl

# 3 classes are computed side by side, 201 row by row in one block, 5000 in several blocks
N_CLASSES = pytest.mark.parametrize("n_classes", [3, 201, 5000])


@N_CLASSES
@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf])
def test_a_wrong_probability_is_refused_wherever_it_stands(n_classes, wrong):
    for j in (0, n_classes // 2, n_classes - 1):
        targets = np.full((2, n_classes), 1 / n_classes)
        targets[1, j] = wrong
        with pytest.raises(ValueError, match=rf"finite and not negative, got {wrong} at position \(1, {j}\)"):
            sl.cross_entropy(np.zeros((2, n_classes)), targets)


@N_CLASSES
def test_the_gradient_at_the_class_with_the_largest_q_keeps_its_digits(n_classes):
    """Its softmax is 1. So its gradient, sum(q) - q_t, is the small q of the other class."""
    targets, class_weight, logits = np.zeros((3, n_classes), np.float32)
    targets[:2], class_weight[:2], logits[1] = [0.6, 0.4], [1e-3, 1e3], 200
    _, d_logits = sl.cross_entropy_and_grad(logits, targets, class_weight=class_weight, reduction="sum")
    assert d_logits[1] == pytest.approx(0.6e-3, rel=1e-6)


@N_CLASSES
def test_targets_of_only_zeros_never_read_a_masked_class(n_classes):
    logits, exists = np.zeros(n_classes), np.arange(n_classes) > 0
    logits[0] = np.nan
    loss, d_logits = sl.cross_entropy_and_grad(logits, np.zeros(n_classes), class_mask=exists, reduction="sum")
    assert loss == 0
    assert not d_logits.any()


@N_CLASSES
def test_a_smoothed_loss_is_infinite_where_a_class_is_impossible(n_classes):
    logits = np.zeros(n_classes)
    logits[: n_classes // 2] = -np.inf
    assert sl.cross_entropy(logits, n_classes - 1, label_smoothing=0.1) == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@N_CLASSES
@pytest.mark.parametrize("weighted", [False, True])
def test_many_huge_gaps_are_no_infinite_loss(dtype, n_classes, weighted):
    largest, smoothing = float(np.finfo(dtype).max), 0.5
    options = {"class_weight": np.ones(n_classes)} if weighted else {}
    logits = np.array([largest] + [-largest] * (n_classes - 1), dtype)
    loss = sl.cross_entropy(logits, 0, label_smoothing=smoothing, reduction="none", **options)
    assert loss == pytest.approx((n_classes - 1) / n_classes * largest, rel=1e-6)
