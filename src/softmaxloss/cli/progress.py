"""The progress bar of a training run."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

WIDE = 60
"""Columns of the terminal from which on there is room for the bar itself."""
PAUSE = 0.1
"""Seconds between two drawings."""


@contextmanager
def training_bar(max_iter: int, *, quiet: bool) -> Iterator[Callable[[int, float], None] | None]:
    """Give a callback (iteration, loss) that moves a bar on standard error; None if that is no terminal.

    The bar counts towards the limit of iterations. Training mostly converges before it, so the time left is an
    upper bound, and the bar vanishes instead of jumping to its end.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    console = Console(stderr=True)
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.completed:.0f} {task.fields[loss]}"),
        TimeRemainingColumn(compact=True),
    )
    if console.width >= WIDE:
        columns = (
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  loss {task.fields[loss]}  up to"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
    # It draws when told, not from a thread of its own, which could draw once more after a message of the end.
    with Progress(*columns, console=console, transient=True, expand=True, auto_refresh=False) as progress:
        task = progress.add_task("training", total=max_iter, loss="-")
        progress.refresh()
        drawn = time.monotonic()

        def update(iteration: int, loss: float) -> None:
            nonlocal drawn
            due = time.monotonic() - drawn >= PAUSE
            progress.update(task, completed=iteration, loss=f"{loss:.4f}", refresh=due)
            if due:
                drawn = time.monotonic()

        yield update
