"""A Sphinx extension: formulas as MathML, which browsers draw by themselves, without a script from somewhere."""

import re
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert


def _converted(formula: str, display: str) -> str:
    """Return the MathML, with the space that browsers leave out between log and an argument without parentheses."""
    return re.sub(r"(<mi>log</mi>)(?!<mo)", r'\1<mspace width="0.17em"/>', convert(formula, display=display))


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(_converted(node.astext(), "inline"))
    raise SkipNode


def _block(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="math">{_converted(node.astext(), "block")}</div>')
    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
