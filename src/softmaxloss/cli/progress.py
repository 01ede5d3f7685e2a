"""The progress of a training run, on one line of the terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

PAUSE = 0.1
"""Seconds between two drawings."""


class Progress:
    """Shows the current step on standard error, unless this is no terminal or --quiet is given."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = None if quiet or sys.stderr is None or not sys.stderr.isatty() else Console(stderr=True)

    @contextmanager
    def line(self, text: str) -> Iterator[Callable[[str], None] | None]:
        """Show a text while a block runs. Yield a function that replaces the text, or None if nothing is shown."""
        if self._console is None:
            yield None
            return
        width = self._console.width - 1
        # It draws only when `show` is called. A thread of its own could draw once more after the last message.
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def show(text: str) -> None:
                live.update(Text(text[:width], no_wrap=True), refresh=True)

            show(text)
            yield show

    @contextmanager
    def iterations(self) -> Iterator[Callable[[int, float], None] | None]:
        """Yield a callback (iteration, loss) that shows both, and the time since the start.

        The number of iterations of a fit is not known in advance, so the remaining time is not estimated.
        """
        with self.line("fitting") as show:
            if show is None:
                yield None
                return
            started, drawn = time.monotonic(), -PAUSE

            def update(iteration: int, loss: float) -> None:
                nonlocal drawn
                now = time.monotonic() - started
                if now - drawn >= PAUSE:
                    drawn = now
                    show(f"{int(now) // 60:02d}:{int(now) % 60:02d}  iteration {iteration}  loss {loss:.4f}")

            yield update
