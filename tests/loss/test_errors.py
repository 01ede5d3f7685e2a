"""Wrong arguments raise ValueError or TypeError that names the argument, what was got and what was expected."""

import re

import numpy as np
import pytest

import softmaxloss as sl
from calls import FUNCTIONS, LABELS, LOGITS, NOT_HERE, names_in, parameters_of
from wrong_arguments import WRONG

TABLE = [
    pytest.param(name, parameter, row, id=f"{name}, {parameter}: {label}")
    for name in FUNCTIONS
    for parameter in sorted(names_in(name))
    for label, row in WRONG[parameter].items()
    if set(row.beside) <= set(names_in(name))
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
    sl.cross_entropy(z, y, axis=1, label_smoothing=1.0)
    for option in {"axis": True}, {"label_smoothing": True}, {"label_smoothing": np.array(2.0)}, {"z_loss": "1"}:
        with pytest.raises((TypeError, ValueError), match=next(iter(option))):
            sl.cross_entropy(z, y, **{"axis": 1, "label_smoothing": 1.0} | option)
    y[1] = 3
    with pytest.raises(ValueError, match="label 3"):
        sl.cross_entropy(z, y, axis=1, label_smoothing=1.0)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        sl.cross_entropy(LOGITS, LABELS, np.ones(3))


def test_a_refused_number_of_threads_changes_nothing():
    before = sl.get_num_threads()
    with pytest.raises(ValueError, match="n must be"):
        sl.set_num_threads(0)
    assert sl.get_num_threads() == before
