"""Where libraries differ: what docs/differences.md promises holds for tensors."""

from math import inf, nan

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import softmaxloss.torch as slt
from tensors import assert_same, layer_problem, problem

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.fixture(params=["kernels", "arrays"])
def _both_ways(request):
    if request.param == "arrays":
        request.getfixturevalue("without_kernels")


pytestmark = pytest.mark.usefixtures("_both_ways")


def gradient(loss, leaf):
    return torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_alone_have_loss_and_gradient_0(dtype, reduction):
    logits, labels = problem(dtype=dtype)
    loss = slt.cross_entropy(logits, torch.full_like(labels, -100), reduction=reduction)
    assert_same(loss.detach(), torch.zeros_like(loss))
    assert_same(gradient(loss, logits), torch.zeros_like(logits))


@pytest.mark.parametrize("n", [0, 3])
def test_the_mean_over_no_rows_or_weights_of_0_is_0(n):
    logits, labels = problem(n)
    for loss in (
        slt.cross_entropy(logits, labels, sample_weight=torch.zeros(n)),
        slt.cross_entropy(logits, labels, weight=torch.zeros(5)),
        slt.cross_entropy(logits, torch.zeros(n, 5)),
    ):
        assert loss.item() == 0
        assert_same(gradient(loss, logits), torch.zeros_like(logits))


@pytest.mark.parametrize("wrong", [nan, inf, -inf])
@pytest.mark.parametrize("by", ["ignore_index", "sample_weight"])
def test_rows_that_take_no_part_are_not_read(wrong, by):
    logits, labels = problem()
    dead = torch.tensor([False, True, False, False, True, False])
    options = {"sample_weight": (~dead).double()} if by == "sample_weight" else {}
    labels = torch.where(dead, -100, labels) if by == "ignore_index" else labels
    hurt = torch.where(dead[:, None], wrong, logits.detach()).requires_grad_()
    loss = slt.cross_entropy(hurt, labels, **options)
    assert_same(loss.detach(), slt.cross_entropy(logits, labels, **options).detach())
    d_hurt = gradient(loss, hurt)
    assert not d_hurt[dead].any()
    assert_same(d_hurt, gradient(slt.cross_entropy(logits, labels, **options), logits))


def test_nan_in_one_row_leaves_the_other_rows_alone():
    logits, labels = problem()
    hurt = logits.detach().clone()
    hurt[2] = nan
    losses = slt.cross_entropy(hurt, labels, reduction="none")
    want = slt.cross_entropy(logits, labels, reduction="none").detach()
    assert losses.isnan().tolist() == [k == 2 for k in range(6)]
    assert_same(losses[[0, 1, 3, 4, 5]], want[[0, 1, 3, 4, 5]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_hot_rows_with_class_weights_equal_labels(dtype, reduction, label_smoothing):
    logits, labels = problem()
    options = {"weight": torch.rand(5), "reduction": reduction, "label_smoothing": label_smoothing}
    by_label = slt.cross_entropy(logits, labels, **options)
    by_row = slt.cross_entropy(logits, one_hot(labels, 5).to(dtype), **options)
    torch.testing.assert_close(by_row, by_label, rtol=1e-15, atol=0)
    torch.testing.assert_close(gradient(by_row, logits), gradient(by_label, logits), rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 2.0**20])
def test_a_confident_row_has_a_small_loss_and_gradient_not_0(dtype, offset):
    logits = (torch.tensor([[0.0, -40.0]], dtype=dtype) + offset).requires_grad_()
    loss = slt.cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(4.248354255291589e-18, rel=4 * torch.finfo(dtype).eps)
    d_0, d_1 = gradient(loss, logits)[0].tolist()
    assert d_1 == pytest.approx(4.248354255291589e-18, rel=4 * torch.finfo(dtype).eps)
    assert d_0 == -d_1
    log_p = slt.log_softmax(logits.detach())[0, 0].item()
    assert log_p == pytest.approx(-4.248354255291589e-18, rel=4 * torch.finfo(dtype).eps)


def test_a_soft_target_of_0_on_a_logit_of_minus_infinity_contributes_nothing():
    logits = torch.tensor([[0.0, 0.0, -inf], [1.0, -inf, 1.0]], requires_grad=True)
    losses = slt.cross_entropy(logits, torch.tensor([[1.0, 0, 0], [0.5, 0, 0.5]]), reduction="none")
    torch.testing.assert_close(losses.detach(), torch.tensor([2.0, 2.0]).log())
    torch.testing.assert_close(gradient(losses, logits), torch.tensor([[-0.5, 0.5, 0], [0, 0, 0]]))


def test_a_target_on_a_logit_of_minus_infinity_has_an_infinite_loss_and_a_finite_gradient():
    logits = torch.tensor([[0.0, 0.0, -inf]], requires_grad=True)
    loss = slt.cross_entropy(logits, torch.tensor([2]))
    assert loss.item() == inf
    assert_same(gradient(loss, logits), torch.tensor([[0.5, 0.5, -1]]))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_may_be_integers_of_any_width(dtype):
    logits, labels = problem()
    labels[1] = 3
    loss = slt.cross_entropy(logits, labels.to(getattr(torch, dtype)))
    assert_same(loss.detach(), slt.cross_entropy(logits, labels).detach())
    torch.testing.assert_close(loss.detach(), torch.nn.functional.cross_entropy(logits, labels).detach())
    *layer, labels = layer_problem()
    losses = [
        slt.linear_cross_entropy(*layer[:2], t, linear_bias=layer[2])
        for t in (labels, labels.to(loss.dtype).to(getattr(torch, dtype)))
    ]
    assert_same(losses[1].detach(), losses[0].detach())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_of_half_precision_is_a_float32_that_does_not_overflow(dtype):
    loss = slt.cross_entropy(torch.zeros(2, 100_000, dtype=dtype), torch.tensor([0, 1]), reduction="sum")
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(2 * np.log(100_000))


def test_ignore_index_of_another_class_leaves_its_rows_out():
    logits, labels = problem()
    live = labels != 2
    loss = slt.cross_entropy(logits, labels, ignore_index=2)
    assert_same(loss.detach(), slt.cross_entropy(logits[live], labels[live]).detach())


def test_the_soft_targets_of_pytorch_may_sum_to_anything():
    logits, _ = problem()
    target = torch.rand(6, 5, dtype=torch.float64)
    losses = slt.cross_entropy(logits, target, reduction="none")
    want = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(losses, want)
    assert slt.cross_entropy(logits, target).item() == pytest.approx((want.sum() / target.sum()).item())


LEAVES = {
    "leaf": lambda z: z.clone().requires_grad_(),
    "leaf that is a view": lambda z: z.clone().reshape(3, 2, 5).view(6, 5).requires_grad_(),
}


@pytest.mark.parametrize("leaf_of", LEAVES.values(), ids=LEAVES)
@pytest.mark.parametrize("seen_as", [lambda leaf: leaf, lambda leaf: leaf.view(6, 5)], ids=["itself", "view"])
def test_no_gradient_overwrites_a_leaf(leaf_of, seen_as):
    logits, labels = problem()
    leaf = leaf_of(logits.detach())
    slt.cross_entropy(seen_as(leaf), labels, inplace_backward=True).backward()
    assert_same(leaf.detach(), logits.detach())
    assert_same(leaf.grad, gradient(slt.cross_entropy(logits, labels), logits))
