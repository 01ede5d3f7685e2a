"""Make tables and plots of what `python -m benchmarks --json` measured.

python -m benchmarks.report results.json [more.json ...] [--write] replaces those of README.md and docs/speed.md.
"""

import argparse
import itertools
import json
import math
import statistics
import textwrap
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, LOSS_AND_GRADIENT, MEMORY, OURS
from benchmarks.markdown import replace_between, table
from benchmarks.shapes import SHAPES

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- written by benchmarks/report.py -->"
COLORS = dict(  # told apart by colour-blind readers too
    zip(
        CONTENDERS,
        ["#d55e00", "#555555", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#000000"],
        strict=True,
    )
)

MARKERS = dict(zip(CONTENDERS, "os^vDPX*", strict=True))  # where colours are not seen

Record = dict[str, Any]
Case = tuple[str, str, int]  # task, dtype, threads
case_of = itemgetter("task", "dtype", "threads")


def tables(records: Sequence[Record]) -> list[str]:
    """Return a titled table for each task, dtype and number of threads."""
    return [f"### {title(case)}\n\n{case_table(records, case)}" for case in dict.fromkeys(map(case_of, records))]


def title(case: Case) -> str:
    """Return the case in words."""
    task, dtype, threads = case
    return f"{task[0].upper()}{task[1:]}, {dtype}, {threads} thread{'s' * (threads > 1)}"


def case_table(records: Sequence[Record], case: Case) -> str:
    """Return the table of one case, a row for each shape, and below it what went wrong."""
    here = [record for record in records if case_of(record) == case]
    names = {record["contender"] for record in here}
    names = sorted(names, key=lambda name: [*CONTENDERS, name].index(name))
    rows, notes = [], []
    for shape in dict.fromkeys(record["shape"] for record in here):
        found = {record["contender"]: record for record in here if record["shape"] == shape}
        rows.append([shape, *(cell(found.get(name), found[OURS]) for name in names)])
        notes += [f"{shape}: {name}: {found[name]['note']}" for name in names if "note" in found.get(name, ())]
    return "\n".join([table(["", *names], rows), *(f"\n- {note}" for note in notes)])


def cell(record: Record | None, ours: Record) -> str:
    """Return our time, or the ratio to it: the median of the rounds, the least and the most."""
    if record is None:
        return "-"
    if "note" in record:
        return "failed"
    if record is ours:
        return duration(statistics.median(ours["seconds"]))
    ratios = [theirs / our for theirs, our in zip(record["seconds"], ours["seconds"], strict=True)]
    return f"{digits(statistics.median(ratios))} ({digits(min(ratios))} - {digits(max(ratios))})"


def digits(x: float) -> str:
    """Return a positive number in two digits, or all those before the point."""
    return f"{x:.{max(0, 1 - math.floor(math.log10(x)))}f}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    factor, unit = next(
        pair for pair in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * pair[0] >= 1 or pair[1] == "µs"
    )
    return f"{digits(seconds * factor)} {unit}"


def summary(machine: Record, records: Sequence[Record]) -> str:
    """Return what the README shows: loss and gradient in float32 on most threads, and the plots."""
    case = (LOSS_AND_GRADIENT, "float32", max(record["threads"] for record in records))
    rounds = max(len(record.get("seconds", ())) for record in records if case_of(record) == case)
    caption = (
        f"{title(case)}, on {machine['processor']}. The first column is our time. Each other column is the time of "
        f"another library divided by ours: the median of {rounds} rounds, in which the libraries take turns, and in "
        f"brackets the least and the most. `{MEMORY}` is a bare copy of the logits."
    )
    plots = [
        "![Time of loss and gradient for each shape and library.](docs/speed_time.png)",
        "![Speed in percent of the speed of a copy, for each shape and library.](docs/speed_copy.png)",
    ]
    return "\n\n".join([textwrap.fill(caption, 118), case_table(records, case), *plots])


def draw(records: Sequence[Record], folder: Path) -> None:
    """Draw times, and percents of the speed of a copy: loss and gradient in float32, a panel per number of threads."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    here = [r for r in records if case_of(r)[:2] == (LOSS_AND_GRADIENT, "float32") and "seconds" in r]
    medians = {(r["threads"], r["contender"], r["shape"]): statistics.median(r["seconds"]) for r in here}
    threads = sorted({record["threads"] for record in here})
    by_size = sorted({record["shape"] for record in here}, key=lambda shape: math.prod(SHAPES[shape].shape))
    titles = {
        "time": "Time of loss and gradient (lower is faster)",
        "copy": "Speed of loss and gradient, in percent of copying the logits (higher is faster)",
    }
    for name, title in titles.items():
        figure, panels = plt.subplots(
            1, len(threads), figsize=(6 * len(threads), 5.6), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, n in zip(panels[0], threads, strict=True):
            for contender, color in COLORS.items():
                shapes = [shape for shape in by_size if (n, contender, shape) in medians]
                times = [medians[n, contender, shape] for shape in shapes]
                copies = [medians[n, MEMORY, shape] for shape in shapes]
                fractions = [copy / time for copy, time in zip(copies, times, strict=True)]
                axes.plot(
                    [by_size.index(shape) for shape in shapes],
                    times if name == "time" else fractions,
                    linewidth=2 if contender == OURS else 0.8,
                    color=color,
                    marker=MARKERS[contender],
                    markersize=8 if contender == OURS else 6,
                    label="a bare copy of the logits" if contender == MEMORY else contender,
                )
            axes.set_xticks(range(len(by_size)), [shape.replace("x", "×") for shape in by_size])
            axes.tick_params("x", rotation=45)
            plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
            axes.set(yscale="log", xlabel="shape of the logits, by size")
            axes.set_title(f"float32, {n} thread{'s' * (n > 1)}", loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        ticks = (lambda seconds, _: duration(seconds).replace(".0 ", " ")) if name == "time" else PercentFormatter(1)
        panels[0, 0].yaxis.set_major_formatter(ticks)
        figure.suptitle(title, x=0.01, ha="left")
        figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(folder / f"speed_{name}.png", dpi=120)
        plt.close(figure)


def main() -> None:
    """Print, or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="into README.md, docs/speed.md and docs/speed_*.png")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.results]
    machine = results[0]["machine"]
    if any(other["machine"] != machine for other in results):
        parser.error("the results are of different machines or packages")
    records = list(itertools.chain.from_iterable(part["records"] for part in results))
    packages = ", ".join(" ".join(pair) for pair in machine["packages"].items())
    text = f"{machine['cores']} cores of {machine['processor']}; {packages}."
    print(text := "\n\n".join([textwrap.fill(text, 118), *tables(records)]))
    if options.write:
        replace_between(ROOT / "README.md", BEGIN, summary(machine, records))
        replace_between(ROOT / "docs" / "speed.md", BEGIN, text)
        draw(records, ROOT / "docs")


if __name__ == "__main__":
    main()
