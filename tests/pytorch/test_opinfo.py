"""PyTorch's own samples for its functions and modules, given to ours; every difference is a row of DIFFERENCES."""

import random
import warnings
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import softmaxloss.torch as slt
from cases import without
from thorough import thorough

OURS = {
    "nn.functional.cross_entropy": slt.cross_entropy,
    "nn.functional.linear_cross_entropy": slt.linear_cross_entropy,
    "softmax": slt.softmax,
    "log_softmax": slt.log_softmax,
    torch.nn.CrossEntropyLoss: slt.CrossEntropyLoss,
    torch.nn.LinearCrossEntropyLoss: slt.LinearCrossEntropyLoss,
}
OPERATIONS = {f"{op.name} {op.variant_test_name}".strip(): op for op in op_db if op.name in OURS}
MODULES = {of.module_cls.__name__: of for of in module_db if of.module_cls in OURS}
OF_LOSS = [name for name in OPERATIONS if "softmax" not in name]
HALF = (torch.float16, torch.bfloat16)

over_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, *map(thorough, HALF)], ids=lambda dtype: str(dtype).removeprefix("torch.")
)
over_operations = pytest.mark.parametrize("name", OPERATIONS)
over_losses = pytest.mark.parametrize("name", OF_LOSS)
over_modules = pytest.mark.parametrize("name", MODULES)

# How the answer differs on purpose, and why. `asked` says of which samples this is true.
DIFFERENCES = {
    "a mean over distributions divides by the sum of their weights, as over labels, not by the number of rows": (
        lambda asked: asked.soft and asked.reduction == "mean" and not asked.weighs_as_much_as_rows
    ),
    "a mean over ignored rows alone is 0, not NaN": lambda asked: asked.reduction == "mean" and asked.all_ignored,
    "a class weight below 0 makes no sense, and is refused where values are looked at": lambda asked: asked.refused,
    "of half precision, the loss is a float32": lambda asked: asked.dtype in HALF,
}


def differences(asked):
    return {name for name, is_true in DIFFERENCES.items() if is_true(asked)}


def asked_of(x, target, *more, linear_bias=None, weight=None, ignore_index=None, **options):
    """Return what a sample of a loss asks for; with three tensors the first two are those of a linear layer."""
    layer, target = ((x, target, linear_bias), more[0]) if more else (None, target)
    logits = x if layer is None else logits_of(*layer)
    soft, axis = target.is_floating_point(), 1 if logits.dim() > 1 else 0
    asked = SimpleNamespace(layer=layer, logits=logits, target=target, weight=weight, dtype=x.dtype, soft=soft)
    asked.options = {"label_smoothing": options.get("label_smoothing", 0.0), "weight": wide(weight)}
    asked.options |= {} if ignore_index is None else {"ignore_index": ignore_index}
    asked.reduction = options.get("reduction", "mean")
    asked.refused = weight is not None and bool((weight < 0).any()) and not target.requires_grad
    asked.all_ignored = not soft and bool((target == (-100 if ignore_index is None else ignore_index)).all())
    if soft:
        r = torch.ones(logits.shape[axis], dtype=wide(target).dtype) if weight is None else wide(weight)
        asked.total_weight = (torch.movedim(wide(target), axis, -1) @ r).sum()
        rows = torch.full_like(asked.total_weight, logits[..., None].select(axis, 0).numel())
        asked.weighs_as_much_as_rows = torch.isclose(asked.total_weight, rows)
    return asked


def logits_of(x, weight, bias):
    logits = linear(x, weight.flatten(0, -2), None if bias is None else bias.flatten())
    return logits.reshape(*x.shape[:-1], *weight.shape[:-1])


def wide(tensor):
    return tensor.float() if tensor is not None and tensor.dtype in HALF else tensor


def right(asked):
    """Return the loss that we promise, composed of PyTorch's functions of single precision at least."""
    logits, target = asked.logits, wide(asked.target)
    if asked.layer and asked.layer[1].dim() == 2 and not asked.target.requires_grad:
        logits = logits_of(*map(wide, asked.layer))  # elsewhere logits are held, in half precision
    if asked.reduction == "mean" and (asked.soft or asked.all_ignored):
        total = cross_entropy(wide(logits), target, reduction="sum", **asked.options)
        return total if asked.all_ignored else total / asked.total_weight
    return cross_entropy(wide(logits), target, reduction=asked.reduction, **asked.options)


def with_gradients(loss, leaves):
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return loss.detach(), torch.autograd.grad(loss, leaves, upstream) if loss.requires_grad else ()


def assert_near(got, want, dtype):
    """Compare results up to rounding, relative to the largest of them."""
    precision = {torch.float64: 1e-13, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    scale = want.detach().abs().max().item() if want.numel() else 1.0
    torch.testing.assert_close(got, want, rtol=0, atol=2 * precision * max(1.0, scale), equal_nan=True)


def differs(theirs, want, dtype):
    try:
        assert_near(theirs, want, dtype)
    except AssertionError:
        return True
    return False


def check(asked, leaves, ours, theirs):
    """Compare ours with what is promised, and what is promised with PyTorch's answer; return the differences."""
    listed = differences(asked)
    if asked.refused:
        with pytest.raises(ValueError, match="not negative"):
            ours()
        return listed
    loss, gradients = with_gradients(ours(), leaves)
    want, right_gradients = with_gradients(right(asked), leaves)
    assert_near(loss, want, asked.dtype)
    for got, right_gradient in zip(gradients, right_gradients, strict=True):
        assert_near(got, right_gradient, asked.dtype)
    with warnings.catch_warnings(action="ignore"):  # of options that PyTorch does not need, as we never do
        assert differs(theirs().detach(), want, asked.dtype) == bool(listed)
    return listed


@pytest.fixture(autouse=True)
def _same_samples():
    random.seed(0)
    torch.manual_seed(0)


@over_dtypes
@over_losses
def test_losses_of_the_samples_of_operations_are_those_of_pytorch_or_differ_as_listed(name, dtype):
    op, occurred, tried = OPERATIONS[name], Counter(), 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        arguments, options = (sample.input, *sample.args), sample.kwargs
        leaves = [t for t in (*arguments, options.get("linear_bias")) if t is not None and t.requires_grad]
        calls = (partial(function, *arguments, **options) for function in (OURS[op.name], op.op))
        occurred.update(check(asked_of(*arguments, **options), leaves, *calls))
        tried += 1
    expected = {row for row in DIFFERENCES if "distributions" in row and "none" not in name}
    expected |= {row for row in DIFFERENCES if "below 0" in row and name == "nn.functional.cross_entropy"}
    expected |= {row for row in DIFFERENCES if "half" in row and dtype in HALF}
    assert tried > 0
    assert set(occurred) == expected


@over_dtypes
@over_modules
def test_losses_of_the_samples_of_modules_are_those_of_pytorch_or_differ_as_listed(name, dtype):
    info, occurred = MODULES[name], Counter()
    makes = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True)
    for made in makes:
        given, call = made.constructor_input, made.forward_input
        theirs = info.module_cls(*given.args, **given.kwargs)
        ours = OURS[info.module_cls](*given.args, **given.kwargs)
        ours.load_state_dict(theirs.state_dict())
        arguments, options = call.args, without(given.kwargs, "bias")
        if hasattr(ours, "linear"):
            shape, own = (theirs.num_classes, *theirs.out_features), ours.linear
            weight = own.weight.view(*shape, own.in_features)
            arguments = (arguments[0], weight, arguments[1])
            options["linear_bias"] = None if own.bias is None else own.bias.view(shape)
        leaves = [call.args[0], *ours.parameters()]
        calls = (partial(module, *call.args) for module in (ours, theirs))
        occurred.update(check(asked_of(*arguments, **options), leaves, *calls))
    assert any("mean over" in row for row in occurred)


@over_dtypes
@pytest.mark.parametrize("name", [name for name in OPERATIONS if "softmax" in name])
def test_softmax_of_the_samples_is_that_of_pytorch_and_of_half_precision_rounded_once(name, dtype):
    op, tried = OPERATIONS[name], 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        arguments, options = (sample.input, *sample.args), sample.kwargs
        got, gradients = with_gradients(OURS[op.name](*arguments, **options), [sample.input])
        want, right_gradients = with_gradients(op.op(wide(sample.input), *sample.args, **options), [sample.input])
        assert_near(got, want.to(got.dtype), got.dtype)
        assert_near(gradients[0], right_gradients[0], dtype)
        if got.dtype in HALF:
            want = op.op(sample.input.double(), *sample.args, **options).to(got.dtype)
            torch.testing.assert_close(got, want, rtol=torch.finfo(got.dtype).eps, atol=0)
        tried += 1
    assert tried > 0


def assert_both_refuse(ours, theirs, expected):
    with pytest.raises(expected) as of_torch:
        theirs()
    with pytest.raises((ValueError, TypeError)) as error:
        ours()
    assert isinstance(error.value, of_torch.type), (error.value, of_torch.value)


@pytest.mark.parametrize("name", [name for name, op in OPERATIONS.items() if op.error_inputs_func])
def test_wrong_samples_of_operations_are_refused_with_an_error_of_pytorchs_kind(name):
    op = OPERATIONS[name]
    errors = list(op.error_inputs("cpu"))
    for error in errors:
        sample = error.sample_input
        calls = (partial(f, sample.input, *sample.args, **sample.kwargs) for f in (OURS[op.name], op.op))
        assert_both_refuse(*calls, error.error_type)
    assert errors


@over_modules
def test_wrong_samples_of_modules_are_refused_with_an_error_of_pytorchs_kind(name):
    info = MODULES[name]
    errors = info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True)

    def make_and_call(cls, sample):
        made, called = sample.constructor_input, sample.forward_input
        arguments = (torch.zeros(2, 3), torch.zeros(2, dtype=int)) if called is None else called.args
        return cls(*made.args, **made.kwargs)(*arguments)

    for error in errors:
        calls = (
            partial(make_and_call, cls, error.module_error_input) for cls in (OURS[info.module_cls], info.module_cls)
        )
        assert_both_refuse(*calls, error.error_type)
    assert errors
