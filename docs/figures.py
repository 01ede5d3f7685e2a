"""Draw the pictures of the documentation.

python docs/figures.py
"""

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import softmaxloss

HERE = Path(__file__).parent
LABELS = ("cat", "dog", "bird")
LOGITS = np.array([0.3, 2.9, 4.0])
TARGET = 2
BLUE, LIGHT, GREY, ORANGE = "#0072b2", "#cfe5f3", "#b8b8b8", "#d55e00"  # told apart by colour-blind readers too
ORANGE_LIGHT = "#f9ddc9"
STYLE = {"font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titlepad": 10}
STYLE |= {f"figure.constrained_layout.{side}_pad": 0.1 for side in "hw"}


def y_minus_t() -> Figure:
    """Draw softmax y, target t and the gradient y - t of one example."""
    explained = softmaxloss.explain(LOGITS, TARGET, labels=LABELS)
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    place = np.arange(len(LABELS))
    axes.bar(place - 0.25, explained.t, 0.28, color=GREY, label="t: the truth")
    axes.bar(place + 0.07, explained.y, 0.28, color=BLUE, label="y: the softmax of the logits")
    for x, t, y, dx in zip(place, explained.t, explained.y, explained.dx, strict=True):
        up = 1 if y > t else -1
        head = min(0.05, abs(y - t))  # as long as a head may be, so that none reaches beyond t
        axes.plot([x + 0.34, x + 0.34], [t, y - up * head], color=ORANGE, linewidth=2, solid_capstyle="butt")
        axes.fill([x + 0.31, x + 0.37, x + 0.34], [y - up * head, y - up * head, y], color=ORANGE, linewidth=0)
        axes.text(x + 0.37, max(t, y) + 0.02, written(dx, "+"), color=ORANGE, ha="center", fontweight="bold")
        axes.text(x + 0.07, y + 0.02, written(y), color=BLUE, ha="center")
        axes.text(x - 0.25, t + 0.02, f"{t:g}", color="#666666", ha="center")
    axes.plot([], [], color=ORANGE, linewidth=2, label="y − t: the gradient")
    axes.set_xticks(place, [f"{label}\nlogit {z}" for label, z in zip(LABELS, LOGITS, strict=True)])
    axes.set(xlim=(-0.6, len(LABELS) - 0.4), ylim=(0, 1.12), ylabel="probability")
    axes.set_title("The gradient of each logit leads from the truth to the probability")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1][:2] + handles[:1], labels[::-1][:2] + labels[:1], loc="upper left", frameon=False)
    return figure


def loss_curve() -> Figure:
    """Draw -log y, with models A and B of the text on it."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    y = np.linspace(0.002, 1, 500)
    axes.plot(y, -np.log(y), color=BLUE, linewidth=2)
    axes.text(0.06, 3.5, "loss = −log y", color=BLUE)
    for label, logits, shift in (("model B", [2.0, 2.9, 2.5], 0.06), ("model A", LOGITS, -0.12)):
        explained = softmaxloss.explain(logits, TARGET)
        at = explained.y[TARGET]
        axes.plot(at, explained.loss, "o", color=ORANGE, markersize=9)
        text = f"{label}: y = {at:.2f}, loss {explained.loss:.2f}"
        axes.annotate(text, (at, explained.loss), (at + shift, explained.loss + 0.9), arrowprops={"arrowstyle": "-"})
    axes.set(xlabel="probability y of the true class", ylabel="loss in nats", xlim=(0, 1), ylim=(0, 6))
    axes.set_title("The less probable the true class, the higher the loss")
    return figure


def descent() -> Figure:
    """Draw how the loss and the probabilities change when logits move against their gradient."""
    logits, steps = LOGITS[[2, 1, 0]].copy(), 30  # at first, bird has the lowest logit
    rows, losses = [], []
    for _ in range(steps + 1):
        explained = softmaxloss.explain(logits, TARGET)
        rows.append(explained.y)
        losses.append(explained.loss)
        logits -= explained.dx
    figure, (upper, lower) = plt.subplots(2, figsize=(7, 5.2), layout="constrained", sharex=True)
    upper.plot(losses, color=ORANGE, linewidth=2)
    upper.set(ylabel="loss in nats", ylim=(0, None), title="Each step against the gradient lowers the loss")
    styles = (("--", BLUE), (":", BLUE), ("-", BLUE))
    for k, (label, (style, color)) in enumerate(zip(LABELS, styles, strict=True)):
        truth = ", the truth" if k == TARGET else ""
        lower.plot(np.array(rows)[:, k], style, color=color, linewidth=2, label=f"{label}{truth}")
    lower.legend(loc="center right", frameon=False)
    lower.set(xlabel="steps: each logit z becomes z − (y − t)", xlim=(0, steps), ylim=(0, 1.02))
    lower.set(ylabel="probability y", title="In the end the truth gets nearly all of the probability")
    return figure


def monoid() -> Figure:
    """Draw how the summaries of three parts of a row merge."""
    figure, axes = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
    logits, label, size = np.array([[1.0, 3.2, 0.4, 2.1, 4.0, 1.7, -0.5, 2.6, 0.9]]), 3, 3
    parts = []
    for first in range(0, logits.size, size):
        z, x = logits[:, first : first + size], 3.25 * first / size
        parts.append(softmaxloss.summarize(z, [label], first_class=first, n_classes=logits.size))
        for k in range(size):
            color = ORANGE_LIGHT if first + k == label else LIGHT
            box(axes, x + k, 3.25, 0.9, f"{z[0, k]:g}".replace("-", "−"), color=color)
        box(axes, x, 1.85, 2.9, numbers_of(parts[-1]), color="white", height=0.8)
        arrow(axes, (x + 1.45, 3.25), (x + 1.45, 2.65))
        arrow(axes, (x + 1.45, 1.85), (4.7, 1.05))
    box(axes, 3.25, 0.25, 2.9, numbers_of(softmaxloss.merge(parts)), height=0.8)
    for y, text in ((3.6, "logits"), (2.25, "three\nsummaries"), (0.65, "their merge")):
        axes.text(-0.15 if y > 1 else 3.1, y, text, ha="right", va="center")
    axes.text(3.7, 4.05, "the target", ha="center", va="bottom", color=ORANGE)
    axes.set(xlim=(-1.6, 9.6), ylim=(0.1, 4.4))
    axes.set_title("However a row is cut, its parts merge into the same summary")
    axes.axis("off")
    return figure


def numbers_of(summary: softmaxloss.RowSummary) -> str:
    """Return some numbers of the summary of one row as text."""
    peak, rest, target_logit, q_target = (
        values[0] for values in (summary.peak, summary.rest, summary.target_logit, summary.q_target)
    )
    return f"peak {peak:g},  rest {rest:.3f}\ntarget_logit {target_logit:g},  q_target {q_target:g}"


def torch_memory() -> Figure:
    """Draw the memory of loss and gradient of tensors, as the table in pytorch.md has it."""
    text = (HERE / "pytorch.md").read_text()
    (logits,) = map(int, re.findall(r"besides the logits of (\d+) MiB", text))
    beyond = {}
    for name in ("PyTorch", "torch.compile", "softmaxloss", "softmaxloss, inplace_backward"):
        beyond[name] = int(re.findall(rf"\| {name} +\| (\d+) MiB", text)[0])
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    place = np.arange(len(beyond))
    axes.barh(place, logits, 0.6, color=GREY, label="the logits")
    axes.barh(place, list(beyond.values()), 0.6, left=logits, color=BLUE, label="loss and gradient")
    for y, more in zip(place, beyond.values(), strict=True):
        axes.text(logits + more + 8, y, f"+ {more} MiB", color=BLUE, va="center", fontweight="bold")
    axes.set_yticks(place, [name.replace(", ", ",\n") for name in beyond])
    axes.set(
        xlim=(0, 1.25 * (logits + max(beyond.values()))),
        xlabel="MiB at the peak, for 1,024 rows and 32,000 classes in float32",
    )
    axes.invert_yaxis()
    axes.legend(loc="lower right", frameon=False)
    axes.set_title("Memory of the logits, and what loss and gradient add to it")
    return figure


def row_travels() -> Figure:
    """Draw the way of a row of logits through the files, down to the algebra and back."""
    figure, axes = plt.subplots(figsize=(8.4, 7.6), layout="constrained")
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
        [(whole, "kernels/row.py", "the softmax algebra of a row: rest, cost, loss, y − t")],
    ]
    place = [1.2 * k for k in reversed(range(len(floors)))]
    for y, boxes, below in zip(place, floors, [*floors[1:], []], strict=True):
        for (x, width), name, what in boxes:
            box(axes, x, y, width, "", color="white" if boxes is floors[0] else LIGHT)
            axes.text(x + width / 2, y + 0.5, name, ha="center", va="center", fontsize=11, fontweight="bold")
            axes.text(x + width / 2, y + 0.2, what, ha="center", va="center", fontsize=10)
        for (x, width), *_ in boxes if len(boxes) > len(below) else below:
            arrow(axes, (x + width / 2, y), (x + width / 2, y - 0.5))
    for bottom, top, text in (
        (place[6], place[4], "the loss, and\nthe factors of\nthe gradient"),
        (place[4], place[2], "gradients"),
        (place[2], place[0], "losses, reduced;\ngradients, put\nwhere they belong"),
    ):
        axes.plot([6.8, 7.1, 7.1], [bottom + 0.5, bottom + 0.5, top + 0.2], color=ORANGE)
        arrow(axes, (7.1, top + 0.2), (6.8, top + 0.2), ORANGE)
        axes.text(7.25, (bottom + top) / 2 + 0.35, text, va="center", fontsize=10, color=ORANGE)
    axes.set(xlim=(-0.1, 8.8), ylim=(-0.1, place[0] + 0.8))
    axes.set_title("From the call down to the algebra of a row, and back")
    axes.axis("off")
    return figure


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "black") -> None:
    """Draw an arrow."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0})


def box(axes: Axes, x: float, y: float, width: float, text: str, *, color: str = LIGHT, height: float = 0.7) -> None:
    """Draw a box with a text in it."""
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=color, ec=BLUE))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def written(value: float, sign: str = "-") -> str:
    """Return a number with three digits after the point."""
    return f"{value:{sign}.3f}".replace("-", "−")


FIGURES = (y_minus_t, loss_curve, descent, monoid, row_travels, torch_memory)


def draw(figure: Callable[[], Figure]) -> Figure:
    """Draw one of them in the style of all."""
    with plt.rc_context({**STYLE, "axes.spines.top": False, "axes.spines.right": False}):
        return figure()


if __name__ == "__main__":
    for figure in FIGURES:
        draw(figure).savefig(HERE / f"{figure.__name__}.png", dpi=120, metadata={"Software": "softmaxloss"})
    for suffix in ("svg", "png"):
        softmaxloss.explain(LOGITS, TARGET, labels=LABELS).save(HERE / f"graph.{suffix}")
