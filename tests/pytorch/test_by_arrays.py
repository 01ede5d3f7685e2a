"""Where kernels cannot run, operations on arrays give the same answers."""

import numpy as np
import pytest
import torch

import softmaxloss as sl
import softmaxloss.torch as slt
import torch_oracle
from agree import assert_close
from cases import CASES, over, over_cases, without
from softmaxloss import reference
from softmaxloss.torch import by_chunks, head
from tensors import array, assert_same, layer_problem, of_case, problem, tensor, with_classes_second

pytestmark = pytest.mark.usefixtures("without_kernels")
over_float64_cases = over([case for case in CASES if case.logits.dtype == np.float64])
over_logits = over([case for case in CASES if ", index, none" in case.name or ", index, sum" in case.name])


@over_cases
def test_losses_and_gradients_equal_the_reference(case):
    loss, d_logits = of_case(case)
    logits, targets, axis = with_classes_second(case)
    right_loss, right_d_logits = reference.cross_entropy_and_grad(logits, targets, **case.options | {"axis": axis})
    assert loss.dtype == (torch.float64 if case.logits.dtype == np.float64 else torch.float32)
    assert_close(loss, right_loss, case.precision)
    assert_close(array(d_logits), right_d_logits, case.rounding)


@over_float64_cases
def test_losses_and_gradients_equal_pytorch(case):
    loss, d_logits = of_case(case)
    logits, targets, axis = with_classes_second(case)
    right = torch_oracle.cross_entropy_and_grad(logits, targets, **case.options | {"axis": axis})
    assert_close(loss, right[0], 1e-12)
    assert_close(d_logits, right[1], 1e-12)


@over_logits
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_equals_that_of_arrays(case, name):
    if case.logits.size:
        got = getattr(slt, name)(tensor(case.logits), case.axis, temperature=0.7)
        want = getattr(sl, name)(case.logits, axis=case.axis, temperature=0.7)
        assert got.dtype == tensor(case.logits).dtype
        assert_close(array(got), want, case.rounding)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_tensors_without_memory_give_shapes_and_dtypes(dtype, reduction, soft):
    logits = torch.empty(2, 5, 3, dtype=dtype, device="meta", requires_grad=True)
    target = torch.empty((2, 5, 3) if soft else (2, 3), dtype=dtype if soft else torch.int64, device="meta")
    loss = slt.cross_entropy(logits, target, torch.ones(5, device="meta"), reduction=reduction, label_smoothing=0.1)
    (d_logits,) = torch.autograd.grad(loss.sum(), logits)
    assert (loss.device.type, loss.shape) == ("meta", (2, 3) if reduction == "none" else ())
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert (d_logits.device.type, d_logits.shape, d_logits.dtype) == ("meta", logits.shape, dtype)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_layers_without_memory_give_shapes_and_dtypes(reduction):
    x, w = (torch.empty(n, 4, device="meta", requires_grad=True) for n in (6, 5))
    loss = slt.linear_cross_entropy(x, w, torch.empty(6, dtype=torch.int64, device="meta"), reduction=reduction)
    assert loss.shape == ((6,) if reduction == "none" else ())
    assert [g.shape for g in torch.autograd.grad(loss.sum(), [x, w])] == [(6, 4), (5, 4)]


ROW_OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weights": {"weight": torch.tensor([0.5, 1, 2, 0, 3]), "sample_weight": torch.tensor([0.5, 0, 1, 2, 1, 3])},
    "all": {
        "ignore_index": 1,
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 4.0,
        "temperature": 0.8,
        "normalizer": 3.0,
        "class_mask": torch.tensor([True, True, True, True, False]),
    },
    "ignored": {"ignore_index": 1},
}


@pytest.mark.parametrize("option", ROW_OPTIONS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("memory", [1, "700B", None])
def test_a_layer_by_chunks_of_rows_equals_the_loss_of_its_logits(option, soft, memory, monkeypatch):
    monkeypatch.setattr(by_chunks, "MEMORY", "500B")  # three rows
    options = without(ROW_OPTIONS[option], *(["ignore_index"] if soft else []))
    x, w, b, target = layer_problem()
    target = (torch.rand(6, 5, dtype=x.dtype) * torch.tensor([1, 1, 1, 1, 0])) if soft else target.clamp(max=3)

    def results(loss):
        upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
        return loss.detach(), *torch.autograd.grad(loss, [x, w, b], upstream)

    got = results(slt.linear_cross_entropy(x, w, target, linear_bias=b, max_memory=memory, **options))
    want = results(slt.cross_entropy(torch.nn.functional.linear(x, w, b), target, **options))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_a_layer_of_no_rows_and_no_classes_has_no_loss():
    x, w, labels = torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert slt.linear_cross_entropy(x, w, labels, reduction="sum") == 0
    assert slt.linear_log_probs(x, w, labels).log_prob.shape == (0,)


@pytest.mark.parametrize("memory", [1, None])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_ignored_rows_of_a_layer_are_not_read(memory, reduction):
    x, w, b, labels = layer_problem()
    labels[1:3] = -100
    hurt = x.detach().clone()
    hurt[1:3] = torch.nan
    results = []
    for features in (x.detach(), hurt):
        leaves = features.requires_grad_(), w, b
        loss = slt.linear_cross_entropy(leaves[0], w, labels, linear_bias=b, max_memory=memory, reduction=reduction)
        results.append([loss.detach(), *torch.autograd.grad(loss.sum(), leaves)])
    assert_same(results[1], results[0])
    assert not results[1][1][1:3].any()


def test_a_label_that_is_no_class_makes_its_row_nan():
    logits, labels = problem()
    labels[2] = 5
    losses = slt.cross_entropy(logits, labels, reduction="none")
    assert losses.isnan().tolist() == [False, False, True, False, False, False]


def test_an_in_place_gradient_is_not_made_there():
    logits, labels = problem()
    before = logits.detach().clone()
    slt.cross_entropy(logits, labels, inplace_backward=True).backward()
    assert_same(logits.detach(), before)
    torch.testing.assert_close(logits.grad, torch.autograd.grad(slt.cross_entropy(logits, labels), logits)[0])


def test_frozen_inputs_of_a_layer_get_no_gradient():
    x, w, b, labels = layer_problem()
    slt.linear_cross_entropy(x.detach(), w, labels, linear_bias=b.detach()).backward()
    assert (x.grad, b.grad) == (None, None)
    assert w.grad.shape == (5, 4)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("needs_all_logits", [False, True])
def test_autocast_changes_nothing_of_the_loss_of_a_layer(reduction, needs_all_logits):
    *layer, labels = layer_problem(dtype=torch.float32)
    weight = torch.ones(6, requires_grad=needs_all_logits)

    def loss():
        x, w, b = layer
        return slt.linear_cross_entropy(x, w, labels, linear_bias=b, sample_weight=weight, reduction=reduction)

    want = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss()
    assert_same(got.detach(), want.detach())
    assert_same(*(torch.autograd.grad(of.sum(), layer) for of in (got, want)))


def test_chunks_of_a_layer_ignore_autocast_in_the_backward_pass_too():
    x, w, _, labels = layer_problem(dtype=torch.float32)
    loss = slt.linear_cross_entropy(x, w, labels, reduction="none").sum()
    want = torch.autograd.grad(loss, [x, w], retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(loss, [x, w])
    assert_same(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_gradient_from_above_is_not_read_on_another_device(dtype, monkeypatch):
    computed, found = [], by_chunks.losses_and_gradients
    monkeypatch.setattr(by_chunks, "losses_and_gradients", lambda *given: (computed.append(given[4]), found(*given))[1])
    x, w = (torch.empty(n, 4, dtype=dtype, device="meta", requires_grad=True) for n in (6, 5))
    labels, more = torch.empty(6, dtype=torch.int64, device="meta"), {"max_memory": None, "backward": "exact"}
    loss = head.linear_cross_entropy((x, w, None), labels, {"reduction": "mean"}, more)
    assert [g.shape for g in torch.autograd.grad(loss, [x, w])] == [(6, 4), (5, 4)]
    assert [*map(any, computed)] == ([False, True] if dtype is torch.float16 else [True])  # no gradient twice
