"""The functions in array operations under what frameworks do to functions: map, trace, compile, differentiate."""

import warnings

import array_api_compat.torch
import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from softmaxloss import array
from thorough import over_values
from torch_oracle import one_thread

forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
NAN, INF = float("nan"), float("inf")
R = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.7], dtype=torch.float64)
EXISTS = torch.tensor([True, True, True, True, False])
OPTIONS = {
    "none": {"reduction": "none"},
    "softcap": {"class_weight": R, "softcap": 5.0, "temperature": 0.7},
    "smoothing": {"class_weight": R, "label_smoothing": 0.4},
    "mask": {"class_mask": EXISTS, "z_loss": 0.1, "label_smoothing": 0.1},
}
TARGETS = {"labels": False, "soft": True}
over_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
over_targets = pytest.mark.parametrize("soft", TARGETS.values(), ids=TARGETS)


@pytest.fixture(autouse=True, scope="module")
def _threads():
    with one_thread():
        yield


def problem(batch=(4,), *, soft=False):
    """Return logits with ties, an ignored row, and targets."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(2 * rng.normal(size=(*batch, 5)))
    logits[..., 1, 2] = logits[..., 1, 3] = 4.0
    logits[..., 2, :4] = 0.0
    if not soft:
        labels = torch.tensor(rng.integers(0, 4, batch))
        labels[..., 0] = -100
        return logits, labels, {"ignore_index": -100}
    targets = torch.tensor(rng.dirichlet(np.ones(5), batch))
    targets[..., 4] = 0
    targets[..., 1, :3] = 0
    return logits, targets, {}


@over_options
@over_targets
@pytest.mark.parametrize("function", [array.losses, array.gradients])
def test_mapping_over_a_batch_is_a_loop(function, options, soft):
    logits, targets, more = problem((3, 4), soft=soft)
    mapped = torch.vmap(lambda z, t: function(z, t, **options, **more))(logits, targets)
    looped = [function(z, t, **options, **more) for z, t in zip(logits, targets, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(looped), rtol=1e-14, atol=1e-15)


@over_values(options=OPTIONS, soft=TARGETS)
def test_torch_compile_makes_one_graph_without_a_warning(options, soft):
    logits, targets, more = problem(soft=soft)
    options = {**options, **more, "xp": array_api_compat.torch}

    def function(z, t):
        return array.losses_and_gradients(z, t, **options)

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(logits, targets)
    torch.testing.assert_close(compiled, function(logits, targets), rtol=1e-14, atol=1e-15)


@over_options
@over_targets
def test_meta_and_fake_tensors_have_shapes_and_dtypes_alone(options, soft):
    logits, targets, more = problem(soft=soft)
    options = {**options, **more}
    expected = array.losses_and_gradients(logits.to(torch.bfloat16), targets, **options)
    on_meta = {name: v.to("meta") if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    meta = array.losses_and_gradients(logits.to("meta", torch.bfloat16), targets.to("meta"), **on_meta)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        z, t = mode.from_tensor(logits.to(torch.bfloat16)), mode.from_tensor(targets)
        fake = array.losses_and_gradients(z, t, **options)
    for results in (meta, fake):
        for got, right in zip(results, expected, strict=True):
            assert (got.shape, got.dtype) == (right.shape, right.dtype)
    assert meta[1].device.type == "meta"


@forward_mode
@over_options
@over_targets
def test_the_hessian_is_the_jacobian_of_the_gradient(options, soft):
    logits, targets, more = problem(soft=soft)
    options = {**options, **more, "reduction": "sum"}
    hessian = torch.func.hessian(lambda z: array.losses(z, targets, **options))(logits)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        of_gradient = jacobian(lambda z: array.gradients(z, targets, **options))(logits)
        torch.testing.assert_close(of_gradient, hessian, rtol=1e-12, atol=1e-14)
    assert hessian.abs().max() > 0.1


def assert_differentiable_twice(function, *arguments):
    leaves = [a.detach().clone().requires_grad_() for a in arguments]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@over_options
@over_targets
def test_finite_differences_in_the_logits_agree_at_ties_and_beside_minus_infinity(options, soft):
    logits, targets, more = problem(soft=soft)
    options = {**options, **more}
    smooths = options.get("label_smoothing")
    rest = logits[:, :4] if not smooths else logits  # smoothing wants a little of the class at -inf
    for function in (array.losses, array.gradients):

        def of(z, function=function):
            outside = torch.full((4, 5 - z.shape[1]), -INF, dtype=z.dtype)
            return function(torch.cat([z, outside], 1), targets, **options)

        assert_differentiable_twice(of, rest)


@over_values(reduction=["mean", "sum", "none"], smoothing=[0.0, 0.1])
def test_finite_differences_in_targets_and_weights_agree(reduction, smoothing):
    options = {"reduction": reduction, "label_smoothing": smoothing, "z_loss": 0.1}
    logits, q, _ = problem(soft=True)
    weight = torch.tensor([1.0, 0.5, 2.0, 0.7], dtype=torch.float64)
    q = 0.1 + q  # finite differences must not make it negative

    def of_rows(z, q, r, w):
        return array.losses(z, q, class_weight=r, sample_weight=w, **options)

    def of_labels(z, r, w):
        return array.losses(z, torch.tensor([0, 1, 2, 3]), class_weight=r, sample_weight=w, **options)

    assert_differentiable_twice(of_rows, logits, q, R, weight)
    assert_differentiable_twice(of_labels, logits, R, weight)


@pytest.mark.parametrize("function", [array.softmax, array.log_softmax, array.logsumexp])
def test_finite_differences_of_the_softmax_functions_agree_at_ties(function):
    assert_differentiable_twice(function, problem()[0])
    assert_differentiable_twice(lambda z: function(z, axis=0, temperature=0.7), problem()[0])


def test_derivatives_stay_finite_where_exponentials_overflow():
    logits = torch.tensor([[0.0, 2e4, -2e4], [2e4, 0.0, 0.0], [-3e38, 3e38, 0.0], [3e38, -3e38, -INF]]).requires_grad_()
    labels = torch.tensor([0, 0, 0, 0])
    for value in (array.losses(logits, labels), array.gradients(logits, labels)):
        (first,) = torch.autograd.grad((value * torch.ones(3)).sum(), logits, create_graph=True)
        (second,) = torch.autograd.grad((first * torch.arange(3.0)).sum(), logits)
        assert first.isfinite().all()
        assert second.isfinite().all()
