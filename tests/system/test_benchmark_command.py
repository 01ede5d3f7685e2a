"""`python -m benchmarks` and the report of what it measured."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ml_dtypes")

from benchmarks import __main__ as command
from benchmarks import markdown, report
from benchmarks.timing import After, seconds_per_call
from benchmarks.workers import Answer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return what the command printed and wrote where JAX cannot be imported."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "jax.py").write_text("raise ModuleNotFoundError('here it is not', name='jax')")
    arguments = ["--shapes", "32x10", "8x21x256x256", "--dtypes", "float32", "--threads", "1", "--repeats", "2"]
    arguments += ["--contenders", "memory", "textbook", "SciPy", "JAX", "--json", str(folder / "results.json")]
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    return printed, json.loads((folder / "results.json").read_text())


def test_the_command_times_each_contender_in_each_round(measured):
    records = measured[1]["records"]
    times = {(r["shape"], r["task"], r["contender"]): r["seconds"] for r in records if "seconds" in r}
    everywhere = ("softmaxloss", "memory", "SciPy")
    assert {contender for *_, contender in times} == {*everywhere, "textbook"}
    assert len(times) == 2 * (2 * len(everywhere) + 1)  # the textbook's layer does not take images
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())


def test_a_library_that_is_not_installed_is_left_out_visibly(measured):
    printed, results = measured
    notes = {r["contender"]: r["note"] for r in results["records"] if "note" in r}
    assert notes == {"JAX": "jax is not installed"}
    assert "32x10: JAX: jax is not installed" in printed


def test_a_result_that_is_not_ours_is_put_in_words():
    ours = Answer(2.0, np.array([0.5, -0.25]))
    assert command.disagreement(Answer(2.0001, np.array([0.5, -0.2501])), ours, 1e-3) == ""
    assert command.disagreement(Answer(2.1, None), ours, 1e-3) == "its loss is off by 5.0e-02"
    assert command.disagreement(Answer(2.0, np.array([0.5, -0.3])), ours, 1e-3) == "its gradient is off by 1.0e-01"
    assert command.disagreement(Answer(2.0, np.full(2, np.nan)), ours, 1e-3) == "its gradient is off by nan"


def test_the_report_is_put_into_the_documents_as_often_as_wanted(measured, tmp_path, monkeypatch):
    documents = [tmp_path / "README.md", tmp_path / "docs" / "speed.md"]
    documents[1].parent.mkdir()
    for document in documents:
        document.write_text((ROOT / document.relative_to(tmp_path)).read_text())
    results = tmp_path / "results.json"
    results.write_text(json.dumps(measured[1]))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", str(results), "--write"])
    report.main()
    once = [document.read_text() for document in documents]
    report.main()
    assert [document.read_text() for document in documents] == once
    assert all("| 8x21x256x256 | " in text and text.count(markdown.END) == 1 for text in once)
    assert {path.name for path in documents[1].parent.glob("*.png")} == {"speed_time.png", "speed_copy.png"}


def test_an_operation_before_a_call_is_not_timed():
    order = []

    def before():
        order.append("before")
        time.sleep(0.005)

    assert seconds_per_call(After(before, lambda: order.append("call"))) < 0.005
    assert order == ["before", "call"] * (len(order) // 2)
    assert len(order) > 20
