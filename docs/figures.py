"""Draw the pictures of the documentation.

python docs/figures.py
"""

import re
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
ORANGE_LIGHT = "#f9ddc9"


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
    """Draw -log y, with models A and B of the text on it."""
    _, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    y = np.linspace(0.002, 1, 500)
    axes.plot(y, -np.log(y), color=BLUE, linewidth=2)
    for label, logits, shift in (("model B", [2.0, 2.9, 2.5], 0.12), ("model A", LOGITS, -0.05)):
        explained = softmaxloss.explain(logits, TARGET)
        at = explained.y[TARGET]
        axes.plot(at, explained.loss, "o", color=ORANGE, markersize=9)
        text = f"{label}: y = {at:.2f}, loss {explained.loss:.2f}"
        axes.annotate(text, (at, explained.loss), (at + shift, explained.loss + 0.9), arrowprops={"arrowstyle": "-"})
    axes.set(xlabel="probability y that the model gives to the truth", ylabel="loss in nats", xlim=(0, 1), ylim=(0, 6))
    axes.set_title("cross-entropy is -log y")
    save(axes, "loss_curve")


def descent() -> None:
    """Draw how the probabilities change when logits move against their gradient."""
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
    _, axes = plt.subplots(figsize=(8.4, 3.9), layout="constrained")
    logits, label, size = np.array([[1.0, 3.2, 0.4, 2.1, 4.0, 1.7, -0.5, 2.6, 0.9]]), 3, 3
    parts = []
    for first in range(0, logits.size, size):
        z, x = logits[:, first : first + size], 3.25 * first / size
        parts.append(softmaxloss.summarize(z, [label], first_class=first, n_classes=logits.size))
        for k in range(size):
            color = ORANGE_LIGHT if first + k == label else LIGHT
            box(axes, x + k, 3.25, 0.9, f"{z[0, k]:g}", color=color)
        box(axes, x, 1.85, 2.9, numbers_of(parts[-1]), color="white", height=0.8)
        arrow(axes, (x + 1.45, 3.25), (x + 1.45, 2.65))
        arrow(axes, (x + 1.45, 1.85), (4.7, 1.05))
    box(axes, 3.25, 0.25, 2.9, numbers_of(softmaxloss.merge(parts)), height=0.8)
    axes.text(6.5, 0.65, "However the row is cut,\nthe summary is the same.", va="center")
    for y, text in ((3.6, "logits"), (2.25, "three\nsummaries"), (0.65, "their merge")):
        axes.text(-0.15 if y > 1 else 3.1, y, text, ha="right", va="center")
    axes.text(3.7, 4.05, "the target", ha="center", va="bottom", color=ORANGE)
    axes.set(xlim=(-1.4, 9.6), ylim=(0.1, 4.4))
    axes.axis("off")
    save(axes, "monoid")


def numbers_of(summary: softmaxloss.RowSummary) -> str:
    """Return some numbers of the summary of one row as text."""
    peak, rest, target_logit, q_target = (
        values[0] for values in (summary.peak, summary.rest, summary.target_logit, summary.q_target)
    )
    return f"peak {peak:g},  rest {rest:.3f}\ntarget_logit {target_logit:g},  q_target {q_target:g}"


def torch_memory() -> None:
    """Draw the memory of loss and gradient of tensors, as the table in pytorch.md has it."""
    text = (HERE / "pytorch.md").read_text()
    (logits,) = map(int, re.findall(r"besides the logits of (\d+) MiB", text))
    beyond = {}
    for name in ("PyTorch", "torch.compile", "softmaxloss", "softmaxloss, inplace_backward"):
        beyond[name] = int(re.findall(rf"\| {name} +\| (\d+) MiB", text)[0])
    _, axes = plt.subplots(figsize=(8, 2.9), layout="constrained")
    place = np.arange(len(beyond))
    axes.barh(place, logits, 0.6, color=GREY, label="the logits")
    axes.barh(place, list(beyond.values()), 0.6, left=logits, color=BLUE, label="what loss and gradient need besides")
    for y, more in zip(place, beyond.values(), strict=True):
        axes.text(logits + more + 8, y, f"+ {more} MiB", color=BLUE, va="center", fontweight="bold")
    axes.set_yticks(place, [name.replace(", ", ",\n") for name in beyond])
    axes.set(
        xlim=(0, 1.2 * (logits + max(beyond.values()))), xlabel="MiB at the peak: 1,024 rows, 32,000 classes, float32"
    )
    axes.invert_yaxis()
    save(axes, "torch_memory", legend="lower right")


def row_travels() -> None:
    """Draw the way of a row of logits through the files, down to the algebra and back."""
    _, axes = plt.subplots(figsize=(8.4, 7.2), layout="constrained")
    whole, left, right = (0.0, 6.8), (0.0, 3.3), (3.5, 3.3)
    floors: list[list[tuple[tuple[float, float], str, str]]] = [
        [(whole, "the caller", "cross_entropy_and_grad(logits, labels)")],
        [(whole, "core/options.py", "options and targets become Rows, before any logit is read")],
        [
            (left, "core/staging.py: directly", "arrays in C order, as they lie"),
            (right, "core/staging.py: by pieces", "rows copied, converted or capped"),
        ],
        [(whole, "core/threads.py, core/rowwise.py", "each thread takes some rows; the layout says which kernel")],
        [
            (left, "kernels/by_row/", "one row after the other, block by block"),
            (right, "kernels/side_by_side/", "up to 128 rows at once, class by class"),
        ],
        [(whole, "kernels/tile.py", "the sums of up to 128 rows are finished together")],
        [(whole, "kernels/row.py", "the softmax algebra of a row: rest, cost, loss, y - t")],
    ]
    place = [1.2 * k for k in reversed(range(len(floors)))]
    for y, boxes, below in zip(place, floors, [*floors[1:], []], strict=True):
        for (x, width), name, what in boxes:
            box(axes, x, y, width, "", color="white" if boxes is floors[0] else LIGHT)
            axes.text(x + width / 2, y + 0.49, name, ha="center", va="center", fontsize=10, fontweight="bold")
            axes.text(x + width / 2, y + 0.2, what, ha="center", va="center", fontsize=9)
        for (x, width), *_ in boxes if len(boxes) > len(below) else below:
            arrow(axes, (x + width / 2, y), (x + width / 2, y - 0.5))
    for bottom, top, text in (
        (place[6], place[4], "the loss, and\nthe factors of\nthe gradient"),
        (place[4], place[2], "gradients"),
        (place[2], place[0], "losses, reduced;\ngradients, put\nwhere they belong"),
    ):
        axes.plot([6.8, 7.1, 7.1], [bottom + 0.5, bottom + 0.5, top + 0.2], color=ORANGE)
        arrow(axes, (7.1, top + 0.2), (6.8, top + 0.2), ORANGE)
        axes.text(7.25, (bottom + top) / 2 + 0.35, text, va="center", fontsize=9, color=ORANGE)
    axes.set(xlim=(-0.1, 8.8), ylim=(-0.1, place[0] + 0.8))
    axes.axis("off")
    save(axes, "row_travels")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "black") -> None:
    """Draw an arrow."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0})


def box(axes: Axes, x: float, y: float, width: float, text: str, *, color: str = LIGHT, height: float = 0.7) -> None:
    """Draw a box with a text in it."""
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=color, ec=BLUE))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


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
    row_travels()
    torch_memory()
    softmaxloss.explain(LOGITS, TARGET, labels=LABELS).save(HERE / "graph.svg")
    softmaxloss.explain(LOGITS, TARGET, labels=LABELS).save(HERE / "graph.png")
