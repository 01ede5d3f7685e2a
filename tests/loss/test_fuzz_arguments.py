"""Every public function with arguments that make no sense: nothing crashes, and each error names an argument."""

import array
import datetime as dt
import decimal
import re

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import softmaxloss as sl
from calls import FUNCTIONS, names_in
from strategies import INF, NAN, fuzz
from terms import nothing_changes


class Odd:
    """An object that is no array and no number."""

    def __repr__(self):
        raise RuntimeError("not even its representation works")


JUNK = [
    None,
    True,
    False,
    0,
    1,
    -1,
    5,
    2**31,
    2**63,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e300,
    NAN,
    INF,
    -INF,
    1j,
    "",
    "mean",
    "none",
    b"sum",
    "\ud800",
    [],
    [[]],
    [1, [2]],
    [[1, 2], [3]],
    [None],
    ["a"],
    (0, 2),
    [0, 3],
    [-1, 255],
    {},
    {"a": 1},
    {1, 2},
    range(2),
    object(),
    int,
    len,
    np.random.default_rng(0),
    np.float16(2),
    np.bool_(1),
    np.datetime64("NaT", "s"),
    decimal.Decimal(1),
    dt.date(2000, 1, 1),
    array.array("d", [0, 1]),
    memoryview(b"abc"),
    slice(None),
    ...,
    np.ma.masked,
    np.ma.masked_array([0, 2], [0, 1]),
    np.ma.zeros((2, 3)),
    np.zeros((2, 3)),
    np.zeros((0, 3)),
    np.zeros(0),
    np.zeros((2, 3, 1)),
    np.array(None),
    np.array([0, 2], object),
    np.zeros(2, "f4,i4"),
    np.rec.array([(1, 2)]),
    np.zeros(2, "V3"),
    np.array([0, 7], np.uint64),
    np.full((2, 3), NAN),
    np.ones(3),
    -np.ones(3),
    np.eye(3)[:2],
    np.zeros((2, 3), np.longdouble),
    np.zeros(3, bool),
    np.ones(3, bool),
    np.zeros((1 << 12, 1)),
    np.broadcast_to(0.0, (2, 3)),
    sl.SoftmaxWithLoss(),
    Odd(),
]


@st.composite
def calls_with_junk(draw):
    """Draw a public function and arguments for it, up to three of which are anything."""
    name = draw(st.sampled_from(list(FUNCTIONS)))
    names = sorted(names_in(name).values())
    wrong = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    values = st.sampled_from(JUNK) | hnp.arrays(
        hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    )
    return name, {argument: draw(values) for argument in wrong}


@fuzz(0.2, calls_with_junk())
def test_anything_at_all_is_taken_or_refused_by_name(call):
    name, junk = call
    function, right = FUNCTIONS[name]
    arguments = {**right, **junk}
    with nothing_changes(*(value for argument, value in arguments.items() if argument != "out")):
        message = refusal(function, arguments)
    names = names_in(name)
    assert not message or re.search(rf"\b({'|'.join([*names, *names.values()])})\b", message), message


@pytest.mark.parametrize("junk", [Odd(), [Odd()], ["a"]], ids=["odd", "list of odd", "letters"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_cannot_be_shown_is_taken_or_refused_by_name(name, junk):
    function, right = FUNCTIONS[name]
    names = names_in(name)
    for argument in names.values():
        message = refusal(function, {**right, argument: junk})
        assert not message or re.search(rf"\b({'|'.join([*names, *names.values()])})\b", message), message


def refusal(function, arguments):
    """Return what a function says against its arguments, if anything; other errors are not caught."""
    try:
        function(**arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""
