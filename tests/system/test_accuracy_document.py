"""docs/accuracy.md and the script that writes it: in step, and within what the page guarantees."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import exact
from benchmarks.markdown import END

pytest.importorskip("ml_dtypes")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "accuracy.md").read_text()
spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
accuracy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(accuracy)

FAMILIES = list(dict.fromkeys(family for family, *_ in accuracy.inputs("float64")))
WRITTEN = DOCUMENT.split(accuracy.BEGIN)[1].split(END)[0]


def tables():
    """Return title -> (columns, label -> cells)."""
    found = {}
    for title, table in re.findall(r"^### (.+)\n\n((?:\|.*\n)+)", WRITTEN, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        found[title] = (head[1:], {label: cells for label, *cells in rows})
    return found


def test_the_document_has_the_tables_of_the_script():
    assert list(tables()) == ["Everywhere", *accuracy.QUANTITIES]
    for title, (columns, rows) in tables().items():
        assert columns == (list(accuracy.QUANTITIES) if title == "Everywhere" else FAMILIES)
        assert {f"softmaxloss {dtype}" for dtype in accuracy.DTYPES} <= set(rows)


def test_the_document_shows_no_broken_guarantee():
    for title, (columns, rows) in tables().items():
        for dtype in accuracy.DTYPES:
            for column, cell in zip(columns, rows[f"softmaxloss {dtype}"], strict=True):
                quantity = column if title == "Everywhere" else title
                assert float(cell) <= accuracy.guaranteed(quantity, dtype), (title, dtype, column)
                assert "." in cell, "a word, not a number"


def test_the_document_shows_where_each_other_library_is_wrong():
    labels = tables()["Everywhere"][1]
    others = {label.rpartition(" ")[0] for label in labels} - {"softmaxloss"}
    assert len(others) == len(accuracy.LIBRARIES) - 1
    for library in others:
        assert f"**{library}**\n\n- " in WRITTEN


@pytest.mark.thorough
def test_what_the_document_guarantees_holds():
    rows = [row for dtype in accuracy.DTYPES for row in accuracy.inputs(dtype)]
    rows = [row for row in rows if len(row[-1]) <= 3000 and len(np.unique(row[-1])) <= 10]
    worst = accuracy.measure([accuracy.LIBRARIES[0]()], rows)
    assert {key[0] for key in worst} == set(accuracy.QUANTITIES)
    for (quantity, _, dtype, _), finding in worst.items():
        assert finding.severity <= (0, accuracy.guaranteed(quantity, dtype)), finding


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_error_is_what_the_oracle_of_the_tests_says(dtype, scale):
    rng = np.random.default_rng(0)
    right = exact.Exact(rng.normal(size=50), rng.normal(size=50) * 1e-20)
    got = (right.high * (1 + 3 * np.finfo(dtype).eps * rng.normal(size=50))).astype(dtype)
    finding = accuracy.worst_entry(got, right, scale, "")
    assert finding.severity == (0, exact.ulps(got, right, scale=scale))


@pytest.mark.parametrize(
    ("got", "right", "word"),
    [
        (0.0, 1e-30, "0"),
        (np.nan, 0.0, "nan"),
        (np.inf, 5.0, "inf"),
        (15.9, np.inf, "finite"),
        (-1e-7, 1e-9, "negative"),
        (1e-7, 0.0, "not 0"),
        (0.0, 1e-39, "0.0"),
        (np.inf, 1e39, "0.0"),
        (1.00001, 1.0, "84.0"),
        (1.5, 1.0, "4e6"),
    ],
)
def test_an_answer_of_another_kind_is_put_in_words(got, right, word):
    right = exact.Exact(np.float64(right), np.float64(0))
    with np.errstate(invalid="ignore"):
        assert str(accuracy.worst_entry(np.float32(got), right, None, "")) == word


def test_an_answer_that_may_cancel_is_measured_by_the_size_of_its_terms():
    right = exact.Exact(np.array([1e-9]), np.zeros(1))
    assert str(accuracy.worst_entry(np.zeros(1, np.float32), right, np.ones(1), "")) == "0.0"
