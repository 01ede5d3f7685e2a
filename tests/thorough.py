"""What runs by default, and what with `-m thorough` only: what takes long and proves the same laws on more cases.

Of all combinations of values, such as a shape and an option, enough run by default to have each value, or each pair.
Fuzzing, all combinations of options, and what compiles kernels of its own are thorough as a whole.
"""

from itertools import combinations, product

import pytest


def thorough(*values):
    """Mark values of parameters as some for the thorough run."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def pairs(row):
    """Return the pairs of values in a row, each with its columns."""
    return set(combinations(enumerate(row), 2))


def covering(rows):
    """Choose some of the rows, given as sets, such that each member of any of them is in one of the chosen ones."""
    seen, chosen = set(), [False] * len(rows)
    for n_new in range(max(map(len, rows)), 0, -1):  # those that bring most come first
        for k, row in enumerate(rows):
            if len(row - seen) >= n_new:
                chosen[k] = True
                seen |= row
    return chosen


def parametrize(names, arguments, ids, default):
    """Run a test over arguments, of which some run by default."""
    marks = [() if runs else pytest.mark.thorough for runs in default]
    parameters = zip(arguments, ids, marks, strict=True)
    return pytest.mark.parametrize(
        names, [pytest.param(*values, id=name, marks=mark) for values, name, mark in parameters]
    )


def over_values(**columns):
    """Run a test over all combinations of values, and by default over enough of them to have each value.

    Each argument has a dictionary from names to values, or a list of values that are names.
    """
    return _over(columns, lambda row: set(enumerate(row)))


def over_pairs(**columns):
    """Run a test as `over_values` does, but by default over enough combinations to have each pair of values."""
    return _over(columns, pairs)


def _over(columns, parts):
    named = [of if isinstance(of, dict) else dict(zip(of, of, strict=True)) for of in columns.values()]
    rows = list(product(*named))
    arguments = [[of[name] for of, name in zip(named, row, strict=True)] for row in rows]
    return parametrize(
        list(columns), arguments, ["-".join(map(str, row)) for row in rows], covering([*map(parts, rows)])
    )
