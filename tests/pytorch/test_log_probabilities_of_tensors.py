"""Log-probabilities and entropies of tensors: the functions on arrays and PyTorch's own operations are the oracles."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import linear

import softmaxloss as sl
import softmaxloss.torch as slt
from softmaxloss.torch import log_probabilities
from tensors import array, assert_same, layer_problem

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPTIONS = {
    "plain": {},
    "ignored": {"ignore_index": 2},
    "masked": {"class_mask": torch.tensor([True, False, True, True, True])},
    "capped": {"softcap": 2.0, "temperature": 0.7},
}
over_options = pytest.mark.parametrize("option", OPTIONS)


def problem(dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(6, 5, dtype=torch.float64, generator=random)).to(dtype)
    return logits.requires_grad_(), torch.tensor([0, 2, 3, 4, 2, 0])


def by_pytorch(logits, target, *, ignore_index=-100, class_mask=None, softcap=None, temperature=1.0):
    z = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    z = z / temperature
    z = z if class_mask is None else z.masked_fill(~class_mask, -1e300)
    log_p = torch.log_softmax(z, -1)
    live = target != ignore_index
    log_prob = log_p.gather(-1, torch.where(live, target, 0)[..., None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.where(live, log_prob, 0), torch.where(live, entropy, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@over_options
def test_numbers_and_gradients_are_those_of_arrays(dtype, option):
    logits, target = problem(dtype)
    options = OPTIONS[option]
    found = slt.log_probs(logits, target, **options)
    d_rows = [torch.linspace(-1, 1, 6, dtype=of.dtype) for of in found]
    torch.autograd.backward(found, d_rows)
    d_log_prob, d_entropy = map(array, d_rows)
    arrays = {name: array(value) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    right, d_right = sl.log_probs_and_grad(
        array(logits), array(target), d_log_prob=d_log_prob, d_entropy=d_entropy, **arrays
    )
    assert_same([of.detach() for of in found], [torch.as_tensor(of) for of in right])
    assert array(logits.grad).tobytes() == d_right.tobytes()


@over_options
@pytest.mark.parametrize("way", ["kernels", "operations"])
def test_both_derivatives_are_those_of_pytorch(option, way, monkeypatch):
    if way == "operations":
        monkeypatch.setattr(log_probabilities, "is_plain", lambda *_: False)
    logits, target = problem()
    for function in (slt.log_probs, by_pytorch):
        assert gradcheck(lambda z: tuple(function(z, target, **OPTIONS[option])), [logits])  # noqa: B023
    assert gradgradcheck(lambda z: tuple(slt.log_probs(z, target, **OPTIONS[option])), [logits])
    found, right = (list(function(logits, target, **OPTIONS[option])) for function in (slt.log_probs, by_pytorch))
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)


def test_a_layer_has_the_numbers_and_derivatives_of_its_logits():
    x, w, b, _ = layer_problem(6, 4, 5)
    target = problem()[1]

    def of_layer(*layer):
        return tuple(slt.linear_log_probs(layer[0], layer[1], target, linear_bias=layer[2], temperature=0.7))

    assert gradcheck(of_layer, [x, w, b])
    assert gradgradcheck(of_layer, [x, w, b])
    right = slt.log_probs(linear(x, w, b), target, temperature=0.7)
    torch.testing.assert_close(list(of_layer(x, w, b)), list(right), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("frozen", range(7))
def test_only_derivatives_that_are_asked_for_are_made(frozen):
    x, w, b, target = layer_problem(6, 4, 5)
    layer = [of.requires_grad_(not frozen >> k & 1) for k, of in enumerate((x, w, b))]
    log_prob, entropy = slt.linear_log_probs(x, w, target, linear_bias=b)
    (log_prob + entropy).sum().backward()
    right = torch.autograd.grad(
        sum(of.sum() for of in by_pytorch(linear(x, w, b), target)), [of for of in layer if of.requires_grad]
    )
    torch.testing.assert_close([of.grad for of in layer if of.requires_grad], list(right), rtol=1e-12, atol=1e-14)
    assert all(of.grad is None for of in layer if not of.requires_grad)


def test_chunks_of_another_device_give_the_same_and_hold_no_logits():
    x, w, b, _ = layer_problem(6, 4, 5)
    target, options = problem()[1].reshape(2, 3), {"temperature": 0.7, "ignore_index": 2}
    found = log_probabilities._by_chunks((x.reshape(2, 3, 4), w, b), target, options, 2 * 5 * 32)  # of two rows
    right = slt.linear_log_probs(x.reshape(2, 3, 4), w, target, linear_bias=b, **options)
    derivatives = [torch.autograd.grad(of.log_prob.sum() + 2 * of.entropy.sum(), [x, w, b]) for of in (found, right)]
    torch.testing.assert_close([list(found), list(derivatives[0])], [list(right), list(derivatives[1])])


def test_one_row_of_a_layer_needs_no_batch_dimension():
    x, w, b, _ = layer_problem(6, 4, 5)
    row, target = x.detach()[0], torch.tensor(3)
    found = log_probabilities._by_chunks((row, w, b), target, {}, None)
    right = slt.linear_log_probs(row, w, target, linear_bias=b)
    assert (found.log_prob.shape, found.entropy.shape) == ((), ())
    torch.testing.assert_close(list(found), list(right))


@pytest.mark.parametrize("way", ["chunks", "all logits"])
def test_autocast_changes_nothing_of_a_layer(way, monkeypatch):
    monkeypatch.setattr(log_probabilities, "is_plain", lambda *_: False)
    *layer, _ = layer_problem(6, 4, 5, dtype=torch.float32)
    target = problem()[1]

    def of_layer():
        if way == "chunks":
            return log_probabilities._by_chunks(tuple(layer), target, {}, 2 * 5 * 32)
        return slt.linear_log_probs(layer[0], layer[1], target, linear_bias=layer[2])

    want = of_layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = of_layer()
    assert_same(list(got), list(want))
    assert_same(*(torch.autograd.grad(of.log_prob.sum() + 2 * of.entropy.sum(), layer) for of in (got, want)))


@pytest.mark.parametrize("function", ["log_probs", "linear_log_probs"])
def test_functions_are_compiled_and_mapped(function):
    x, w, _, _ = layer_problem(6, 4, 5)
    target = problem()[1]

    def of_rows(x, target):
        if function == "log_probs":
            return tuple(slt.log_probs(linear(x, w), target))
        return tuple(slt.linear_log_probs(x, w, target))

    right = of_rows(x, target)
    compiled = torch.compile(of_rows, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, target), right, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(of_rows)(x, target), right, rtol=1e-12, atol=1e-14)


WRONG = [
    ({"target": torch.zeros(6)}, TypeError, r"target must hold class indices, which are integers, got torch.float"),
    ({"target": torch.full((6,), 7)}, ValueError, r"target: label 7 at position 0"),
    ({"dim": 1.0}, TypeError, r"dim must be an integer, got 1.0"),
    ({"dim": None}, TypeError, r"dim must be an integer, got None"),
    ({"dim": 2}, ValueError, r"dim must be a dimension of input, whose shape is \(6, 5\), got 2"),
    ({"temperature": 0}, ValueError, "temperature must lie between"),
    ({"temperature": torch.ones(())}, TypeError, "temperature must be a number, got a tensor"),
    ({"softcap": -1}, ValueError, "softcap must be finite and positive"),
    ({"class_mask": torch.ones(4, dtype=bool)}, ValueError, r"class_mask .*\(4,\)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments_are_named(arguments, error, message):
    logits, target = problem()
    with pytest.raises(error, match=message):
        slt.log_probs(logits, **({"target": target} | arguments))
