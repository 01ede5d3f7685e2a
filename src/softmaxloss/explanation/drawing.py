"""The computational graph as a picture: values above the edges, gradients below them."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.patches import Circle, FancyArrowPatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.explanation.graph import Node
    from softmaxloss.explanation.row import Explanation

# Of the palette of Okabe and Ito, which stays distinct for colour-blind readers and in grey.
BLUE, ORANGE, GREY, PALE = "#0072b2", "#d55e00", "#555555", "#eef4f8"
MOST_CLASSES = 10  # of a picture
RADIUS = 0.22
COLUMN, ROW = 1.16, 1.08  # inches
LEFT = 1.2  # inches left of the logits, for their names and numbers
NAME_WIDTH = 1.0
FONT = "DejaVu Sans"  # Matplotlib contains it
_BELOW = {"sum", "reciprocal"}  # stages that are drawn under the rows of the classes
SYMBOLS = {
    "shift": "−max",
    "divide": "/T",
    "exp": "exp",
    "sum": "+",
    "reciprocal": "1/x",
    "times": "×",
    "log": "log",
    "times t": "×t",
    "minus": "−1×",
}


def draw(explanation: Explanation) -> Figure:
    """Return the figure. Raise ValueError if there are more than MOST_CLASSES classes."""
    n_classes = len(explanation.labels)
    if n_classes > MOST_CLASSES:
        raise ValueError(f"logits must have at most {MOST_CLASSES} classes to be drawn as a graph, got {n_classes}")
    families, _ = fonts(explanation.labels)
    with mpl.rc_context({"font.family": families, "font.size": 10, "text.parse_math": False}):
        return _Drawing(explanation).figure


def picture(explanation: Explanation, suffix: str) -> bytes:
    """Return the figure as the content of a file whose name ends in `suffix`."""
    content = io.BytesIO()
    made_by = {".svg": {"Creator": "softmaxloss", "Date": None}, ".png": {"Software": "softmaxloss"}}
    made_by[".pdf"] = {"Creator": "softmaxloss", "CreationDate": None}
    _, lacking = fonts(explanation.labels)
    if lacking and suffix != ".svg":  # a program that shows an SVG has fonts of its own
        letters = ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in lacking)
        warnings.warn(
            f"no font here has these letters of labels, so the picture has boxes in their place: {letters}; "
            "install a font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean",
            UserWarning,
            stacklevel=4,
        )
    with mpl.rc_context({"svg.hashsalt": "softmaxloss", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the message above says it in words
        draw(explanation).savefig(content, format=suffix[1:], dpi=100, metadata=made_by[suffix])
    return content.getvalue()


def fonts(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the installed fonts that labels need, and the letters that no installed font has."""
    families, lacking = [FONT], _not_in(findfont(FONT), set("".join(labels)))
    for font in fontManager.ttflist:
        if lacking and not font.name.startswith("Last Resort"):  # its letters are boxes
            left = _not_in(font.fname, lacking)
            if left != lacking:
                families.append(font.name)
            lacking = left
    return families, sorted(lacking)


def _not_in(path: str, letters: set[str]) -> set[str]:
    font = get_font(path)
    return {letter for letter in letters if not font.get_char_index(ord(letter))}


class _Drawing:
    """One figure, drawn in inches."""

    def __init__(self, explanation: Explanation) -> None:
        self._explained, graph = explanation, explanation.graph
        self._n = len(explanation.labels)
        self._place: dict[int, tuple[float, float]] = {}
        columns = self._arrange(graph.stages)
        width, height = columns * COLUMN + LEFT + 0.3, self._n * ROW + 1.6
        self.figure = Figure(figsize=(width, height))
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(-LEFT, width - LEFT), ylim=(-height + 1.0, 1.0))
        self._axes.axis("off")
        for node in graph.nodes:
            for k, source in enumerate(node.inputs):
                self._edge(source, node, source.value, node.passed[k])
        for node in graph.nodes:
            self._node(node)
        self._ends(graph.stages["logits"], graph.loss)
        self._legend(width, height)

    def _arrange(self, stages: dict[str, list[Node]]) -> float:
        """Find a place for each node; return the number of columns."""
        column, below = 0.0, -self._n * ROW + 0.1
        middle = -((self._n - 1) // 2) * ROW  # a row's height: a slightly sloping edge has no room for its numbers
        aside = max(0.68, 0.27 * self._n)  # wide enough that edges to other rows do not touch circles
        for name, nodes in stages.items():
            column += {
                "sum": aside - 1,
                "reciprocal": -0.2,
                "softmax": aside - 1,
                "sum of all": max(0.0, aside - 1) / 2,
            }.get(name, 0.0)
            for node in nodes:
                height = -node.index * ROW if node.index is not None else below if name in _BELOW else middle
                self._place[id(node)] = (column * COLUMN, height)
            column += 1
        return column

    def _edge(self, source: Node, node: Node, value: float, gradient: float) -> None:
        start, end = self._place[id(source)], self._place[id(node)]
        self._arrow(start, end)
        across, down = end[0] - start[0], end[1] - start[1]
        if down == 0:
            self._numbers((start[0] + end[0]) / 2, start[1], value, gradient)
            return
        # numbers stand beside the edge, half a row from the end that no other edge has: there is room
        apart, together = (end, start) if source.kind == "reciprocal" else (start, end)
        share = min(0.5, 0.5 * ROW / abs(together[1] - apart[1]))
        x, y = (a + share * (b - a) for a, b in zip(apart, together, strict=True))
        beside = 0.04 + 0.17 * abs(across / down)
        right = source.kind == "reciprocal"
        self._numbers(x + (beside if right else -beside), y, value, gradient, align="left" if right else "right")

    def _arrow(self, start: tuple[float, float], end: tuple[float, float], gap: float = RADIUS) -> None:
        inset = 72 * (RADIUS + 0.01), 72 * (gap + 0.01)
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "color": GREY, "linewidth": 0.8}
        self._axes.add_patch(FancyArrowPatch(start, end, shrinkA=inset[0], shrinkB=inset[1], **style))

    def _numbers(self, x: float, y: float, value: float, gradient: float, *, align: str = "center") -> None:
        self._axes.text(x, y + 0.03, written(value), color=BLUE, ha=align, va="bottom")
        self._axes.text(x, y - 0.03, written(gradient), color=ORANGE, ha=align, va="top")

    def _node(self, node: Node) -> None:
        if node.kind == "logit":
            return
        place = self._place[id(node)]
        self._axes.add_patch(Circle(place, RADIUS, facecolor=PALE, edgecolor=BLUE, linewidth=1))
        symbol = SYMBOLS[node.kind] if node.kind != "times t" or node.constant is None else f"×{_share(node.constant)}"
        self._axes.text(*place, symbol, ha="center", va="center", fontsize=8)

    def _ends(self, logits: list[Node], loss: Node) -> None:
        """Name the logits, with their gradients, and the loss."""
        for node, label in zip(logits, self._explained.labels, strict=True):
            x, height = self._place[id(node)]
            self._name(x - 0.1, height + 0.16, label)
            self._axes.text(
                x - 0.1, height, f"z = {node.value:.4g}".replace("-", "−"), ha="right", va="center", color=BLUE
            )
            self._axes.text(
                x - 0.1, height - 0.16, f"dz = {written(node.gradient)}", ha="right", va="center", color=ORANGE
            )
        x, height = self._place[id(loss)]
        self._arrow((x, height), (x + 0.9, height), gap=0)
        self._numbers(x + 0.55, height, loss.value, loss.gradient)
        self._axes.text(x + 0.94, height, "loss", ha="left", va="center", fontweight="bold")

    def _name(self, x: float, y: float, label: str) -> None:
        """Write the label, cut off if it does not fit."""
        name = self._axes.text(x, y, label[:40], ha="right", va="center", fontweight="bold")
        end = len(label)
        while name.get_window_extent().width > NAME_WIDTH * self.figure.dpi:
            end = min(end, 40) - 1
            name.set_text(f"{label[:end]}…")

    def _legend(self, width: float, height: float) -> None:
        over = self._explained.temperature != 1.0
        left, right = 0.1 - LEFT, width - LEFT - 0.15
        title = "Softmax with loss, step by step: forward, then back"
        self._axes.text(left, 0.7, title, fontsize=11, fontweight="bold", va="center")
        for y, words, color in (
            (0.7, "value, computed from left to right", BLUE),
            (0.5, "how the loss changes with it, from right to left", ORANGE),
        ):
            self._axes.text(right, y, words, color=color, ha="right", va="center")
        rows = zip(self._explained.y, self._explained.t, self._explained.dx, strict=True)
        difference = "({} − {}) / T" if over else "{} − {}"
        results = [f"{difference.format(written(y), f'{t:.3g}')} = {written(dx)}" for y, t, dx in rows]
        text = f"What arrives at the logits is {difference.format('y', 't')}"
        text += f":  {',  '.join(results)}" if self._n <= 4 else ""
        self._axes.text(left, -height + 1.1, text, va="center", color=GREY)


def _share(t: float) -> str:
    """Return a number from 0 to 1 with few enough characters for a circle."""
    if t in {0.0, 1.0}:
        return f"{t:.0f}"
    return f"{t:.2f}" if t >= 0.005 else f"{t:.0e}".replace("e-0", "e−")


def written(value: float) -> str:
    """Return a number with three digits after the point, or fewer if it is large."""
    if abs(value) >= 1e4 or 0 < abs(value) < 5e-4:
        text = re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.1e}")
    else:
        text = f"{value + 0.0:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return ("0.000" if text == "-0.000" else text).replace("-", "−")
