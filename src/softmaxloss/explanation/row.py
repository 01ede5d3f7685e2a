"""The numbers of one row from logits to gradient, and how they are shown."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np

from softmaxloss.core import checks
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import describe
from softmaxloss.explanation.graph import Graph
from softmaxloss.functional import cross_entropy_and_grad, softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    Float64s = NDArray[np.float64]

COLUMNS = ("logit", "shifted", "exp", "y", "t", "-t log y", "dx = y - t")
PICTURES = (".svg", ".png", ".pdf")
TEXTS = (".md", ".txt")
# A table of more classes than this shows the most probable classes, and those of the target.
MOST_CLASSES = 12
# Down to this x, 1 / exp(x) and its square are finite.
_LOWEST = -350.0


def explain(
    logits: ArrayLike,
    target: ArrayLike | str,
    *,
    labels: Sequence[str] | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
) -> Explanation:
    """Return every step of softmax with loss for one row, forward and backward.

    Parameters
    ----------
    logits : array_like of float, shape (V,)
        Finite numbers.
    target : int or str, or array_like of float, shape (V,)
        The right class, as a number or a label. Or the true probability of each class.
    labels : sequence of str, length V, optional
        The names of the classes; by default their numbers.
    label_smoothing, temperature : float
        As in `cross_entropy`.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if logits are not one row of finite numbers, or labels are not one per class.

    Examples
    --------
    >>> import softmaxloss
    >>> print(softmaxloss.explain([0.3, 2.9, 4.0], "bird", labels=["cat", "dog", "bird"]))
          logit  shifted    exp      y  t  -t log y  dx = y - t
    cat     0.3     -3.7  0.025  0.018  0         0       0.018
    dog     2.9     -1.1  0.333  0.245  0         0       0.245
    bird    4.0      0.0      1  0.737  1     0.306      -0.263
    sum                   1.358      1  1     0.306           0
    <BLANKLINE>
    loss = -sum(t log y) = 0.306 nats
    """
    return Explanation(logits, target, labels=labels, label_smoothing=label_smoothing, temperature=temperature)


class Explanation:
    """One row of logits, explained; made by `explain`.

    Attributes
    ----------
    labels : list of str, length V
    logits, shifted, exponentials, y, t, terms, dx : float64 arrays, shape (V,)
        shifted is ``(logits - max(logits)) / temperature``. exponentials are ``exp(shifted)``. y is the softmax, t the
        smoothed target. terms are ``-t * log(y)``. dx is the gradient of the loss with respect to the logits,
        ``(y - t) / temperature``.
    loss : float
    temperature : float
    graph : Graph
        The steps as nodes, each with its value and the gradient that backpropagation gives it.
    """

    def __init__(
        self,
        logits: ArrayLike,
        target: ArrayLike | str,
        *,
        labels: Sequence[str] | None = None,
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        z = checks.logits(logits).astype(np.float64)
        if z.ndim != 1 or not z.size:
            raise ValueError(f"logits must be one row, shape (classes,), got shape {z.shape}")
        if not np.isfinite(z).all():
            raise ValueError(f"logits must be finite to be explained, got {z[~np.isfinite(z)][0]}")
        self.logits, n_classes = z, len(z)
        self.labels = [str(j) for j in range(n_classes)] if labels is None else [_printable(label) for label in labels]
        if len(self.labels) != n_classes:
            raise ValueError(f"labels must be one per class, {n_classes}, got {len(self.labels)}")
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "temperature": temperature}
        wanted = _distribution(target, self.labels)
        loss, self.dx = cross_entropy_and_grad(z, wanted, **options)
        self.loss, self.temperature = float(loss), float(temperature)
        self.y: Float64s = softmax(z, temperature=temperature)
        rows, _ = describe(wanted, layout_of(z.shape), label_smoothing=label_smoothing)
        self.t: Float64s = rows.keep * wanted + rows.floor
        with np.errstate(all="ignore"):  # a gap beyond the largest number is inf, and its exponential 0
            self.shifted: Float64s = (z - z.max()) / self.temperature
            self.exponentials: Float64s = np.exp(self.shifted)
            log_y = self.shifted - np.log(self.exponentials.sum())
            self.terms: Float64s = -np.multiply(self.t, log_y, where=self.t > 0, out=np.zeros(n_classes)) + 0.0

    @cached_property
    def graph(self) -> Graph:
        """The steps as nodes. Reading it raises ValueError if a step is beyond the range of numbers."""
        lowest = self.shifted[self.t > 0].min()
        if lowest < _LOWEST:
            label = self.labels[int(np.argmin(np.where(self.t > 0, self.shifted, np.inf)))]
            raise ValueError(
                f"logits must not be so far apart for a graph: y of {label}, which is wanted, is exp({lowest:.0f}), "
                "and 1 / y is no number; that is why the layer computes y - t at once"
            )
        return Graph(self.logits.tolist(), self.t.tolist(), self.temperature)

    @property
    def shown(self) -> NDArray[np.intp]:
        """The classes that a table shows: all, or the most probable ones and those with the highest t."""
        if len(self.y) <= MOST_CLASSES:
            return np.arange(len(self.y))
        # first up to three classes with a higher t than smoothing gives to all, then the most probable
        first = np.lexsort((-self.y, -self.t * (self.t > self.t.min())))[:3]
        others = [j for j in np.argsort(-self.y, kind="stable") if j not in first]
        return np.sort([*first, *others[: MOST_CLASSES - 3]])

    def table(self, digits: int = 3) -> str:
        """Return the numbers as text: a line for each class, numbers with `digits` digits after the point."""
        cells = self._cells(digits)
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([name + " " * (widths[0] - _width(name)), *map(str.rjust, rest, widths[1:])]).rstrip()
            for name, *rest in cells
        ]
        return "\n".join([*lines, "", self.summary(digits)])

    def markdown(self, digits: int = 3) -> str:
        """Return the numbers as a table in Markdown."""
        head, *rows = self._cells(digits)
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        escaped = [[html.escape(cell, quote=False).replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + f"\n\n{self.summary(digits)}\n"

    def summary(self, digits: int = 3) -> str:
        """Return one line about the loss."""
        at = "" if self.temperature == 1.0 else f"; dx = (y - t) / T with T = {self.temperature:g}"
        return f"loss = -sum(t log y) = {_number(self.loss, digits)} nats{at}"

    def plot(self) -> Figure:
        """Return the computational graph as a matplotlib figure: values above the edges, gradients below."""
        from softmaxloss.explanation.drawing import draw  # noqa: PLC0415 - loads matplotlib

        return draw(self)

    def save(self, path: str | Path) -> None:
        """Write the graph (.svg, .png or .pdf) or the table (.md or .txt). The end of the name decides which."""
        path = Path(path)
        path.write_bytes(self.content(path.suffix.lower()))

    def content(self, suffix: str) -> bytes:
        """Return the content of a file whose name ends in `suffix`."""
        if suffix in PICTURES:
            from softmaxloss.explanation.drawing import picture  # noqa: PLC0415 - loads matplotlib

            return picture(self, suffix)
        if suffix not in TEXTS:
            raise ValueError(f"the file must end in one of {', '.join(PICTURES + TEXTS)}, got {suffix!r}")
        return (self.markdown() if suffix == ".md" else self.table() + "\n").encode()

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.y)} classes, loss {self.loss:.3f}>"

    def _repr_html_(self) -> str:
        head, *rows = self._cells(3)
        lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
        lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{body}</table><p>{html.escape(self.summary())}</p>"

    def _cells(self, digits: int) -> list[list[str]]:
        checks.count("digits", digits)
        columns = (self.logits, self.shifted, self.exponentials, self.y, self.t, self.terms, self.dx)
        shown = self.shown
        written = [_column(values[shown], digits, exact=k < 2) for k, values in enumerate(columns)]
        names = [_short(self.labels[j]) for j in shown]
        sums = [_number(float(values.sum()), digits) for values in columns[2:]]
        rows = [[name, *cells] for name, *cells in zip(names, *written, strict=True)]
        if len(shown) < len(self.y):
            rest = np.setdiff1d(np.arange(len(self.y)), shown)
            others = [_number(float(values[rest].sum()), digits) for values in columns[2:]]
            rows.append([f"{len(rest)} others", "", "", *others])
        over = "/T" if self.temperature != 1.0 else ""
        head = ["", *COLUMNS[:-1], f"dx = (y - t){over}" if over else COLUMNS[-1]]
        return [head, *rows, ["sum", "", "", *sums]]


def _distribution(target: ArrayLike | str, labels: list[str]) -> Float64s:
    """Return the true probability of each class, given a class as label or number, or a distribution."""
    n_classes = len(labels)
    if isinstance(target, str):
        name = _printable(target)
        if labels.count(name) != 1:
            known = ", ".join(labels[:MOST_CLASSES]) + (", ..." if n_classes > MOST_CLASSES else "")
            fault = "is the label of several classes" if name in labels else "is no label"
            raise ValueError(f"target must be the label of one class, but {name} {fault}; labels are {known}")
        target = labels.index(name)
    given = checks.as_array("target", target)
    if given.ndim == 0 and given.dtype.kind in "iu":
        if not 0 <= given < n_classes:
            raise ValueError(f"target must be a class from 0 to {n_classes - 1}, got {given}")
        return np.eye(n_classes)[given]
    if given.dtype.kind not in "biu" and not checks.is_real(given.dtype):
        raise TypeError(f"target must be a class or one probability per class, got dtype {given.dtype}")
    if given.shape != (n_classes,):
        got = f"shape {given.shape}" if given.ndim else f"{given} of dtype {given.dtype}"
        raise ValueError(f"target must be a class or one probability per class, shape ({n_classes},), got {got}")
    wrong = ~(np.isfinite(given) & (given >= 0))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(f"target must be finite and not negative, got {given[place]} at position {place}")
    wanted = given.astype(np.float64)
    if abs(wanted.sum() - 1) > 1e-6:
        raise ValueError(f"target must sum to 1 to be explained, got a sum of {wanted.sum():.6g}")
    return wanted


def _column(values: Float64s, digits: int, *, exact: bool) -> list[str]:
    """Write numbers with `digits` digits after the point; those of the caller (`exact`) with no more than they need."""
    if not exact:
        return [_number(float(v), digits) for v in values]
    if any(abs(v) >= 1e6 or 0 < abs(v) < 0.5 * 10**-digits for v in values):
        return [f"{v:.{digits + 1}g}" for v in values + 0.0]
    needed = max((len(f"{v:.{digits}f}".rstrip("0").partition(".")[2]) for v in values), default=0)
    return [f"{v:.{needed}f}" for v in values + 0.0]


def _number(value: float, digits: int) -> str:
    """Write a number: exact 0 and 1 without digits after the point, and a number that rounds to 0 as a power of ten."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if abs(value) < 0.5 * 10**-digits:
        return f"{value:.0e}" if abs(value) > 1e-15 else f"{0:.{digits}f}"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.{digits + 1}g}"


def _printable(label: object) -> str:
    """Return a label on one line, without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(label)).split()) or "(blank)"


def _width(text: str) -> int:
    """Return the width of a text on a terminal: two columns for letters such as Chinese ones, one for others."""
    return sum(1 + (east_asian_width(c) in "WF") for c in text)


def _short(label: str, limit: int = 14) -> str:
    return label if len(label) <= limit else f"{label[: limit - 1]}…"
