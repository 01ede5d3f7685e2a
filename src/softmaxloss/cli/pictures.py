"""The pictures of a training run, each as the bytes of a PNG file."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from softmaxloss.cli.metrics import BINS, Scores, calibration, calibration_error

# Of the palette of Okabe and Ito, which stays distinct for colour-blind readers and in grey.
BLUE, LIGHT_BLUE, ORANGE, GREY = "#0072b2", "#a9d3ea", "#d55e00", "#666666"
MARKED: dict[str, Any] = {"color": BLUE, "marker": ".", "markersize": 4}
MOST_CLASSES = 64
"""A confusion matrix of more classes shows those with the most mistakes, and the others together."""
LABEL_WIDTH, LABEL_LINES = 28, 3
CJK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)
"""Matplotlib's own font has no Chinese, Japanese or Korean letters; where one of these is installed, it helps out."""


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "font.family": ["DejaVu Sans", *(font for font in CJK_FONTS if font in get_font_names())],
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "text.parse_math": False,  # a class may be called $5
        }
    )


def learning_curve(loss_curve: Sequence[float], losses: Mapping[str, float], test_curve: Sequence[float]) -> bytes:
    """Draw the objective and the test loss against the iterations, and the objective minus its final value."""
    curve = np.asarray(loss_curve)
    excess = curve - curve[-1]
    with _style():
        figure = Figure(figsize=(7, 7), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        objective = "objective: loss on the train part + penalty on large weights"
        upper.plot(curve, **MARKED, label=f"{objective}, in the end {curve[-1]:.4f}")
        for (part, loss), color in zip(losses.items(), (BLUE, ORANGE), strict=False):
            if part == "test" and test_curve:
                iterations = np.arange(1, len(test_curve) + 1)
                upper.plot(iterations, test_curve, color=color, label=f"loss on the test part, in the end {loss:.4f}")
            else:
                label = f"loss on the {part} part in the end: {loss:.4f}"
                upper.axhline(loss, color=color, linestyle="--", label=label)
        upper.set(ylabel="loss in nats per row", title="Loss while training", ylim=(0, None))
        upper.set_xlim(0, max(1, len(curve) - 1))
        upper.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set(xlabel="iteration", ylabel="nats per row, log scale")
        lower.set_title("How near the objective was to its end: objective minus its final value")
        lower.plot(np.where(excess > 0, excess, np.nan), **MARKED)
        lower.set_yscale("log")
        lower.yaxis.set_major_formatter(_power_of_ten)
        lower.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", frameon=False)
        return _png(figure)


def regularisation(curve: Sequence[Mapping[str, float]]) -> bytes:
    """Draw the loss in cross-validation against C."""
    c, loss, deviation = (np.array([one[name] for one in curve]) for name in ("C", "loss", "deviation"))
    best = int(loss.argmin())
    with _style():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        spread = "± one standard deviation of the folds"
        axes.fill_between(c, loss - deviation, loss + deviation, color=LIGHT_BLUE, label=spread)
        axes.plot(c, loss, **MARKED, label="mean of the folds")
        least = f"lowest: C = {c[best]:.3g}"
        axes.plot(c[best], loss[best], color=ORANGE, marker="o", linestyle="none", label=least)
        axes.set(xscale="log", xlabel="C: strong regularisation to the left, weak to the right, log scale")
        axes.set(ylabel="loss in nats per row", ylim=(0, None))
        axes.set_title("Loss on rows kept out of the fit (cross-validation), for each C")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", frameon=False, ncols=3)
        return _png(figure)


def reliability(scores: Scores, part: str) -> bytes:
    """Draw, for each bin of confidence, how often the prediction was right, and how many rows there were."""
    bins = calibration(scores)
    filled = np.flatnonzero(bins.count)
    centers = (np.arange(BINS) + 0.5) / BINS
    width = 0.9 / BINS
    low, high = _wilson(bins.accuracy[filled], bins.count[filled])
    with _style():
        figure = Figure(figsize=(6.4, 7), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        ends = (centers - width / 2, centers + width / 2)
        marks = [
            upper.bar(centers, bins.accuracy, width, color=LIGHT_BLUE, label="share of the bin's rows that was right"),
            upper.vlines(centers[filled], low, high, color=BLUE, label="95% interval of that share"),
            upper.hlines(bins.confidence, *ends, color=ORANGE, linewidth=2, label="mean confidence of the bin"),
            *upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="share equal to confidence"),
        ]
        upper.set(ylabel="share of rows predicted right", xlim=(0, 1), ylim=(0, 1.02))
        upper.set_title(
            f"Is the model right as often as it is confident? {part.capitalize()} part, {len(scores.target)} rows\n"
            f"calibration error (mean gap, ECE): {calibration_error(scores):.4f}, {BINS} bins"
        )
        bars = lower.bar(centers, bins.count, width, color=GREY)
        lower.bar_label(bars, [str(count) if count else "" for count in bins.count], fontsize=7)
        lower.set(xlabel="confidence: the probability of the predicted class", ylabel="rows in the bin")
        lower.margins(y=0.2)
        for axis in (upper.xaxis, upper.yaxis, lower.xaxis):
            axis.set_major_formatter(PercentFormatter(1))
        figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
        return _png(figure)


def confusion(scores: Scores, classes: Sequence[str | int | bool], part: str) -> bytes:
    """Draw how often each class (row) was predicted as each class (column)."""
    counts, shown = count_confusions(scores)
    names = [_short(str(classes[index])) for index in shown]
    right, rows = scores.correct.sum(), len(scores.target)
    title = f"Which classes are confused, {part} part\n{right} of {rows} rows right ({right / rows:.1%})\n"
    if len(shown) < len(classes):
        title += f"{len(shown)} of {len(classes)} classes: those with the most mistakes\n"
        names.append("(all others)")
    title += "darker: a larger share of the true class"
    with _style():
        return _png(_draw_confusion(counts, names, title))


def count_confusions(scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the counts, and the classes of rows and columns. If there are too many classes, the last is all others."""
    wrong = ~scores.correct
    mistakes = sum(np.bincount(codes[wrong], minlength=scores.classes) for codes in (scores.target, scores.predicted))
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])
    place = np.full(scores.classes, len(shown))
    place[shown] = np.arange(len(shown))
    size = min(scores.classes, MOST_CLASSES + 1)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (place[scores.target], place[scores.predicted]), 1)
    return counts, shown


def _draw_confusion(counts: NDArray[np.int64], names: Sequence[str], title: str) -> Figure:
    size = len(names)
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], out=np.zeros(counts.shape), where=totals[:, None] > 0)
    lines = [line for name in names for line in name.split("\n")]
    font, count_font = (10, 10) if size <= 20 else (8, 6)
    # In inches, with letters 0.62 of their size wide: a cell holds its count, and the label beside it.
    label_height = 1.25 * font / 72 * (1 + max(name.count("\n") for name in names))
    label_length = 0.62 * font / 72 * max(map(len, lines))
    cell = max(label_height, 0.62 * count_font / 72 * len(str(counts.max())) + 0.06, min(1.1, 5 / size))
    figure = Figure(figsize=(cell * size, cell * size))
    axes = figure.add_axes((0, 0, 1, 1))  # labels are outside of it; the file is made large enough for them
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("share", ["white", BLUE, "#003050"]), vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=90 if label_length > 0.9 * cell else 0, fontsize=font)
    axes.set_yticks(range(size), [f"{name} ({n})" for name, n in zip(names, totals, strict=True)], fontsize=font)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(visible=True, color="#dddddd")
    axes.set(xlabel="predicted class", ylabel="true class (its rows)")
    axes.annotate(title, (0, 1), (0, 8), textcoords="offset points", xycoords="axes fraction", va="bottom")
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.4 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=count_font)
    return figure


def _power_of_ten(value: float, _: int) -> str:
    """Write 1e-06 as 10⁻⁶. For its own powers Matplotlib would need its parser of formulas."""
    exponent = f"{round(np.log10(value))}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{exponent}" if abs(np.log10(value)) > 3.5 else f"{value:g}"


def _short(name: str) -> str:
    """Break a long class name into lines; of a very long one, keep both ends."""
    name = " ".join(name.split())
    limit = LABEL_WIDTH * LABEL_LINES - 6
    if len(name) > limit:
        name = f"{name[: limit // 2]}…{name[-(limit // 2) :]}"
    return "\n".join(textwrap.wrap(name, LABEL_WIDTH)) or "(blank)"


def _wilson(share: NDArray[np.float64], count: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's 95 % interval of a fraction that was observed in `count` rows."""
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - reach, centre + reach


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # such a letter is drawn as a box
        figure.savefig(
            content,
            format="png",
            dpi=120,
            bbox_inches="tight",
            pad_inches=0.15,
            metadata={"Software": "softmaxloss"},
        )
    return content.getvalue()
