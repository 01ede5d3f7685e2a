"""Compiled and exported graphs hold the loss as one operator, or as operations, without a break."""

import inspect
import typing

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import softmaxloss as sl
import softmaxloss.torch as slt
from softmaxloss.torch import operators
from tensors import assert_same, layer_problem, problem
from thorough import over_values, thorough

# PyTorch's compiler warns of what it does itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OPTIONS = {
    "mean": {},
    "none": {"reduction": "none"},
    "weight": {"weight": torch.tensor([0.5, 1, 2, 0, 3])},
    "normalizer": {"normalizer": 2.5},
    "whole numbers": {"temperature": 2, "z_loss": 1, "normalizer": 3},
    "normalizer as a tensor": {"normalizer": torch.tensor(2.5)},
    "all": {
        "weight": torch.tensor([0.5, 1, 2, 0, 3]),
        "class_mask": torch.tensor([True] * 5),
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "z_loss": 0.1,
        "softcap": 5.0,
        "temperature": 0.7,
        "reduction": "sum",
    },
}


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()


def of_logits(x, w, b, target, **options):
    return slt.cross_entropy(torch.nn.functional.linear(x, w, b), target, **options)


def of_layer(x, w, b, target, **options):
    return slt.linear_cross_entropy(x, w, target, linear_bias=b, **options)


LOSSES = {"of_logits": of_logits, "of_layer": of_layer}
over_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def with_gradients(loss, leaves):
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return loss.detach(), *torch.autograd.grad(loss, leaves, upstream)


def assert_compiles(loss, option, *, rows=(6,), soft=False, backend="aot_eager", dynamic=None, again=0):
    """Compare a compiled loss and its gradients with what is computed at once, and count further compilations."""
    counts, counter = [], CompileCounterWithBackend(backend)
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=counter)
    for n in rows:
        x, w, b, target = layer_problem(n, dtype=torch.float32, seed=n)
        leaves = [x, w, b]
        if soft:
            target = torch.rand(n, 5).requires_grad_()
            leaves.append(target)
        got, want = (with_gradients(f(x, w, b, target, **OPTIONS[option]), leaves) for f in (compiled, loss))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[-1] - counts[0] == again


@over_values(loss=LOSSES, option=OPTIONS.keys())
def test_a_compiled_loss_equals_one_computed_at_once(loss, option):
    assert_compiles(loss, option)


@over_values(loss=LOSSES, option=["mean", "none"])
def test_a_loss_of_any_number_of_rows_is_compiled_once(loss, option):
    assert_compiles(loss, option, rows=(6, 7, 9, 30), dynamic=True)


@over_losses
def test_a_loss_of_another_number_of_rows_is_compiled_once_more_for_all(loss):
    assert_compiles(loss, "mean", rows=(6, 7, 9, 30), again=1)


@over_losses
def test_a_loss_of_any_number_of_soft_targets_is_compiled_once(loss):
    assert_compiles(loss, "mean", rows=(6, 7, 9, 30), soft=True, dynamic=True)


@over_losses
@pytest.mark.parametrize("option", ["weight", "whole numbers"])
def test_a_compiled_loss_has_derivatives_by_soft_targets(loss, option):
    assert_compiles(loss, option, soft=True)


@over_losses
@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("option", [thorough("mean"), "all"])
def test_the_operations_on_arrays_are_compiled_without_a_break(loss, option):
    assert_compiles(loss, option)


@pytest.mark.thorough
@over_losses
def test_inductor_compiles_the_operators(loss):
    assert_compiles(loss, "all", rows=(6, 7), backend="inductor", dynamic=True)


@pytest.mark.thorough
@pytest.mark.usefixtures("without_kernels")
def test_inductor_compiles_the_operations_on_arrays():
    assert_compiles(of_logits, "mean", backend="inductor")


def test_kernels_compute_in_a_compiled_graph():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    x, w, b, labels = layer_problem(dtype=torch.float32)
    torch.compile(of_logits, fullgraph=True, backend=keep)(x, w, b, labels)
    torch.compile(of_layer, fullgraph=True, backend=keep)(x, w, b, labels)
    used = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert [name for name in used if "softmaxloss" in name] == [
        "softmaxloss.cross_entropy",
        "softmaxloss.linear_cross_entropy",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_compiled_loss_of_half_precision_is_a_float32(dtype):
    logits, labels = problem(dtype=dtype)
    compiled = torch.compile(slt.cross_entropy, fullgraph=True, backend="aot_eager")
    got, want = (with_gradients(f(logits, labels), [logits]) for f in (compiled, slt.cross_entropy))
    assert_same(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


WRONG = {
    "target": {"target": torch.tensor([0, 99, 0, 1, 2, 3])},
    "weight": {"weight": -torch.ones(5)},
    "reduction": {"reduction": "average"},
}


@over_losses
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_compiled_loss_raises_the_errors_of_an_eager_one(loss, wrong):
    x, w, b, labels = layer_problem(dtype=torch.float32)
    errors = []
    for f in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        with pytest.raises(slt.TensorValueError) as caught:
            f(x, w, b, **{"target": labels} | wrong)
        errors.append(str(caught.value))
    assert errors[1] == errors[0]


WRONG_FOR_OPERATIONS = {
    "reduction": ({"reduction": "average"}, "reduction must be one of"),
    "label_smoothing": ({"label_smoothing": 1.5}, "label_smoothing must lie between 0 and 1, got 1.5"),
    "temperature": ({"temperature": 0}, "temperature must lie between"),
    "normalizer": ({"normalizer": -1.0}, "normalizer must be finite and not negative"),
    "column of labels": ({"target": torch.zeros(6, 1, dtype=torch.int64)}, r"target must have shape \(6,\), got"),
    "labels as floats": ({"target": torch.zeros(6)}, r"target must have shape \(6, 5\), got"),
    "weight": ({"weight": torch.ones(4)}, r"weight must have shape \(5,\), got"),
    "sample_weight": (
        {"sample_weight": torch.ones(5, requires_grad=True)},
        r"sample_weight must have shape \(6,\), got",
    ),
    "class_mask": ({"class_mask": torch.ones(5)}, "class_mask must hold bool, got torch.float32"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG_FOR_OPERATIONS.values(), ids=WRONG_FOR_OPERATIONS)
def test_wrong_arguments_are_refused_where_operations_are_compiled(wrong, said):
    logits, labels = problem()
    arguments = {"target": labels, "sample_weight": torch.ones(6, requires_grad=True)} | wrong
    with pytest.raises(torch._dynamo.exc.Unsupported, match=said):  # fullgraph turns all errors into this
        torch.compile(slt.cross_entropy, fullgraph=True, backend="eager")(logits, **arguments)
    errors = []
    for function in (slt.cross_entropy, torch.compile(slt.cross_entropy, backend="eager")):
        with pytest.raises((slt.TensorValueError, slt.TensorTypeError)) as caught:
            function(logits, **arguments)
        errors.append((caught.type, str(caught.value)))
    assert errors[1] == errors[0]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"target": torch.zeros(6, 1, dtype=torch.int64)}])
@pytest.mark.parametrize("function", [slt.log_probs, slt.linear_log_probs])
def test_wrong_arguments_of_log_probabilities_are_refused_in_compiled_graphs(function, wrong):
    x, w, _, labels = layer_problem()
    inputs = (x,) if function is slt.log_probs else (x, w)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=f"{next(iter(wrong))} must"):
        torch.compile(function, fullgraph=True, backend="eager")(*inputs, **{"target": labels % 4} | wrong)


def test_a_compiled_loss_without_gradients_makes_none():
    logits, labels = problem()
    loss = torch.compile(slt.cross_entropy, fullgraph=True, backend="aot_eager")(logits.detach(), labels)
    assert_same(loss, slt.cross_entropy(logits.detach(), labels))


def test_the_sampled_backward_pass_is_compiled():
    x, w, _, labels = layer_problem(64, 8, 300, dtype=torch.float32)
    how = sl.Sampled(0.1, seed=3)

    def loss(x, w):
        return slt.linear_cross_entropy(x, w, labels, backward=how)

    got, want = (
        with_gradients(f(x, w), [x, w]) for f in (torch.compile(loss, fullgraph=True, backend="aot_eager"), loss)
    )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


NUMBERS = {
    "normalizer": lambda x, w, labels, n: slt.linear_cross_entropy(x, w, labels, normalizer=n),
    "half a normalizer": lambda x, w, labels, n: slt.linear_cross_entropy(x, w, labels, normalizer=n + 0.5),
    "NumPy": lambda x, w, labels, n: slt.linear_cross_entropy(x, w, labels, normalizer=np.float64(3.5)) * n,
    "seed": lambda x, w, labels, n: slt.linear_cross_entropy(x, w, labels, backward=sl.Sampled(seed=n)),
}


@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("first", [3, 3.25])
def test_a_number_that_changes_at_each_step_is_compiled_once_more_for_all(function, first):
    if function is NUMBERS["seed"]:
        first = int(first)
    x, w, _, labels = layer_problem(64, 8, 300, dtype=torch.float32)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for n in [first + step for step in range(12)]:
        got, want = (with_gradients(f(x, w, labels, n), [x, w]) for f in (compiled, function))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 2


def test_the_old_arguments_of_reductions_are_compiled():
    logits, labels = problem()
    loss = torch.compile(slt.cross_entropy, fullgraph=True, backend="aot_eager")(logits, labels, size_average=False)
    assert_same(loss, slt.cross_entropy(logits, labels, reduction="sum"))


@pytest.mark.parametrize("module", [slt.CrossEntropyLoss, slt.LinearCrossEntropyLoss])
def test_modules_are_exported_for_any_number_of_rows(module):
    made = module() if module is slt.CrossEntropyLoss else module(5, 5)
    logits, labels = problem(dtype=torch.float32)
    rows = {0: torch.export.Dim("rows", min=2, max=1000)}
    exported = torch.export.export(made, (logits.detach(), labels), dynamic_shapes=(rows, rows)).module()
    for n in (6, 11):
        logits, labels = problem(n, dtype=torch.float32)
        torch.testing.assert_close(exported(logits, labels), made(logits, labels))
    if module is slt.CrossEntropyLoss:
        with pytest.raises(RuntimeError, match="this graph was exported without a gradient; export it with an input"):
            exported(logits, labels).backward()


def given(option):
    options = {"reduction": "mean", "label_smoothing": 0.0, "z_loss": 0.0, "temperature": 1.0} | OPTIONS[option]
    options["class_weight"] = options.pop("weight", None)
    return operators._given(options)


@pytest.mark.thorough
@pytest.mark.parametrize("option", ["mean", "none", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_keep_pytorchs_promises(option, dtype):
    logits, labels = problem(dtype=dtype)
    for leaf in (logits, logits.detach()):
        arguments = (leaf, labels, 1, leaf.requires_grad, *given(option))
        torch.library.opcheck(torch.ops.softmaxloss.cross_entropy.default, arguments)
    x, w, b, labels = layer_problem(dtype=dtype)
    how = (None, 0.0, 0, *given(option))
    for bias, wanted in ((b, [True, True, True]), (None, [True, True, False])):
        arguments = (x, w, bias, labels, None, wanted, *how)
        torch.library.opcheck(torch.ops.softmaxloss.linear_cross_entropy.default, arguments)


@pytest.mark.parametrize("operator", [operators._cross_entropy, operators._linear_cross_entropy])
def test_the_schema_of_an_operator_needs_no_annotation_that_the_oldest_pytorch_does_not_know(operator):
    single = (torch.Tensor, int, float, bool, str)
    known = {*single, *(typing.Optional[of] for of in single), typing.Sequence[bool]}  # noqa: UP045
    parameters = inspect.signature(operator._init_fn).parameters
    assert {name: of.annotation for name, of in parameters.items() if of.annotation not in known} == {}
