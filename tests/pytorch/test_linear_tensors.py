"""The loss of a linear layer without its logits: the function on arrays, and PyTorch's own layer, are the oracles."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, linear

import softmaxloss as sl
import softmaxloss.torch as slt
from softmaxloss.torch import head
from tensors import array, assert_same, layer_problem

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
over_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def with_gradients(loss, leaves):
    upstream = torch.linspace(-0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, upstream)], upstream


@over_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("n", [0, 1, 6, 300])
def test_losses_and_gradients_are_those_of_arrays(dtype, reduction, n):
    x, w, b, labels = layer_problem(n, 16, 40, dtype=dtype)
    loss = slt.linear_cross_entropy(x, w, labels, linear_bias=b, reduction=reduction, label_smoothing=0.1)
    (loss, *gradients), upstream = with_gradients(loss, [x, w, b])
    options = {"reduction": reduction, "label_smoothing": 0.1, "upstream": array(upstream)}
    want, right = sl.linear_cross_entropy_and_grad(*map(array, (x, w, labels, b)), **options)
    precision = 1e-13 if dtype is torch.float64 else 2e-6
    np.testing.assert_allclose(array(loss), want, rtol=precision)
    for got, want in zip(gradients, right, strict=True):
        assert got.dtype == dtype
        wide = want.astype(np.float64)
        rounding = max(precision, 2 * torch.finfo(dtype).eps)
        np.testing.assert_allclose(got.double(), wide, rtol=0, atol=rounding * np.abs(wide).max(initial=0.0))


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 2), (2, 0)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_inputs_have_any_number_of_batch_dimensions(shape, reduction):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 4, dtype=torch.float64, generator=random).requires_grad_()
    _, w, b, _ = layer_problem()
    labels = torch.randint(5, shape, generator=random)
    got, _ = with_gradients(slt.linear_cross_entropy(x, w, labels, linear_bias=b, reduction=reduction), [x, w, b])
    logits = linear(x, w, b).reshape(-1, 5)
    want = cross_entropy(logits, labels.reshape(-1), reduction="none").reshape(shape)
    want, _ = with_gradients(want if reduction == "none" else want.sum() / max(1, want.numel()), [x, w, b])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("more", [(2,), (2, 3)])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_of_several_dimensions_are_those_of_pytorch(more, soft):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=random).requires_grad_()
    w = torch.randn(5, *more, 3, dtype=torch.float64, generator=random).requires_grad_()
    b = torch.randn(5, *more, dtype=torch.float64, generator=random).requires_grad_()
    target = torch.rand(4, 5, *more).double() if soft else torch.randint(5, (4, *more), generator=random)
    reduction = "sum" if soft else "mean"
    got, want = (
        with_gradients(loss(x, w, target, linear_bias=b, reduction=reduction), [x, w, b])[0]
        for loss in (slt.linear_cross_entropy, torch.nn.functional.linear_cross_entropy)
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("frozen", range(8))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_the_gradients_that_are_asked_for_are_made(frozen, reduction, monkeypatch):
    made = []

    def watched(*arguments, **options):
        made.append(options["wrt"])
        return of_arrays(*arguments, **options)

    of_arrays = head.head.linear_cross_entropy_and_grad
    monkeypatch.setattr(head.head, "linear_cross_entropy_and_grad", watched)
    x, w, b, labels = layer_problem()
    leaves = [t.detach().requires_grad_(not frozen >> k & 1) for k, t in enumerate((x, w, b))]
    loss = slt.linear_cross_entropy(*leaves[:2], labels, linear_bias=leaves[2], reduction=reduction)
    names = [name for name, leaf in zip(("features", "weight", "bias"), leaves, strict=True) if leaf.requires_grad]
    assert loss.requires_grad == bool(names)
    if not names:
        assert not made
        return
    loss.sum().backward()
    assert made == [names]
    assert [leaf.grad is not None for leaf in leaves] == [leaf.requires_grad for leaf in leaves]


@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_the_sampled_backward_pass_is_that_of_arrays(threshold):
    x, w, b, labels = layer_problem(64, 8, 500, dtype=torch.float32)
    how = sl.Sampled(threshold, seed=5)
    got, _ = with_gradients(slt.linear_cross_entropy(x, w, labels, linear_bias=b, backward=how), [x, w, b])
    _, right = sl.linear_cross_entropy_and_grad(*map(array, (x, w, labels, b)), backward=how, upstream=-0.5)
    for gradient, want in zip(got[1:], right, strict=True):
        np.testing.assert_allclose(array(gradient), want, rtol=0, atol=2e-6 * np.abs(want).max())
    exact, _ = with_gradients(slt.linear_cross_entropy(x, w, labels, linear_bias=b), [x, w, b])
    assert_same(got[0], exact[0])
    assert not torch.equal(got[2], exact[2])


def test_the_mean_of_sampled_gradients_is_the_exact_one():
    x, w, _, labels = layer_problem(32, 4, 200, dtype=torch.float32)
    exact = torch.autograd.grad(slt.linear_cross_entropy(x, w, labels), w)[0]
    sampled = torch.stack(
        [
            torch.autograd.grad(slt.linear_cross_entropy(x, w, labels, backward=sl.Sampled(0.3, seed=seed)), w)[0]
            for seed in range(400)
        ]
    )
    error = sampled.mean(0) - exact
    assert error.norm() < 3 * (sampled - exact).norm(dim=(1, 2)).mean() / 20


WITHOUT_KERNELS = {
    "vmap": lambda x, w, labels: torch.func.vmap(slt.linear_cross_entropy, (0, None, 0))(x[None], w, labels[None])[0],
    "weights that require gradients": lambda x, w, labels: slt.linear_cross_entropy(
        x, w, labels, sample_weight=torch.ones(64, requires_grad=True)
    ),
}


@pytest.mark.parametrize("way", WITHOUT_KERNELS.values(), ids=WITHOUT_KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_multiplied_in_float32_also_where_no_kernels_run(way, dtype):
    x, w, _, labels = layer_problem(64, 256, 100, dtype=dtype)
    (want, *gradients), _ = with_gradients(slt.linear_cross_entropy(x, w, labels), [x, w])
    (got, *same_gradients), _ = with_gradients(way(x, w, labels), [x, w])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    torch.testing.assert_close(same_gradients, gradients, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_the_dtype_of_the_loss_depends_on_the_input_alone():
    x, w, _, labels = layer_problem(64, 8, 100, dtype=torch.float32)
    losses = [way(x, w.double(), labels) for way in (slt.linear_cross_entropy, *WITHOUT_KERNELS.values())]
    assert [loss.dtype for loss in losses] == [torch.float32] * 3


@pytest.mark.parametrize("memory", ["100KiB", 10**6, None])
def test_memory_limits_change_nothing_but_rounding(memory):
    x, w, b, labels = layer_problem(500, 16, 300)
    got, _ = with_gradients(slt.linear_cross_entropy(x, w, labels, linear_bias=b, max_memory=memory), [x, w, b])
    want, _ = with_gradients(cross_entropy(linear(x, w, b), labels), [x, w, b])
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)


@over_dtypes
def test_backward_twice_and_with_another_gradient_gives_it_again(dtype):
    x, w, b, labels = layer_problem(dtype=dtype)
    loss = slt.linear_cross_entropy(x, w, labels, linear_bias=b)
    first = torch.autograd.grad(loss, [x, w, b], retain_graph=True)
    second = torch.autograd.grad(loss, [x, w, b], torch.tensor(2.0, dtype=loss.dtype), retain_graph=True)
    third = torch.autograd.grad(loss, [x, w, b])
    assert_same(third, first)
    torch.testing.assert_close(second, tuple(2 * g for g in first), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_large_loss_scale_keeps_small_half_gradients():
    x, w, _, labels = layer_problem(64, 8, 300, dtype=torch.float16)
    x = (x.detach() * 1e-4).requires_grad_()
    loss = slt.linear_cross_entropy(x, w, labels)
    scaled = torch.autograd.grad(loss * 2.0**14, [x, w])
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    right = torch.autograd.grad(cross_entropy(linear(*wide), labels) * 2.0**14, wide)
    for got, want in zip(scaled, right, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-3, atol=2e-3 * want.abs().mean().item())


STRIDES = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "columns": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "rows": lambda t: t.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
def test_any_strides_are_taken(change):
    x, w, b, labels = layer_problem()
    want, _ = with_gradients(cross_entropy(linear(x, w, b), labels), [x, w, b])
    leaves = [change(t.detach()).requires_grad_() for t in (x, w)]
    assert not any(leaf.is_contiguous() for leaf in leaves)
    got, _ = with_gradients(slt.linear_cross_entropy(*leaves, labels, linear_bias=b), [*leaves, b])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_soft_targets_and_row_weights_get_gradients():
    x, w, b, _ = layer_problem()
    target = torch.rand(6, 5, dtype=torch.float64).requires_grad_()
    weight = torch.rand(6, dtype=torch.float64).requires_grad_()
    leaves = [x, w, b, target, weight]
    loss = slt.linear_cross_entropy(x, w, target, linear_bias=b, sample_weight=weight, reduction="none")
    got, _ = with_gradients(loss, leaves)
    want, _ = with_gradients(weight * cross_entropy(linear(x, w, b), target, reduction="none"), leaves)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
