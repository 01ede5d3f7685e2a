"""How Sphinx builds the site: python -m sphinx -W docs site."""

import sys
from pathlib import Path
from typing import Any

from docutils.nodes import Text, literal_block

import softmaxloss

sys.path.insert(0, str(Path(__file__).parent))

project = "softmaxloss"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["*.py"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2  # so that a page can link to a section of another
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_math_renderer = "mathml"
html_theme = "furo"
html_theme_options = {
    # Pictures are dark on white. The filter swaps light and dark, and keeps hues; the blending lets black through.
    "dark_css_variables": {"picture-filter": "invert(1) hue-rotate(180deg)", "picture-blend": "screen"},
}
html_title = "softmaxloss"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_use_index = False  # the reference has every name, and no page links to an index
html_show_sphinx = False
html_show_copyright = False


def without_last_blank_line(_app: Any, page: Any) -> None:
    """Take the blank line away that doctest needs before the end of a block; readers do not."""
    for block in page.findall(literal_block):
        if block.rawsource == block.astext():  # otherwise it has parts
            block.rawsource = block.rawsource.rstrip("\n")
            block[:] = [Text(block.rawsource)]


def setup(app: Any) -> None:
    """Put the explorer beside the pages."""
    app.connect("doctree-read", without_last_blank_line)
    app.connect("build-finished", lambda app, _: softmaxloss.explore().save(Path(app.outdir) / "explorer.html"))
