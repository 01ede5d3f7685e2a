"""Wrong arguments raise ValueError or TypeError that names the argument, what was got and what was expected.

The file has over 300 lines because of its tables.
"""

import re
import sys
from unittest import mock

import numpy as np
import pytest
from scipy import sparse

import softmaxloss as sl
from calls import FEATURES, FUNCTIONS, LABELS, LOGITS, NOT_HERE, WEIGHT, names_in, parameters_of
from thorough import covering, pairs
from wrong_arguments import WRONG

KINDS = [
    (name, parameter, label)
    for name in FUNCTIONS
    for parameter in sorted(names_in(name))
    for label, row in WRONG[parameter].items()
    if set(row.beside) <= set(names_in(name))
]
TABLE = [
    pytest.param(
        name,
        parameter,
        WRONG[parameter][label],
        id=f"{name}, {parameter}: {label}",
        marks=() if chosen else pytest.mark.thorough,
    )
    for (name, parameter, label), chosen in zip(KINDS, covering([*map(pairs, KINDS)]), strict=True)
]


@pytest.mark.parametrize(("name", "parameter", "row"), TABLE)
def test_wrong_arguments_are_named_with_what_was_got_and_expected(name, parameter, row):
    function, right = FUNCTIONS[name]
    own = names_in(name)
    arguments = {own[parameter]: row.value, **{own[other]: value for other, value in row.beside.items()}}
    with pytest.raises(row.error) as caught:
        function(**{**right, **arguments})
    message = str(caught.value)
    assert re.search(rf"\b({parameter}|{own[parameter]})\b", message), f"{own[parameter]} is not named in: {message}"
    for fragment in row.fragments:
        assert re.search(rf"(?<!\w){re.escape(fragment)}", message), f"{fragment!r} is not in: {message}"


def test_every_parameter_of_every_public_function_is_in_the_table():
    assert {*FUNCTIONS, *NOT_HERE} == set(sl.__all__)
    tried = {(name, names_in(name)[parameter]) for name, parameter, _ in (case.values for case in TABLE)}
    assert tried == {(name, parameter) for name in FUNCTIONS for parameter in parameters_of(name)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_arguments_are_taken_and_unknown_ones_are_named(name):
    function, right = FUNCTIONS[name]
    before = sl.get_num_threads()
    function(**right)
    sl.set_num_threads(before)
    for unknown in "weights", "layout":
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{unknown}'"):
            function(**right, **{unknown: 1})


@pytest.mark.parametrize("name", ["softmax", "cross_entropy_and_grad", "metrics", "hvp"])
def test_rows_without_classes_are_refused_and_no_rows_need_none(name):
    function, right = FUNCTIONS[name]
    empty = {**right, "logits": np.zeros((2, 0)), **({"vector": np.zeros((2, 0))} if name == "hvp" else {})}
    with pytest.raises(ValueError, match=r"logits must have at least one class on axis 1, got shape \(2, 0\)"):
        function(**empty)
    function(**{key: value[:0] for key, value in empty.items()})


def test_the_position_of_a_wrong_label_counts_along_all_axes():
    labels = np.zeros((2, 3, 4), int)
    labels[1, 0, 2] = 5
    for logits, axis in ((np.zeros((2, 3, 4, 5)), -1), (np.zeros((2, 5, 3, 4)), 1)):
        with pytest.raises(ValueError, match=re.escape("(1, 0, 2)")):
            sl.cross_entropy(logits, labels, axis=axis)


def test_calls_that_look_like_an_earlier_one_are_checked_for_what_differs():
    z = np.array([[0.3, 2.9, 4.0], [1.0, 1.0, 1.0]])
    y = np.array([2, 0])
    right = {"axis": 1, "label_smoothing": 1.0, "ignore_index": -100}
    sl.cross_entropy(z, y, **right)
    wrong = {"axis": True}, {"label_smoothing": True}, {"label_smoothing": np.array(2.0)}, {"z_loss": "1"}
    for option in (*wrong, {"ignore_index": -100.0}):
        with pytest.raises((TypeError, ValueError), match=next(iter(option))):
            sl.cross_entropy(z, y, **right | option)
    y[1] = 3
    with pytest.raises(ValueError, match="label 3"):
        sl.cross_entropy(z, y, **right)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        sl.cross_entropy(LOGITS, LABELS, np.ones(3))


def test_a_refused_number_of_threads_changes_nothing():
    before = sl.get_num_threads()
    with pytest.raises(ValueError, match="n must be"):
        sl.set_num_threads(0)
    assert sl.get_num_threads() == before


LOSSES = [name for name in FUNCTIONS if "reduction" in names_in(name)]


THEIR_NAMES = [
    ("dim", "pass it as axis"),
    ("input", "pass it as the first argument"),
    ("y_pred", "pass it as the first argument"),
    ("target", "pass it as targets"),
    ("labels", "pass it as targets"),
    ("y_true", "pass it as targets"),
    ("pos_weight", "pass it as class_weight"),
    ("class_weights", "pass it as class_weight"),
    ("sample_weights", "pass it as sample_weight"),
    ("weights", "pass it as class_weight if it has one number per class, as sample_weight if it has one per row"),
    ("mask", "pass it as class_mask if it says which classes exist, as sample_weight if it says which rows count"),
    ("ignore_idx", "pass it as ignore_index"),
    ("ignore_class", "pass it as ignore_index"),
    ("lse_square_scale", "pass it as z_loss"),
    ("label_smoothin", "pass it as label_smoothing"),
    ("soft_cap", "pass it as softcap"),
    ("tau", "pass it as temperature"),
    ("size_average", "pass it as reduction, which is 'mean', 'sum' or 'none'"),
    ("reduciton", "pass it as reduction"),
    ("from_logits", "leave it out: the losses take logits; if you have probabilities, pass np.log of them"),
    ("num_classes", "leave it out: the logits have one entry per class"),
]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("theirs", "remedy"), THEIR_NAMES)
def test_what_another_library_calls_an_option_is_said_to_be_ours(name, theirs, remedy):
    function, right = FUNCTIONS[name]
    with pytest.raises(TypeError) as caught:
        function(**right, **{theirs: 1})
    message = str(caught.value)
    assert message == f"unexpected keyword argument '{theirs}'; {remedy}"


def test_weight_is_class_weight_except_where_it_is_that_of_a_layer():
    for name in LOSSES:
        function, right = FUNCTIONS[name]
        if "weight" not in right:
            with pytest.raises(TypeError, match=r"'weight'; pass it as class_weight$"):
                function(**right, weight=[1, 1, 1])


@pytest.mark.parametrize("name", ["metrics", "linear_metrics", "fit_temperature", "summarize", "margin_cross_entropy"])
def test_functions_without_some_options_know_the_names_of_other_libraries_as_well(name):
    function, right = FUNCTIONS[name]
    with pytest.raises(TypeError, match=r"'ignore_idx'; pass it as ignore_index$"):
        function(**right, ignore_idx=-1)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax_functions_know_the_names_of_other_libraries(name):
    function, right = FUNCTIONS[name]
    for theirs, remedy in ("dim", "axis"), ("tau", "temperature"), ("temprature", "temperature"):
        with pytest.raises(TypeError, match=f"'{theirs}'; pass it as {remedy}$"):
            function(**right, **{theirs: 1})
    with pytest.raises(TypeError, match=r"'keepdims'; leave it out, and add .* with np.expand_dims"):
        function(**right, keepdims=True)
    with pytest.raises(TypeError, match=r"'class_weight'; this function has no such option$"):
        function(**right, class_weight=[1, 1, 1])


def test_names_in_the_place_of_logits_and_targets_leave_pythons_message_about_what_is_missing():
    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'logits' and 'targets'"):
        sl.cross_entropy(input=LOGITS, target=LABELS)


def test_a_linear_layer_has_no_axis():
    function, right = FUNCTIONS["linear_cross_entropy"]
    with pytest.raises(TypeError, match=r"'axis'; leave it out: a linear layer has its classes on axis 0 of weight"):
        function(**right, axis=1)


REFUSED_OPTIONS = [
    ("metrics", "class_weight", "metrics compare each row with its single right class"),
    ("linear_metrics", "label_smoothing", "metrics compare each row with its single right class"),
    ("metrics", "reduction", "metrics are means; for each row see argmax"),
]


@pytest.mark.parametrize(("name", "option", "reason"), REFUSED_OPTIONS)
def test_metrics_refuse_options_of_the_loss_with_a_reason(name, option, reason):
    function, right = FUNCTIONS[name]
    with pytest.raises(TypeError, match=f"{option} is not an option of this function: {reason}"):
        function(**right, **{option: None})


IMAGES, IMAGE_LABELS = np.zeros((2, 5, 3, 4)), np.zeros((2, 3, 4), int)


WRONG_SHAPES = [
    (
        IMAGES,
        IMAGE_LABELS,
        "shape (2, 3, 4); if the classes are on axis 1 of logits, whose shape is (2, 5, 3, 4), pass axis=1",
    ),
    (
        np.zeros((5, 2)),
        [0, 1],
        "shape (2,); if the classes are on axis 0 of logits, whose shape is (5, 2), pass axis=0",
    ),
    (LOGITS, [[0], [2]], "shape (2, 1); pass np.ravel(targets)"),
    (LOGITS, [[0, 2]], "shape (1, 2); pass np.ravel(targets)"),
    (np.zeros((2, 4, 3)), np.zeros((2, 4, 1), int), "shape (2, 4, 1); pass np.reshape(targets, (2, 4))"),
    (LOGITS[0], [2], "shape (1,); pass np.reshape(targets, ())"),
    (LOGITS, [[0.0], [2.0]], "shape (2, 1); for class indices pass np.ravel(targets).astype(int)"),
    (LOGITS, np.zeros((3, 2)), "shape (3, 2); use np.moveaxis to give targets the class axis of logits"),
    (LABELS, LOGITS, "shape (2, 3); pass logits first and targets second"),
    (LOGITS, [0, 1, 2, 0], "shape (4,)"),
    (LOGITS, np.zeros((2, 4)), "shape (2, 4)"),
]


@pytest.mark.parametrize(("logits", "targets", "remedy"), WRONG_SHAPES)
def test_the_message_about_a_wrong_shape_of_targets_ends_with_the_remedy(logits, targets, remedy):
    with pytest.raises(ValueError, match="targets: ") as caught:
        sl.cross_entropy(logits, targets)
    assert str(caught.value).endswith(f", got {remedy}")


@pytest.mark.parametrize("names", [["cat", "dog"], np.array([b"cat", b"dog"]), np.array(["cat", None], object)])
def test_names_of_classes_become_indices_as_the_message_says(names):
    with pytest.raises(TypeError, match=re.escape("names, targets = np.unique(targets, return_inverse=True)")):
        sl.cross_entropy(LOGITS, names)
    with pytest.raises(TypeError, match=r"got dtype object$"):
        sl.cross_entropy(LOGITS, np.array([0, None], object))


def test_tensors_that_cannot_be_arrays_are_told_how_to_become_one():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"softmaxloss.torch, .*logits.detach\(\).numpy\(\) and .*_and_grad"):
        sl.cross_entropy(torch.zeros(2, 3, requires_grad=True), LABELS)
    half = torch.zeros(2, 3, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r", or pass logits.detach\(\).float\(\).numpy\(\)"):
        sl.cross_entropy(half, LABELS)
    elsewhere = torch.zeros(3, 5, device="meta", dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r", or pass weight.detach\(\).cpu\(\).float\(\).numpy\(\)"):
        sl.linear_cross_entropy(FEATURES, elsewhere, LABELS)
    assert sl.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2])) == sl.cross_entropy(LOGITS.astype("f"), LABELS)


def without_ml_dtypes():
    with mock.patch.dict(sys.modules, {"ml_dtypes": None}):
        sl.warmup(dtypes="bfloat16")


SPARSE, MANY_CLASSES = sparse.csr_array(FEATURES), np.broadcast_to(np.float16(0), (2, 2**31))
OTHERS = [  # what the message is about, a call, the error, and what the message must contain
    ("logits", lambda: sl.softmax(np.zeros((2, 0))), ValueError, ["at least one class", "(2, 0)"]),
    ("logits", lambda: sl.cross_entropy(MANY_CLASSES, [0, 0]), ValueError, ["at most 2147483647 classes on axis 1"]),
    ("logits", lambda: sl.softmax(MANY_CLASSES), ValueError, ["at most 2147483647 classes on axis 1"]),
    ("weight", lambda: sl.linear_cross_entropy(LOGITS[:, :2], MANY_CLASSES.T, LABELS), ValueError, ["on axis 0"]),
    ("sample_weight", lambda: sl.cross_entropy(LOGITS, LABELS, sample_weight=[1e-320, 0]), ValueError, ["too small"]),
    ("sample_weight", lambda: sl.cross_entropy(LOGITS, LABELS, sample_weight=[1e308] * 2), ValueError, ["too large"]),
    ("dtypes", without_ml_dtypes, TypeError, ["bfloat16", "ml_dtypes"]),
    (
        "features",
        lambda: sl.linear_cross_entropy(sparse.coo_array(np.ones(5)), WEIGHT, 0),
        ValueError,
        ["two dimensions", "(5,)"],
    ),
    (
        "wrt",
        lambda: sl.linear_cross_entropy_and_grad(SPARSE, WEIGHT, LABELS),
        ValueError,
        ["sparse", "'features'", "wrt=('weight', 'bias')"],
    ),
    (
        "backward",
        lambda: sl.linear_cross_entropy_and_grad(SPARSE, WEIGHT, LABELS, wrt=["weight"], backward=sl.Sampled(0.1)),
        ValueError,
        ["sparse", "exact", "Sampled"],
    ),
    (
        "first_class",
        lambda: sl.summarize(LOGITS, LABELS, first_class=2, n_classes=4),
        ValueError,
        ["2 to 4", "n_classes", "4"],
    ),
    ("targets", lambda: sl.cross_entropy(LOGITS, ["cat", "dog"]), TypeError, ["names", "np.unique"]),
    ("forward", lambda: sl.SoftmaxWithLoss().backward(), RuntimeError, ["SoftmaxWithLoss", "backward", "forward"]),
    ("weight", lambda: sl.linear_cross_entropy(FEATURES, WEIGHT.T, LABELS), ValueError, ["(2, 5)", "weight.T"]),
]


@pytest.mark.parametrize(("about", "call", "error", "fragments"), OTHERS)
def test_other_wrong_calls_are_refused_in_words(about, call, error, fragments):
    with pytest.raises(error, match=rf"\b{about}\b") as caught:
        call()
    for fragment in fragments:
        assert fragment in str(caught.value)
