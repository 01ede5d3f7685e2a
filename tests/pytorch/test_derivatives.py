"""Every derivative that PyTorch can ask for: of first and second order, in both modes, batched, by every argument."""

from functools import partial

import numpy as np
import pytest
import torch

import softmaxloss.torch as slt
from tensors import layer_problem, problem
from thorough import parametrize, thorough

# PyTorch warns of itself when it first computes forward derivatives
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

gradcheck = partial(torch.autograd.gradcheck, rtol=1e-5, atol=1e-7)
gradgradcheck = partial(torch.autograd.gradgradcheck, rtol=1e-5, atol=1e-7)

MASK = torch.tensor([True, True, False, True, True])
OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weight": {"weight": torch.tensor([0.5, 1, 2, 0, 3], dtype=torch.float64)},
    "sample_weight": {"sample_weight": torch.tensor([0.5, 0, 2, 1], dtype=torch.float64)},
    "class_mask": {"class_mask": MASK},
    "label_smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 0.3},
    "softcap": {"softcap": 2.0},
    "temperature": {"temperature": 0.7},
    "normalizer": {"normalizer": 2.5},
    "ignore_index": {"ignore_index": 1},
}
OPTIONS["all"] = {name: value for options in OPTIONS.values() for name, value in options.items() if name != "reduction"}
ALL_TOGETHER = {"mean", "none", "all"}  # every option is among them
TARGETS = ("labels", "one-hot", "soft")


def arguments(kind, option, shape=(4, 5)):
    """Return logits (N, C) or (N, C, d), targets and options in float64."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=shape), requires_grad=True)
    labels = torch.tensor(rng.choice(np.flatnonzero(MASK), (shape[0], *shape[2:])))
    options = dict(OPTIONS[option])
    if kind == "labels":
        return logits, labels, options
    options.pop("ignore_index", None)
    rows = torch.movedim(torch.nn.functional.one_hot(labels, 5), -1, 1)
    if kind == "one-hot":
        return logits, rows.bool(), options
    soft = torch.tensor(rng.random(shape)) * MASK.double().reshape(-1, *[1] * (len(shape) - 2))
    return logits, soft, options


ROWS = [(kind, option) for kind in TARGETS for option in OPTIONS if option != "ignore_index" or kind == "labels"]
over_options = parametrize(
    ["kind", "option"],
    ROWS,
    [", ".join(row) for row in ROWS],
    [option in ALL_TOGETHER and kind != "one-hot" for kind, option in ROWS],
)


@over_options
def test_derivatives_by_the_logits_are_slopes(kind, option):
    logits, target, options = arguments(kind, option)
    loss = partial(slt.cross_entropy, target=target, **options)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(loss, [logits], **modes)
    assert gradgradcheck(loss, [logits], check_batched_grad=True)


@over_options
def test_derivatives_by_targets_and_weights_are_slopes(kind, option):
    logits, target, options = arguments(kind, option)
    leaves = {"input": logits, "target": target} | {
        name: options.pop(name, None) for name in ("weight", "sample_weight")
    }
    fixed = {name: value for name, value in leaves.items() if value is None or not value.is_floating_point()}
    free = {name: value.detach().clone().requires_grad_() for name, value in leaves.items() if name not in fixed}

    def loss(*tensors):
        given = dict(zip(free, tensors, strict=True))
        if "target" in given and "class_mask" in options:  # classes that do not exist have no share
            given["target"] = given["target"] * MASK
        return slt.cross_entropy(**fixed, **given, **options)

    if "sample_weight" in free:  # of a weight of 0 nothing is read, so there is no slope
        free["sample_weight"] = (free["sample_weight"].detach() + 0.1).requires_grad_()
    assert gradcheck(loss, list(free.values()), check_forward_ad=True)
    assert gradgradcheck(loss, list(free.values()))


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("option", ["mean", "none", "all"])
def test_derivatives_of_images_are_slopes(kind, option):
    logits, target, options = arguments(kind, option, (1, 5, 2))
    options.pop("sample_weight", None)
    loss = partial(slt.cross_entropy, target=target, **options)
    assert gradcheck(loss, [logits], check_forward_ad=True)
    assert gradgradcheck(loss, [logits])


@pytest.mark.parametrize("function", [slt.softmax, slt.log_softmax])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_derivatives_of_softmax_are_slopes(function, dim):
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)), requires_grad=True)
    call = partial(function, dim=dim, temperature=0.7)
    assert gradcheck(call, [x], check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, [x])


@pytest.mark.parametrize("option", [option if option in ALL_TOGETHER else thorough(option) for option in OPTIONS])
def test_derivatives_of_a_linear_layer_are_slopes(option):
    *layer, labels = layer_problem(4, 2)
    labels = torch.where(MASK[labels], labels, 0)
    loss = partial(
        lambda x, w, b, **options: slt.linear_cross_entropy(x, w, labels, linear_bias=b, **options), **OPTIONS[option]
    )
    assert gradcheck(loss, layer, check_forward_ad=True, check_batched_grad=OPTIONS[option].get("reduction") != "none")
    assert gradgradcheck(loss, layer)


def plain(logits, labels, **options):
    """Return our loss composed of PyTorch's functions."""
    return torch.nn.functional.cross_entropy(logits, labels, **options)


@pytest.mark.parametrize("transform", ["grad", "hessian", "jacrev", "jacfwd"])
def test_transforms_of_functions_equal_those_of_pytorchs_loss(transform):
    logits, labels = problem()
    got, want = (getattr(torch.func, transform)(loss)(logits.detach(), labels) for loss in (slt.cross_entropy, plain))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
def test_vmap_maps_the_loss_and_its_gradient_over_a_batch(soft):
    problems = [problem(seed=k, soft=soft) for k in range(3)]
    logits, targets = (torch.stack(parts).detach() for parts in zip(*problems, strict=True))
    for transform in (lambda loss: loss, torch.func.grad, torch.func.hessian):
        mapped = torch.func.vmap(transform(partial(slt.cross_entropy, reduction="sum")))(logits, targets)
        want = torch.stack(
            [transform(partial(plain, reduction="sum"))(x, t) for x, t in zip(logits, targets, strict=True)]
        )
        torch.testing.assert_close(mapped, want, rtol=1e-12, atol=1e-14)


def test_vmap_maps_the_rows_of_a_batch_with_per_sample_gradients():
    logits, labels = problem()
    per_row = torch.func.vmap(torch.func.grad(slt.cross_entropy))(logits.detach(), labels)
    (want,) = torch.autograd.grad(plain(logits, labels, reduction="sum"), logits)
    torch.testing.assert_close(per_row, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("linear", [False, True])
def test_a_gradient_penalty_can_be_trained(dtype, linear):
    def penalty(of_layer):
        x, w, b, labels = layer_problem(dtype=dtype)
        (d_x,) = torch.autograd.grad(of_layer(x, w, b, labels), x, create_graph=True)
        return torch.autograd.grad(d_x.square().sum(), (x, w, b))

    def ours(x, w, b, labels):
        if linear:
            return slt.linear_cross_entropy(x, w, labels, linear_bias=b)
        return slt.cross_entropy(torch.nn.functional.linear(x, w, b), labels)

    got, want = penalty(ours), penalty(lambda x, w, b, labels: plain(torch.nn.functional.linear(x, w, b), labels))
    torch.testing.assert_close(
        got, want, rtol=1e-4 if dtype is torch.float32 else 1e-11, atol=1e-6 if dtype is torch.float32 else 1e-14
    )


def test_batched_gradients_equal_those_one_by_one():
    logits, labels = problem()
    loss = slt.cross_entropy(logits, labels, reduction="none")
    (rows,) = torch.autograd.grad(
        loss, logits, torch.eye(6, dtype=loss.dtype), retain_graph=True, is_grads_batched=True
    )
    one_by_one = [
        torch.autograd.grad(loss, logits, unit, retain_graph=True)[0] for unit in torch.eye(6, dtype=loss.dtype)
    ]
    torch.testing.assert_close(rows, torch.stack(one_by_one), rtol=0, atol=0)


def test_a_vector_product_with_the_hessian_equals_that_of_pytorch():
    logits, labels = problem()
    vector = torch.ones_like(logits).cumsum(1)
    got, want = (
        torch.autograd.functional.hvp(lambda x, loss=loss: loss(x, labels), logits, vector)[1]
        for loss in (slt.cross_entropy, plain)
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
