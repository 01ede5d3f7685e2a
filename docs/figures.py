"""Draw the pictures of the documentation.

python docs/figures.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import softmaxloss

HERE = Path(__file__).parent
LABELS = ("cat", "dog", "bird")
LOGITS = np.array([0.3, 2.9, 4.0])
TARGET = 2
BLUE, LIGHT, GREY, ORANGE = "#0072b2", "#cfe5f3", "#b8b8b8", "#d55e00"  # told apart by colour-blind readers too


def y_minus_t() -> None:
    """Draw softmax y, target t and the gradient y - t of one example."""
    explained = softmaxloss.explain(LOGITS, TARGET, labels=LABELS)
    _, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    place = np.arange(len(LABELS))
    axes.bar(place - 0.2, explained.t, 0.34, color=GREY, label="t: the truth")
    axes.bar(place + 0.2, explained.y, 0.34, color=BLUE, label="y: the softmax of the logits")
    for x, t, y, dx in zip(place, explained.t, explained.y, explained.dx, strict=True):
        axes.annotate(
            "",
            xy=(x + 0.46, y),
            xytext=(x + 0.46, t),
            arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 2, "shrinkA": 0, "shrinkB": 0},
        )
        axes.text(x + 0.47, max(t, y) + 0.015, f"{dx:+.3f}", color=ORANGE, ha="center", va="bottom", fontweight="bold")
        axes.text(x + 0.2, y + 0.015, f"{y:.3f}", color=BLUE, ha="center", va="bottom")
    axes.plot([], [], color=ORANGE, linewidth=2, label="dx = y - t: the gradient")
    axes.set_xticks(place, [f"{label}\nlogit {z}" for label, z in zip(LABELS, LOGITS, strict=True)])
    axes.set_xlim(-0.55, len(LABELS) - 0.15)
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("probability")
    axes.set_title(f"the truth is bird: loss = -log {explained.y[TARGET]:.3f} = {explained.loss:.3f} nats")
    save(axes, "y_minus_t", legend="upper left")


def curve() -> None:
    """Draw -log y, with a better and a worse model on it."""
    _, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    y = np.linspace(0.002, 1, 500)
    axes.plot(y, -np.log(y), color=BLUE, linewidth=2)
    for label, logits, shift in (("a worse model", [2.0, 2.9, 2.5], 0.12), ("a better model", LOGITS, -0.05)):
        explained = softmaxloss.explain(logits, TARGET)
        at = explained.y[TARGET]
        axes.plot(at, explained.loss, "o", color=ORANGE, markersize=9)
        text = f"{label}: y = {at:.2f}, loss {explained.loss:.2f}"
        axes.annotate(text, (at, explained.loss), (at + shift, explained.loss + 0.9), arrowprops={"arrowstyle": "-"})
    axes.set(xlabel="probability y that the model gives to the truth", ylabel="loss in nats", xlim=(0, 1), ylim=(0, 6))
    axes.set_title("cross-entropy is -log y")
    save(axes, "loss_curve")


def descent() -> None:
    """Draw how the probabilities go to the truth when logits move against their gradient."""
    logits, steps = LOGITS[[2, 1, 0]].copy(), 30  # at first, bird has the lowest logit
    rows = []
    for _ in range(steps + 1):
        explained = softmaxloss.explain(logits, TARGET)
        rows.append([*explained.y, explained.loss])
        logits -= explained.dx
    table = np.array(rows)
    _, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for k, (label, style) in enumerate(zip(LABELS, ("-", "--", ":"), strict=True)):
        axes.plot(table[:, k], style, color=BLUE, linewidth=2, label=f"y of {label}")
    axes.plot(table[:, -1], color=ORANGE, linewidth=2, label="loss")
    axes.set(xlabel="steps of z - (y - t)", xlim=(0, steps), ylim=(0, None))
    save(axes, "descent", legend="upper right")


def monoid() -> None:
    """Draw how the summaries of three parts of a row merge."""
    _, axes = plt.subplots(figsize=(8.4, 3.5), layout="constrained")
    logits = np.array([1.0, 3.2, 0.4, 2.1, 4.0, 1.7, -0.5, 2.6, 0.9])
    for part in range(3):
        z = logits[3 * part : 3 * part + 3]
        peak, rest = z.max(), np.exp(z - z.max()).sum() - 1
        for k, value in enumerate(z):
            box(axes, 3 * part + k + 0.25 * part, 3, 0.9, f"{value:g}")
        box(axes, 3.25 * part, 1.75, 2.9, f"peak {peak:g}\nrest {rest:.3f}", color="white")
        axes.annotate("", (3.25 * part + 1.45, 2.45), (3.25 * part + 1.45, 3), arrowprops={"arrowstyle": "-|>"})
        axes.annotate("", (4.7, 0.95), (3.25 * part + 1.45, 1.75), arrowprops={"arrowstyle": "-|>"})
    peak, rest = logits.max(), np.exp(logits - logits.max()).sum() - 1
    box(axes, 3.25, 0.25, 2.9, f"peak {peak:g}\nrest {rest:.3f}")
    axes.text(6.5, 0.6, "whatever the parts are,\nthe same summary", va="center")
    axes.text(-0.15, 3.35, "logits", ha="right", va="center")
    axes.text(-0.15, 2.1, "of parts", ha="right", va="center")
    axes.text(3.1, 0.6, "of the row", ha="right", va="center")
    axes.set(xlim=(-1.4, 9.6), ylim=(0.1, 3.9))
    axes.axis("off")
    save(axes, "monoid")


def box(axes: Axes, x: float, y: float, width: float, text: str, *, color: str = LIGHT) -> None:
    """Draw a box with a text in it."""
    axes.add_patch(FancyBboxPatch((x, y), width, 0.7, boxstyle="round,pad=0,rounding_size=0.08", fc=color, ec=BLUE))
    axes.text(x + width / 2, y + 0.35, text, ha="center", va="center", fontsize=9)


def save(axes: Axes, name: str, legend: str | None = None) -> None:
    """Write a picture."""
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(loc=legend, frameon=False)
    axes.figure.savefig(HERE / f"{name}.png", dpi=120, metadata={"Software": "softmaxloss"})


if __name__ == "__main__":
    y_minus_t()
    curve()
    descent()
    monoid()
    softmaxloss.explain(LOGITS, TARGET, labels=LABELS).save(HERE / "graph.svg")
    softmaxloss.explain(LOGITS, TARGET, labels=LABELS).save(HERE / "graph.png")
