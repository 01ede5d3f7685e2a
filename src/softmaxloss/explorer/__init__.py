"""The explorer: one page of HTML to play with softmax and its loss, without a network."""

from __future__ import annotations

import html
from importlib import resources
from pathlib import Path


def explore() -> ExplorerPage:
    """Return a page to play with softmax and its loss. A notebook shows it, and `save` writes it to a file.

    Returns
    -------
    ExplorerPage

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.explore()  # doctest: +ELLIPSIS
    <ExplorerPage of ... kB; save(path) writes it>
    """
    files = resources.files(__name__)
    text = files.joinpath("page.html").read_text("utf-8")
    for name in ("style.css", "mathematics.js", "page.js"):
        text = text.replace(f"/* {name} */", files.joinpath(name).read_text("utf-8").strip())
    return ExplorerPage(text)


class ExplorerPage:
    """The page.

    Attributes
    ----------
    html : str
        The whole page, with its style and scripts. It loads nothing else.
    """

    def __init__(self, html: str) -> None:
        self.html = html

    def save(self, path: str | Path) -> None:
        """Write the page to a file, for a browser to open."""
        Path(path).write_text(self.html, "utf-8")

    def __repr__(self) -> str:
        return f"<ExplorerPage of {len(self.html.encode()) / 1000:.0f} kB; save(path) writes it>"

    def _repr_html_(self) -> str:
        frame = 'style="width: 100%; height: 48rem; border: 0" title="Softmax with loss"'
        return f'<iframe srcdoc="{html.escape(self.html)}" {frame}></iframe>'
