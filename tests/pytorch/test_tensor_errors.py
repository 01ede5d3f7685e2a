"""Wrong arguments raise errors in PyTorch's words, which are also those of PyTorch, and nothing is computed then."""

import re
from math import inf, nan

import pytest
import torch

import softmaxloss.torch as slt
from tensors import assert_same

LOSS = {"input": torch.zeros(2, 3), "target": torch.tensor([0, 2])}
HEAD = {"input": torch.zeros(2, 4), "linear_weight": torch.zeros(3, 4), "target": torch.tensor([0, 2])}
FUNCTIONS = {"cross_entropy": (slt.cross_entropy, LOSS), "linear_cross_entropy": (slt.linear_cross_entropy, HEAD)}
VALUE, TYPE = slt.TensorValueError, slt.TensorTypeError

# the argument, its wrong value, the error, and what the message must say
OF_BOTH = [
    ("input", [[0.0]], TYPE, "must be a tensor, got list"),
    ("input", torch.zeros(2, 3, dtype=torch.int64), TYPE, "int64"),
    ("input", torch.zeros(2, 3, dtype=torch.complex64), TYPE, "complex"),
    ("input", None, TYPE, "must be a tensor, got NoneType"),
    ("input", torch.zeros(2, 3).to_sparse(), TYPE, "must be a dense tensor, got layout torch.sparse_coo"),
    ("target", [0, 2], TYPE, "must be a tensor, got list"),
    ("target", None, TYPE, "must be a tensor, got NoneType"),
    ("target", torch.tensor([0, 2]).to_sparse(), TYPE, "pass target.to_dense()"),
    ("target", torch.tensor([0, 3]), VALUE, "3"),
    ("target", torch.tensor([0, -1]), VALUE, "ignore_index=-1"),
    ("target", torch.tensor([0, 2, 1]), VALUE, "(3,)"),
    ("target", torch.tensor([[0], [2]]), VALUE, "flatten()"),
    ("target", torch.tensor([0.0, 2.0]), TYPE, "target.long()"),
    ("target", torch.tensor([True, False]), TYPE, "bool"),
    ("target", torch.zeros(2, 3, dtype=torch.int64), TYPE, "target.bool()"),
    ("target", torch.zeros(2, 4), VALUE, "(2, 4)"),
    ("target", torch.zeros(3, 2), VALUE, "torch.movedim"),
    ("target", torch.tensor([[0.5, -0.5, 1.0]] * 2), VALUE, "-0.5"),
    ("target", torch.tensor([[0.5, nan, 1.0]] * 2), VALUE, "nan"),
    ("target", torch.zeros(2, 3, dtype=torch.complex64), TYPE, "complex"),
    ("weight", [1, 1, 1], TYPE, "must be a tensor, got list"),
    ("weight", torch.ones(2), VALUE, "(2,)"),
    ("weight", torch.tensor([1, -1, 1.0]), VALUE, "-1"),
    ("weight", torch.tensor([1, inf, 1.0]), VALUE, "inf"),
    ("weight", torch.ones(3, dtype=torch.complex64), TYPE, "complex"),
    ("sample_weight", torch.ones(3), VALUE, "(3,)"),
    ("sample_weight", torch.tensor([1.0, -2.0]), VALUE, "-2"),
    ("sample_weight", 1.0, TYPE, "must be a tensor, got float"),
    ("class_mask", torch.ones(3), TYPE, "bool"),
    ("class_mask", torch.ones(2, dtype=torch.bool), VALUE, "(2,)"),
    ("class_mask", torch.tensor([True, True, False]), VALUE, "masked"),
    ("label_smoothing", 1.5, VALUE, "1.5"),
    ("label_smoothing", torch.tensor(0.1), TYPE, "got a tensor"),
    ("z_loss", -1.0, VALUE, "-1"),
    ("z_loss", torch.tensor(0.1), TYPE, "got a tensor"),
    ("softcap", 0.0, VALUE, "0"),
    ("softcap", torch.tensor(3.0), TYPE, "got a tensor"),
    ("temperature", 0.0, VALUE, "0"),
    ("temperature", torch.tensor(2.0), TYPE, "got a tensor"),
    ("temperature", "hot", TYPE, "'hot'"),
    ("reduction", "average", VALUE, "'average'"),
    ("reduction", None, VALUE, "got None; for one loss per row pass reduction='none'"),
    *((name, None, TYPE, "must not be None") for name in ("label_smoothing", "z_loss", "temperature")),
    ("ignore_index", 0.5, TYPE, "integer"),
    ("ignore_index", "pad", TYPE, "integer"),
    ("normalizer", -1.0, VALUE, "-1"),
    ("normalizer", torch.ones(2), VALUE, "must be a single number, got shape (2,)"),
    ("normalizer", torch.ones((), device="meta"), VALUE, "got device meta"),
]
OF_LOSS = [
    ("input", torch.tensor(1.0), VALUE, "class axis"),
    ("inplace_backward", "yes", TYPE, "must be True or False, got 'yes'"),
]
OF_HEAD = [
    ("input", torch.tensor(1.0), VALUE, "single number"),
    ("input", torch.zeros(2, 5), VALUE, "(2, 5)"),
    ("linear_weight", [[0.0] * 4] * 3, TYPE, "must be a tensor, got list"),
    ("linear_weight", None, TYPE, "must be a tensor, got NoneType"),
    ("linear_weight", torch.zeros(0, 4), VALUE, "at least one class, got shape (0, 4)"),
    ("linear_weight", torch.zeros(4), VALUE, "(4,)"),
    ("linear_weight", torch.zeros(3, 4, dtype=torch.int64), TYPE, "int64"),
    ("linear_bias", [0, 0, 0], TYPE, "must be a tensor, got list"),
    ("linear_bias", torch.zeros(2), VALUE, "(2,)"),
    ("linear_bias", torch.zeros(3, dtype=torch.complex64), TYPE, "complex"),
    ("max_memory", 0, VALUE, "0"),
    ("max_memory", "much", VALUE, "'much'"),
    ("backward", "sampled", VALUE, "'sampled'"),
]
TABLE = [
    *(("cross_entropy", *row) for row in OF_BOTH + OF_LOSS),
    *(("linear_cross_entropy", *row) for row in OF_BOTH + OF_HEAD),
]
NAMES = [f"{function}-{argument}-{k}" for k, (function, argument, *_) in enumerate(TABLE)]
NOT_LOOKED_AT = {"-0.5", "nan", "-1", "inf", "-2", "3", "ignore_index=-1", "masked"}


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_wrong_arguments_are_named_in_pytorchs_words(row, requires_grad):
    name, argument, wrong, error, said = row
    function, right = FUNCTIONS[name]
    arguments = right | {argument: wrong}
    x = arguments["input"]
    if requires_grad and isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex()):
        arguments["input"] = x.clone().requires_grad_()
    with pytest.raises(error) as caught:
        function(**arguments)
    message = str(caught.value)
    assert re.search(rf"\b{argument}\b", message), message
    assert said in message
    theirs = r"np\.|numpy|targets|class_weight|astype|features" + (r"|\blogits\b" if name == "cross_entropy" else "")
    assert not re.search(theirs, message), message


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_wrong_shapes_and_dtypes_are_refused_where_no_kernels_run(row):
    name, argument, wrong, error, said = row
    function, right = FUNCTIONS[name]
    if isinstance(wrong, torch.Tensor) and said in NOT_LOOKED_AT:
        assert function(**right | {argument: wrong}).shape == ()
        return
    with pytest.raises(error, match=rf"\b{argument}\b") as caught:
        function(**right | {argument: wrong})
    assert said in str(caught.value)


OF_SOFTMAX = [
    ({"dim": "a"}, "dim must be an integer, got 'a'"),
    ({"dim": 1.0}, "dim must be an integer, got 1.0"),
    ({"dim": None}, "dim must be an integer, got None"),
    ({"dim": 2}, "dim must lie between -2 and 1, got 2"),
    ({"dtype": torch.int64}, "dtype must be .*, got torch.int64"),
    ({"dtype": "float32"}, "dtype must be .*, got 'float32'"),
]


@pytest.mark.parametrize(("wrong", "said"), OF_SOFTMAX)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_softmax_names_its_wrong_argument(wrong, said, device):
    for function in (slt.softmax, slt.log_softmax):
        with pytest.raises((VALUE, TYPE), match=said):
            function(torch.zeros(2, 3, device=device), **wrong)


def test_errors_are_those_of_python_and_of_pytorch():
    assert issubclass(VALUE, ValueError)
    assert issubclass(VALUE, RuntimeError)
    assert issubclass(VALUE, IndexError)
    assert issubclass(TYPE, TypeError)
    assert issubclass(TYPE, RuntimeError)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ignore_index_from_0_is_refused_beside_distributions_and_below_0_has_no_effect(name):
    function, right = FUNCTIONS[name]
    for rows in (torch.tensor([[True, False, False]] * 2), torch.full((2, 3), 1 / 3)):
        with pytest.raises(VALUE, match="ignore_index"):
            function(**right | {"target": rows, "ignore_index": 0})
        assert_same(function(**right | {"target": rows, "ignore_index": -5}), function(**right | {"target": rows}))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels_of_minus_100_are_ignored_unless_told_otherwise(name):
    function, right = FUNCTIONS[name]
    given = right | {"input": torch.rand_like(right["input"]), "target": torch.tensor([-100, 2])}
    alone = {key: value[1:] if key in ("input", "target") else value for key, value in given.items()}
    assert_same(function(**given), function(**alone))
    with pytest.raises(VALUE, match="-100"):
        function(**given, ignore_index=-1)


def test_nothing_is_changed_when_an_argument_is_wrong():
    logits = torch.rand(2, 3, requires_grad=True)
    before, version = logits.detach().clone(), logits._version
    with pytest.raises(VALUE):
        slt.cross_entropy(logits, torch.tensor([0, 3]), inplace_backward=True)
    with pytest.raises(VALUE):
        slt.cross_entropy(logits, torch.tensor([0, 1]), weight=-torch.ones(3), inplace_backward=True)
    assert_same(logits.detach(), before)
    assert logits._version == version


WRONG_SOFTMAX = [
    ({"input": [0.0]}, TYPE, "input"),
    ({"input": torch.zeros(3, dtype=torch.int64)}, TYPE, "input"),
    ({"dtype": torch.int64}, TYPE, "dtype"),
    ({"dim": 2}, VALUE, "dim"),
    ({"dim": -3}, VALUE, "dim"),
    ({"temperature": 0.0}, VALUE, "temperature"),
    ({"temperature": torch.tensor(2.0)}, TYPE, "temperature"),
]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("wrong", "error", "said"), WRONG_SOFTMAX)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_softmax_names_its_wrong_argument(name, wrong, error, said, device):
    if isinstance(wrong.get("input"), torch.Tensor):
        wrong = {"input": wrong["input"].to(device)}
    with pytest.raises(error, match=rf"\b{said}\b"):
        getattr(slt, name)(**{"input": torch.zeros(2, 3, device=device), **wrong})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_of_two_devices_are_refused(name):
    function, right = FUNCTIONS[name]
    for argument, value in {**right, "weight": torch.ones(3), "normalizer": torch.tensor(2.0)}.items():
        with pytest.raises(RuntimeError, match=rf"\b{argument}\b.*device|device.*\b{argument}\b"):
            function(**right | {argument: value.to("meta")})
