"""The documentation site builds without a warning, and its pages ask for nothing from elsewhere."""

import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from pictured import assert_no_text_is_covered, assert_no_text_is_cut
from softmaxloss.cli import main
from thorough import thorough

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    "explained",
    "tables",
    "numpy",
    "pytorch",
    "jax",
    "language_models",
    "classifier",
    "large",
    "boosting",
    "options",
    "head",
    "recipes",
    "differences",
    "api",
    "accuracy",
    "speed",
    "inside",
]


MODULES = [
    "softmaxloss",
    "softmaxloss.boosting",
    "softmaxloss.dask",
    "softmaxloss.jax",
    "softmaxloss.onnx",
    "softmaxloss.torch",
    "softmaxloss.torch.distributed",
]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    public = pytest.importorskip(module).__all__
    _, *sections = re.split(r"currentmodule:: (\S+)", (DOCS / "api.md").read_text())
    text = dict(zip(sections[::2], sections[1::2], strict=True))[module]
    listed = re.findall(r"auto(?:function|class):: (\w+)", text)
    assert sorted(listed) == sorted(public)


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
    assert not any("\n\n</pre>" in path.read_text() for path in site.glob("*.html"))  # a blank line below a doctest


def test_no_page_loads_anything_from_elsewhere(site):
    loading = re.compile(
        r"<(?:script|img|iframe|source|link|object|embed)\b[^>]*?(?:src|href|data)=[\"']?(?:https?:)?//"
    )
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        assert not loading.search(text), path
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), path


@pytest.fixture(scope="module")
def visited(site, browser):
    """All pages; they have asked for nothing but files of the site, and said nothing on the console."""
    context = browser.new_context()
    pages, messages = {}, []
    context.on("request", lambda request: messages.append(request.url))
    context.on("console", lambda message: messages.append(message.text))
    context.on("weberror", lambda error: messages.append(str(error.error)))
    for path in site.glob("*.html"):
        pages[path.stem] = context.new_page()
        pages[path.stem].goto(path.as_uri())
    yield pages
    context.close()
    assert [message for message in messages if not message.startswith((site.as_uri(), "data:"))] == []


OTHER_WIDTHS = (414, 768, 1024, 1200, 1280, 1312, 1366, 1920)


@pytest.mark.parametrize("width", [360, 1100, 1440, *map(thorough, OTHER_WIDTHS)])
def test_no_page_is_wider_than_the_window(visited, width):
    wider = {}
    for name, page in visited.items():
        page.set_viewport_size({"width": width, "height": 900})
        wider[name] = page.evaluate(
            """Math.max(...[...document.querySelectorAll('html, body, .content')]
                .map((place) => place.scrollWidth - place.clientWidth))"""
        )
    assert not {name: more for name, more in wider.items() if more > 0}


@pytest.mark.parametrize("scheme", [thorough("light"), "dark"])
@pytest.mark.parametrize("name", [thorough("index"), "explained", thorough("inside")])
def test_pictures_have_the_colour_of_the_page_around_them(visited, scheme, name):
    page = visited[name]
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 1440, "height": 900})
    pictures = page.locator(".content img")
    assert pictures.count()
    whole = matplotlib.image.imread(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))[..., :3]
    for picture in pictures.all():
        box = {name: round(size) for name, size in picture.bounding_box().items()}
        image = whole[box["y"] - 6 : box["y"] + box["height"] + 6, box["x"] - 6 : box["x"] + box["width"] + 6]
        outside, inside = image[2, 2], np.median(image[8:-8, 8:-8], axis=(0, 1))
        np.testing.assert_allclose(inside, outside, atol=0.02)
        strongest = np.abs(image - outside).max()
        assert strongest > 0.5  # what is drawn can be seen


@pytest.mark.parametrize("width", [360, 1440])
def test_letters_of_pictures_can_be_read_on_a_phone_and_at_a_desk(visited, width):
    """A picture scrolls where it would be too small; its letters are 15 pixels high, or 13 in the graph."""
    for name in ("explained", "inside", "pytorch", "language_models"):
        page = visited[name]
        page.set_viewport_size({"width": width, "height": 900})
        scales = page.eval_on_selector_all(
            ".content img", "all => all.map((image) => [image.src, image.width / image.naturalWidth])"
        )
        assert scales
        assert all(scale * (13 if source.endswith(".svg") else 15) > 7 for source, scale in scales), scales


def test_the_command_in_the_readme_draws_the_picture_above_it(monkeypatch, tmp_path):
    readme = (DOCS.parent / "README.md").read_text()
    picture, command = re.search(
        r"\]\((docs/graph\.png)\).*?^ +softmaxloss (explain .*?)$", readme, re.DOTALL | re.MULTILINE
    ).groups()
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 0
    (drawn,) = tmp_path.iterdir()
    np.testing.assert_allclose(*map(matplotlib.image.imread, (drawn, DOCS.parent / picture)), atol=0.02)


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import figures
    return figures


@pytest.mark.parametrize("name", ["y_minus_t", "loss_curve", "descent", "monoid", "row_travels", "torch_memory"])
def test_pictures_of_the_documentation_are_titled_and_no_text_is_cut_or_covered(figures, name):
    assert [figure.__name__ for figure in figures.FIGURES].count(name) == 1
    figure = figures.draw(getattr(figures, name))
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    assert_no_text_is_cut(figure)
    assert_no_text_is_covered(figure)
    figures.plt.close(figure)


def test_pictures_of_the_documentation_are_those_that_the_library_draws(figures, tmp_path):
    explained = figures.softmaxloss.explain(figures.LOGITS, figures.TARGET, labels=figures.LABELS)
    explained.save(tmp_path / "graph.svg")
    words = [
        re.findall(r">([^<>\n]+)</text>", path.read_text()) for path in (DOCS / "graph.svg", tmp_path / "graph.svg")
    ]
    assert words[0] == words[1]
    assert len(words[0]) > 60
