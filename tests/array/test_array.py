"""The mathematics in array operations: what the reference says, on NumPy arrays and on tensors of any device."""

import array_api_strict
import numpy as np
import pytest
import torch

import exact
from agree import assert_close, assert_same_bits
from cases import CASES, over, over_cases
from softmaxloss import array, reference
from torch_oracle import one_thread

over_float64 = over([case for case in CASES if case.logits.dtype == np.float64])
over_logits = over([case for case in CASES if ", index, none" in case.name])
SOFTMAX_FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True, scope="module")
def _threads():
    with one_thread():
        yield


def tensor(values):
    """Return a tensor of a NumPy array, which torch takes for bfloat16 only as float32."""
    values = np.asarray(values)
    if values.dtype.name == "bfloat16":
        return torch.tensor(values.astype(np.float32)).to(torch.bfloat16)
    return torch.tensor(values)


def made(options, make):
    return {name: make(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def float64(values):
    values = values.to(torch.float64).detach().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, np.float64)


def assert_equals_reference(case, make):
    options = made(case.options, make)
    loss, d_logits = array.losses_and_gradients(make(case.logits), make(case.targets), **options)
    right_loss, right = reference.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert loss.dtype == make(np.zeros(1, np.float32 if case.is_half else case.logits.dtype)).dtype
    assert d_logits.dtype == make(case.logits).dtype
    assert_close(float64(loss), right_loss, case.precision)
    assert_close(float64(d_logits), right, case.rounding)


@over_cases
def test_tensors_get_the_loss_and_gradient_of_the_reference(case):
    assert_equals_reference(case, tensor)


@over_float64
def test_numpy_arrays_get_the_loss_and_gradient_of_the_reference(case):
    assert_equals_reference(case, np.asarray)


@over_float64
def test_operations_of_the_standard_suffice(case):
    options = made(case.options, array_api_strict.asarray)
    logits, targets = array_api_strict.asarray(case.logits), array_api_strict.asarray(case.targets)
    strict = array.losses_and_gradients(logits, targets, **options)
    right = array.losses_and_gradients(case.logits, case.targets, **case.options)
    for got, want in zip(strict, right, strict=True):
        assert_same_bits(np.asarray(got), want)


@over_float64
def test_derivatives_of_the_loss_and_of_the_gradient_are_right(case):
    options, targets = made(case.options, tensor), tensor(case.targets)
    x = tensor(case.logits).requires_grad_()
    vector = np.random.default_rng(0).normal(size=case.logits.shape)
    loss_options = {name: value for name, value in options.items() if name != "upstream"}
    (of_loss,) = torch.autograd.grad(array.losses(x, targets, **loss_options).sum(), x)
    assert_close(of_loss, reference.cross_entropy_and_grad(case.logits, case.targets, **case.loss_options)[1], 1e-12)
    d_logits = array.gradients(x, targets, **loss_options)
    (product,) = torch.autograd.grad((d_logits * tensor(vector)).sum(), x)
    assert_close(product, reference.hvp(case.logits, case.targets, vector, **case.loss_options), 1e-12)


@over_logits
@pytest.mark.parametrize("function", SOFTMAX_FUNCTIONS)
def test_softmax_functions_equal_the_reference(case, function):
    got = getattr(array, function)(tensor(case.logits), axis=case.axis, temperature=0.7)
    right = getattr(reference, function)(case.logits.astype(np.float64), axis=case.axis, temperature=0.7)
    assert got.dtype == tensor(case.logits).dtype
    assert_close(float64(got), right, case.precision)


# Accuracy


def test_tiny_losses_keep_their_digits_in_single_precision():
    logits = torch.tensor([[0.0, -40.0], [0.1, 40.3], [-85.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    loss, d_logits = array.losses_and_gradients(logits, labels, reduction="none")
    assert loss.tolist() == pytest.approx([4.248354255e-18, 3.478260938e-18, 1.216099299e-37], rel=2e-7)
    assert_same_bits(d_logits[:, 1], loss * torch.tensor([1.0, -1.0, -1.0]))
    assert array.log_softmax(logits)[0, 0] == -loss[0]
    assert array.logsumexp(logits)[0] == loss[0]


def exact_part(numbers, j):
    return exact.Exact(numbers.high[j], numbers.low[j])


OF_ANY_SCALE = {"class_weight": np.array([1e-4, 1e4, 1.0, 1.0, 10.0]), "label_smoothing": 0.1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"temperature": 3.3}, {"z_loss": 0.1}, OF_ANY_SCALE])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_losses_and_the_gradient_at_the_label_are_right_to_4_ulp(dtype, options, offset):
    rng, temperature = np.random.default_rng(0), options.get("temperature", 1.0)
    spread = temperature * rng.uniform(0.1, 15, (40, 1))
    logits = (offset + spread * rng.normal(size=(40, 5))).astype(dtype)
    labels = np.where(np.arange(40) % 2, logits.argmax(-1), rng.integers(0, 5, 40))
    x = tensor(logits)
    loss, d_logits = array.losses_and_gradients(x, tensor(labels), reduction="none", **made(options, tensor))
    lse, log_p = (f(x, temperature=temperature).numpy() for f in (array.logsumexp, array.log_softmax))
    for i, t in enumerate(labels):
        right = exact.row(logits[i], t, **options)
        assert exact.ulps(loss[i].numpy(), right.loss) <= 4
        assert exact.ulps(d_logits[i, t].numpy(), exact_part(right.d_logits, t), scale=right.d_scale[t]) <= 4
        assert exact.ulps(lse[i], right.logsumexp) <= 4
        assert exact.ulps(log_p[i], right.log_softmax) <= 4


def test_the_slope_of_the_soft_cap_keeps_its_digits():
    logits, labels = np.array([[12.0, 0.0]]), np.array([1])
    right = reference.cross_entropy_and_grad(logits, labels, softcap=1.0)[1]
    np.testing.assert_allclose(array.gradients(logits, labels, softcap=1.0), right, rtol=1e-14)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"label_smoothing": 0.1}])
def test_an_offset_changes_nothing(options):
    logits, labels = torch.arange(-6.0, 6.0).reshape(3, 4) * 2, torch.tensor([3, 0, 2])
    here, there = (array.losses_and_gradients(z, labels, **options) for z in (logits, logits + 2.0**20))
    assert_same_bits(there[0], here[0])
    assert_same_bits(there[1], here[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_precision_and_rounded_once(dtype):
    logits, labels = torch.randn(5, 7, generator=torch.manual_seed(0)).to(dtype), torch.arange(5)
    loss, d_logits = array.losses_and_gradients(logits, labels)
    single = array.losses_and_gradients(logits.float(), labels)
    assert_same_bits(loss, single[0])
    assert torch.equal(d_logits, single[1].to(dtype))


# What is never read, and what is not finite


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_takes_no_part_leaks_neither_into_values_nor_into_derivatives(value):
    clean = torch.randn(4, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    dead = torch.zeros(4, 5, dtype=torch.bool)
    dead[:2], dead[:, 0], dead[:, 4] = True, True, True
    q = torch.rand(4, 5, dtype=torch.float64) * ~dead
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    ignored = {"ignore_index": -100, "sample_weight": weight}
    no_weight = {"sample_weight": weight * torch.tensor([0, 1, 1, 1])}
    q_dirty = q.clone()
    q_dirty[:2] = value
    for targets, dirty_targets, options in [
        (torch.tensor([-100, 255, 2, 3]), torch.tensor([-100, -7, 2, 3]), ignored),
        (q, q_dirty, no_weight),
    ]:
        options |= {"class_mask": ~dead[3], "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 9.0}
        results = []
        for x, t in ((clean, targets), (clean.masked_fill(dead, value), dirty_targets)):
            x.requires_grad_()
            loss, d_logits = array.losses_and_gradients(x, t, **options)
            (first,) = torch.autograd.grad(loss, x, retain_graph=True)
            (second,) = torch.autograd.grad((d_logits * clean.detach().cos()).sum(), x)
            assert loss.isfinite()
            assert not any(d[dead].any() for d in (d_logits, first, second))
            results.append((loss, d_logits, first, second))
        for right, got in zip(*results, strict=True):
            assert_same_bits(got.detach(), right.detach())


@pytest.mark.parametrize("bad", [[NAN, 0, 0], [0, NAN, 0], [INF, 0, 0], [0, INF, 0], [INF, INF, -INF], [-INF] * 3])
@pytest.mark.parametrize("soft", [False, True])
def test_a_row_without_a_softmax_is_nan_and_alone(bad, soft):
    logits, targets = torch.tensor([[1.0, 2.0, 3.0], bad, [0.0, 0.0, -INF]]), torch.tensor([0, 0, 1])
    targets = torch.eye(3)[targets] * 0.5 if soft else targets
    loss, d_logits = array.losses_and_gradients(logits, targets, reduction="none")
    right = reference.cross_entropy_and_grad(logits.numpy(), targets.numpy(), reduction="none")
    assert loss[1].isnan()
    assert d_logits[1].isnan().all()
    assert_close(loss, right[0], 1e-6)
    assert_close(d_logits, right[1], 1e-6)
    exists = torch.tensor([True, True, False])
    assert not array.gradients(logits, targets, class_mask=exists)[:, 2].any()
    for function in SOFTMAX_FUNCTIONS:
        assert_close(getattr(array, function)(logits), getattr(reference, function)(logits.numpy()), 1e-6)


def test_a_target_at_minus_infinity_costs_infinity_and_has_a_finite_gradient():
    logits = torch.tensor([[-INF, 2.0, 1.0]], requires_grad=True)
    loss, d_logits = array.losses_and_gradients(logits, torch.tensor([0]))
    assert loss == INF
    assert d_logits.tolist() == [pytest.approx([-1, 0.7310586, 0.2689414])]
    assert torch.autograd.grad(loss, logits)[0].tolist() == d_logits.tolist()
    assert array.losses(logits, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(0.3132617)
    assert array.losses(logits, torch.tensor([[0.5, 0.5, 0.0]])) == INF


def test_a_loss_beyond_the_largest_number_is_infinite_and_its_gradient_finite():
    loss, d_logits = array.losses_and_gradients(torch.tensor([0.0, 1e10]), torch.tensor(0), temperature=1e-30)
    assert loss == INF
    assert d_logits.tolist() == pytest.approx([-1e30, 1e30])


@pytest.mark.parametrize("label", [-1, 3, 255, -100])
def test_a_label_that_is_no_class_makes_its_row_nan(label):
    logits, labels = torch.zeros(2, 3), torch.tensor([0, label])
    loss, d_logits = array.losses_and_gradients(logits, labels, reduction="none")
    assert loss.isnan().tolist() == [False, True]
    assert d_logits.isnan().all(-1).tolist() == [False, True]
    assert array.losses(logits, labels).isnan()


def test_the_mean_over_nothing_is_0():
    logits, labels = torch.full((2, 3), NAN), torch.tensor([-100, -100])
    zero = torch.tensor(0.0)
    for options in ({"ignore_index": -100}, {"sample_weight": zero.expand(2)}, {"normalizer": zero}):
        loss, d_logits = array.losses_and_gradients(logits, labels, **options)
        assert loss == 0
        assert not d_logits.any()
    weight = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    loss = array.losses(torch.zeros(2, 3), torch.tensor([0, 1]), class_weight=weight)
    assert loss == 0
    assert not torch.autograd.grad(loss, weight)[0].any()


def test_divisor_and_upstream_may_be_tensors():
    logits, labels = torch.randn(4, 3, generator=torch.manual_seed(0)), torch.tensor([0, 2, 1, 1])
    numbers = array.losses_and_gradients(logits, labels, normalizer=7.5, upstream=-0.3)
    tensors = array.losses_and_gradients(logits, labels, normalizer=torch.tensor(7.5), upstream=torch.tensor(-0.3))
    for got, right in zip(tensors, numbers, strict=True):
        assert_same_bits(got, right)
    arrives = torch.tensor([1.0, NAN, 2.0, 0.0])
    d_logits = array.gradients(logits, labels, ignore_index=2, upstream=arrives, reduction="none")
    assert_same_bits(d_logits[2], 2 * array.gradients(logits[2], labels[2]))
    assert not d_logits[[1, 3]].any()


@pytest.mark.parametrize(
    ("dtype", "label", "ignore_index", "is_ignored"),
    [
        ("uint8", 44, 300, False),
        ("uint8", 156, -100, False),
        ("int8", -100, -100, True),
        ("uint64", 2**64 - 1, 2**64 - 1, True),
        ("uint64", 2**64 - 1, -1, False),
        ("int64", 0, 2**64, False),
    ],
)
@pytest.mark.parametrize("make", [np.asarray, array_api_strict.asarray, tensor])
def test_only_the_ignored_label_itself_is_ignored(make, dtype, label, ignore_index, is_ignored):
    logits, labels = np.zeros((2, 200)), np.array([label, 1], dtype)
    losses = array.losses(make(logits), make(labels), ignore_index=ignore_index, reduction="none")
    right = 0.0 if is_ignored else np.log(200) if label < 200 else NAN
    np.testing.assert_allclose(np.asarray(losses), [right, np.log(200)])
