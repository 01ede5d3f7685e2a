"""Tensors in any memory: with strides, expanded, read-only, resized or freed afterwards, and with no rows."""

import numpy as np
import pytest
import torch

import softmaxloss.torch as slt
from tensors import assert_same, problem


def gradients(loss, leaves):
    return torch.autograd.grad(loss.sum(), leaves)


STRIDES = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "columns": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "rows": lambda t: t.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("soft", [False, True])
def test_memory_of_any_strides_gives_the_same_loss_and_gradient(change, soft):
    logits, target = problem(soft=soft)
    changed = change(logits.detach()).requires_grad_()
    loss = slt.cross_entropy(changed, change(target) if soft else target)
    want = slt.cross_entropy(logits, target)
    torch.testing.assert_close(loss, want, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradients(loss, changed), gradients(want, logits), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_memory_can_be_resized_after_a_loss_as_before(dtype):
    logits, labels = torch.zeros(6, 5, dtype=dtype), torch.zeros(6, dtype=torch.int64)
    weight = torch.ones(5, 5, dtype=dtype)
    slt.cross_entropy(logits, labels)
    slt.linear_cross_entropy(logits, weight, labels)
    slt.softmax(logits)
    for tensor in (logits, labels, weight):
        tensor.resize_(7, 7)
        tensor.untyped_storage().resize_(0)


def test_memory_that_was_freed_is_not_read():
    logits, labels = problem()
    freed = logits.detach().clone()
    freed.untyped_storage().resize_(0)
    for function in (slt.cross_entropy, slt.linear_cross_entropy):
        arguments = (freed, labels) if function is slt.cross_entropy else (logits.detach(), freed, labels)
        with pytest.raises(RuntimeError, match=r"memory of a tensor of shape \(6, 5\) has been freed"):
            function(*arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_gradient_from_above_need_not_lie_in_memory(dtype):
    """Float16 gradients are computed again. Float64 gradients are multiplied by the gradient from above."""
    logits, labels = problem(dtype=dtype)
    losses = slt.cross_entropy(logits, labels, reduction="none")
    ones = torch.ones(6, dtype=losses.dtype)
    for upstream in (torch._efficientzerotensor(6, dtype=losses.dtype), torch._neg_view(ones)):
        (got,) = torch.autograd.grad(losses, logits, upstream, retain_graph=True)
        (want,) = torch.autograd.grad(losses, logits, ones * upstream[0].item(), retain_graph=True)
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_memory_that_numpy_must_not_write_is_read_and_never_written():
    array = np.random.default_rng(0).normal(size=(6, 5))
    array.flags.writeable = False
    labels = np.arange(6) % 5
    labels.flags.writeable = False
    before = array.tobytes()
    leaf = torch.from_numpy(array).requires_grad_()
    slt.cross_entropy(leaf, torch.from_numpy(labels)).backward()
    assert array.tobytes() == before
    assert leaf.grad.shape == (6, 5)


def test_expanded_logits_and_targets_are_taken():
    row = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    got = slt.cross_entropy(row.expand(6, 5), torch.tensor(2).expand(6))
    want = slt.cross_entropy(row, torch.tensor([2]))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradients(got, row), gradients(want, row))


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_give_a_loss_of_0_or_none_and_an_empty_gradient(shape, reduction):
    logits = torch.zeros(shape, requires_grad=True)
    loss = slt.cross_entropy(logits, torch.zeros(shape[:1] + shape[2:], dtype=torch.int64), reduction=reduction)
    assert_same(loss.detach(), torch.zeros(shape[:1] + shape[2:] if reduction == "none" else ()))
    loss.sum().backward()
    assert logits.grad.shape == shape
