"""The documentation site builds without a warning, and its pages ask for nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import softmaxloss

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["explained", "numpy", "classifier", "options", "head", "differences", "api", "accuracy", "speed", "inside"]


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"auto(?:function|class):: (\w+)", (DOCS / "api.md").read_text())
    assert sorted(listed) == sorted(softmaxloss.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("sphinx", "furo", "myst_parser", "latex2mathml"):
        pytest.importorskip(module)
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        str(out / ".trees"),
        str(DOCS),
        str(out),
    ]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return out


def test_all_pages_are_there(site):
    for page in ("index", "explorer", *PAGES):
        assert (site / f"{page}.html").stat().st_size > 2000
    assert "cross_entropy_and_grad" in (site / "api.html").read_text()
    assert "<math" in (site / "explained.html").read_text()


def test_no_page_loads_anything_from_elsewhere(site):
    loading = re.compile(
        r"<(?:script|img|iframe|source|link|object|embed)\b[^>]*?(?:src|href|data)=[\"']?(?:https?:)?//"
    )
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        assert not loading.search(text), path
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), path


def test_pictures_of_the_documentation_are_those_that_the_library_draws(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(DOCS))
    import figures

    explained = figures.softmaxloss.explain(figures.LOGITS, figures.TARGET, labels=figures.LABELS)
    explained.save(tmp_path / "graph.svg")
    words = [
        re.findall(r">([^<>\n]+)</text>", path.read_text()) for path in (DOCS / "graph.svg", tmp_path / "graph.svg")
    ]
    assert words[0] == words[1]
    assert len(words[0]) > 60
