"""Choose which tests run by default. Tests that take long and check the same laws on more cases are thorough.

They run with `-m thorough` only. A test may run over all combinations of some values, such as each shape with each
option. Then enough of them run by default that each value, or each pair of values, occurs. Some tests are thorough as a
whole: fuzzing, `test_combinations.py`, and tests that compile kernels of their own.
"""

from itertools import combinations, product

import pytest

# Whether `parametrize` makes thorough tests, too. conftest.py says no where they do not run: to collect 20,000 of them
# takes each worker some six seconds.
MADE = True


def thorough(*values):
    """Mark values of parameters: with them the test runs with `-m thorough` only."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def pairs(row):
    """Return all pairs of values of one row, each value with its column."""
    return set(combinations(enumerate(row), 2))


def covering(rows):
    """Choose some of the rows, which are sets, so that every member of a row is in a chosen row, too."""
    seen, chosen = set(), [False] * len(rows)
    for n_new in range(max(map(len, rows)), 0, -1):  # those that bring most come first
        for k, row in enumerate(rows):
            if len(row - seen) >= n_new:
                chosen[k] = True
                seen |= row
    return chosen


def parametrize(names, arguments, ids, default):
    """Run a test once for each tuple of arguments, by default only for some of them."""
    made = [
        pytest.param(*values, id=name, marks=() if runs else pytest.mark.thorough)
        for values, name, runs in zip(arguments, ids, default, strict=True)
        if runs or MADE
    ]
    return pytest.mark.parametrize(names, made)


def over_values(**columns):
    """Run a test over all combinations of values, and by default over enough of them to have each value.

    For each argument give a dictionary from names to values, or a list: then the values are the names, too.
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
