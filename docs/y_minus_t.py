"""Draw docs/y_minus_t.png: softmax y, target t and the gradient y - t of one example.

python docs/y_minus_t.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from softmaxloss import SoftmaxWithLoss

LABELS = ("cat", "dog", "bird")
LOGITS = np.array([[0.3, 2.9, 4.0]])
TARGET = np.array([2])
BLUE, GREY, ORANGE = "#0072b2", "#b8b8b8", "#d55e00"  # told apart by colour-blind readers too


def main() -> None:
    """Draw the picture."""
    layer = SoftmaxWithLoss()
    loss = layer.forward(LOGITS, TARGET)
    (gradient,) = layer.backward()
    (probabilities,) = layer.y
    targets = np.eye(len(LABELS))[TARGET[0]]

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    place = np.arange(len(LABELS))
    axes.bar(place - 0.2, targets, 0.34, color=GREY, label="t: the truth")
    axes.bar(place + 0.2, probabilities, 0.34, color=BLUE, label="y: the softmax of the logits")
    for x, t, y, dx in zip(place, targets, probabilities, gradient, strict=True):
        axes.annotate(
            "",
            xy=(x + 0.46, y),
            xytext=(x + 0.46, t),
            arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 2, "shrinkA": 0, "shrinkB": 0},
        )
        axes.text(x + 0.47, max(t, y) + 0.015, f"{dx:+.3f}", color=ORANGE, ha="center", va="bottom", fontweight="bold")
        axes.text(x + 0.2, y + 0.015, f"{y:.3f}", color=BLUE, ha="center", va="bottom")
    axes.plot([], [], color=ORANGE, linewidth=2, label="dx = y - t: the gradient")
    axes.set_xticks(place, [f"{label}\nlogit {z}" for label, z in zip(LABELS, LOGITS[0], strict=True)])
    axes.set_xlim(-0.55, len(LABELS) - 0.15)
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("probability")
    axes.set_title(f"the truth is bird: loss = -log {probabilities[TARGET[0]]:.3f} = {loss:.3f} nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
