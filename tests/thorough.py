"""What runs by default, and what with `-m thorough` only: what takes long and proves the same laws on more cases.

A row of a table runs by default if it has a pair of values, such as a shape and an option, that no row before it has.
Fuzzing, all combinations of options, and what compiles kernels of its own are thorough as a whole.
"""

from itertools import combinations

import pytest


def thorough(*values):
    """Mark values of parameters as some for the thorough run."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def have_a_new_pair(rows):
    """Tell of each row whether it has a pair of values that no earlier row has."""
    seen, answers = set(), []
    for row in rows:
        pairs = set(combinations(enumerate(row), 2))
        answers.append(not pairs <= seen)
        seen |= pairs
    return answers


def parametrize(names, arguments, ids, default):
    """Run a test over arguments, of which some run by default."""
    marks = [() if runs else pytest.mark.thorough for runs in default]
    parameters = zip(arguments, ids, marks, strict=True)
    return pytest.mark.parametrize(
        names, [pytest.param(*values, id=name, marks=mark) for values, name, mark in parameters]
    )
