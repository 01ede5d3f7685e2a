"""Wrong arguments raise ValueError or TypeError that names the argument, what was got and what was expected."""

import re

import numpy as np
import pytest

import softmaxloss as sl

LOGITS = np.zeros((2, 3))
LABELS = np.array([0, 2])
READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False

WRONG = {  # what is passed instead of the right thing, the error, and what its message must contain
    "logits of strings": ({"logits": [["a", "b", "c"]] * 2}, TypeError, ["logits", "U1"]),
    "complex logits": ({"logits": LOGITS + 1j}, TypeError, ["logits", "complex128"]),
    "bool logits": ({"logits": LOGITS == 0}, TypeError, ["logits", "bool"]),
    "objects as logits": ({"logits": LOGITS.astype(object)}, TypeError, ["logits", "object"]),
    "extended precision": ({"logits": LOGITS.astype(np.longdouble)}, TypeError, ["logits", "float128", "float32"]),
    "a number as logits": ({"logits": 3.0}, ValueError, ["logits", "axis"]),
    "no classes": ({"logits": np.zeros((2, 0))}, ValueError, ["logits", "(2, 0)"]),
    "one label too many": ({"targets": [0, 1, 2]}, ValueError, ["targets", "(3,)", "(2,)"]),
    "labels as a column": ({"targets": [[0], [1]]}, ValueError, ["targets", "(2, 1)", "(2,)"]),
    "rows of a wrong width": ({"targets": np.zeros((2, 4))}, ValueError, ["targets", "(2, 4)", "(2, 3)"]),
    "integers of the full shape": (
        {"targets": np.eye(3, dtype=int)[:2]},
        TypeError,
        ["targets", "integer", "bool", "float"],
    ),
    "floats of the index shape": ({"targets": [0.0, 2.0]}, TypeError, ["targets", "integer", "float64"]),
    "bools of the index shape": ({"targets": [True, False]}, TypeError, ["targets", "integer", "bool"]),
    "labels of strings": ({"targets": ["a", "b"]}, TypeError, ["targets", "U1"]),
    "complex targets": ({"targets": LOGITS + 1j}, TypeError, ["targets", "complex128"]),
    "a label too large": ({"targets": [0, 7]}, ValueError, ["targets", "7", "position 1", "0..2", "1 of 2"]),
    "labels from 1": ({"targets": [1, 3]}, ValueError, ["targets", "3", "position 1", "1", "from 1"]),
    "labels of -100": ({"targets": [-100, -100]}, ValueError, ["-100", "position 0", "2 of 2", "ignore_index=-100"]),
    "labels of -1": ({"targets": [0, -1]}, ValueError, ["-1", "position 1", "ignore_index=-1"]),
    "labels of 255": ({"targets": np.array([255, 0], np.uint8)}, ValueError, ["255", "ignore_index=255"]),
    "negative soft targets": ({"targets": [[0, 0, 1.0], [1.5, -0.5, 0]]}, ValueError, ["targets", "-0.5", "(1, 1)"]),
    "soft targets of NaN": ({"targets": [[0, 0, 1], [1, 0, np.nan]]}, ValueError, ["targets", "nan", "(1, 2)"]),
    "infinite soft targets": ({"targets": [[np.inf, 0, 1], [1, 0, 0]]}, ValueError, ["targets", "inf", "(0, 0)"]),
    "an ignore_index for rows": (
        {"targets": np.eye(3)[:2], "ignore_index": 0},
        ValueError,
        ["ignore_index", "sample_weight"],
    ),
    "a fractional ignore_index": ({"ignore_index": 0.5}, TypeError, ["ignore_index", "0.5", "integer"]),
    "a class_weight too few": ({"class_weight": [1, 2]}, ValueError, ["class_weight", "(2,)", "(3,)"]),
    "a negative class_weight": ({"class_weight": [1, -2, 1]}, ValueError, ["class_weight", "-2", "position 1"]),
    "a class_weight of NaN": ({"class_weight": [1, 1, np.nan]}, ValueError, ["class_weight", "nan", "position 2"]),
    "an infinite class_weight": ({"class_weight": [np.inf, 1, 1]}, ValueError, ["class_weight", "inf", "position 0"]),
    "class_weight of strings": ({"class_weight": "balanced"}, TypeError, ["class_weight"]),
    "a sample_weight too many": ({"sample_weight": [1, 2, 3]}, ValueError, ["sample_weight", "(3,)", "(2,)"]),
    "a negative sample_weight": ({"sample_weight": [1, -2]}, ValueError, ["sample_weight", "-2", "position 1"]),
    "a sample_weight of NaN": ({"sample_weight": [np.nan, 1]}, ValueError, ["sample_weight", "nan", "position 0"]),
    "too much smoothing": ({"label_smoothing": 1.5}, ValueError, ["label_smoothing", "1.5", "0", "1"]),
    "negative smoothing": ({"label_smoothing": -0.1}, ValueError, ["label_smoothing", "-0.1"]),
    "smoothing of NaN": ({"label_smoothing": np.nan}, ValueError, ["label_smoothing", "nan"]),
    "smoothing by a word": ({"label_smoothing": "some"}, TypeError, ["label_smoothing", "some"]),
    "an unknown reduction": ({"reduction": "average"}, ValueError, ["reduction", "average", "mean", "sum", "none"]),
    "an unknown option": ({"weights": [1, 2, 3]}, TypeError, ["weights"]),
}

WRONG_FOR_THE_GRADIENT = {
    "an out of wrong shape": ({"out": np.zeros((2, 4))}, ValueError, ["out", "(2, 4)", "(2, 3)"]),
    "an out of wrong dtype": ({"out": np.zeros((2, 3), np.float32)}, TypeError, ["out", "float32", "float64"]),
    "a read-only out": ({"out": READ_ONLY}, ValueError, ["out", "read-only"]),
    "a list as out": ({"out": [[0.0] * 3] * 2}, TypeError, ["out", "list"]),
    "one upstream per row for a mean": ({"upstream": [1.0, 2.0]}, ValueError, ["upstream", "(2,)", "()"]),
    "an upstream too many": ({"upstream": [1.0] * 3, "reduction": "none"}, ValueError, ["upstream", "(3,)", "(2,)"]),
    "an upstream of strings": ({"upstream": "a"}, TypeError, ["upstream"]),
}


def check(function, arguments, error, fragments):
    with pytest.raises(error) as caught:
        function(**{"logits": LOGITS, "targets": LABELS, **arguments})
    message = str(caught.value)
    for fragment in fragments:
        assert re.search(rf"(?<!\w){re.escape(fragment)}", message), f"{fragment!r} is not in: {message}"


@pytest.mark.parametrize("function", ["cross_entropy", "cross_entropy_and_grad"])
@pytest.mark.parametrize(("arguments", "error", "fragments"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named_with_what_was_got_and_expected(function, arguments, error, fragments):
    check(getattr(sl, function), arguments, error, fragments)


@pytest.mark.parametrize(
    ("arguments", "error", "fragments"), WRONG_FOR_THE_GRADIENT.values(), ids=WRONG_FOR_THE_GRADIENT
)
def test_wrong_arguments_of_the_gradient_are_named(arguments, error, fragments):
    check(sl.cross_entropy_and_grad, arguments, error, fragments)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize(
    ("logits", "error", "fragments"),
    [(arguments["logits"], *rest) for arguments, *rest in WRONG.values() if "logits" in arguments],
)
def test_wrong_logits_are_named_by_the_softmax_functions(function, logits, error, fragments):
    check(lambda logits, targets: getattr(sl, function)(logits), {"logits": logits}, error, fragments)  # noqa: ARG005


def test_the_position_of_a_wrong_label_counts_along_all_axes():
    labels = np.zeros((2, 3, 4), int)
    labels[1, 0, 2] = 5
    with pytest.raises(ValueError, match=re.escape("(1, 0, 2)")):
        sl.cross_entropy(np.zeros((2, 3, 4, 5)), labels)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        sl.cross_entropy(LOGITS, LABELS, np.ones(3))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, None])
def test_the_number_of_threads_is_a_positive_integer(wrong):
    before = sl.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="n must be"):
        sl.set_num_threads(wrong)
    assert sl.get_num_threads() == before
