"""Ctrl-C that works at once, even inside compiled code."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console

from softmaxloss.cli import end_by_ctrl_c

GRACE = 0.5
"""Seconds that KeyboardInterrupt has to end the block in the orderly way."""


@contextmanager
def prompt_interrupt() -> Iterator[None]:
    """End the process on Ctrl-C if KeyboardInterrupt has not left this block soon after.

    Python raises it between two steps of its own, so that a long call into compiled code delays it, and drops it
    where compiled code has called back into Python, as Numba's compiler does. A thread woken by the signal itself
    waits for neither. Nothing in the block may need to be cleaned up.
    """
    here, signals = socket.socketpair()
    signals.setblocking(False)
    left = Event()

    def watch() -> None:
        while received := here.recv(1):
            if received[0] == signal.SIGINT and not left.wait(GRACE):
                console = Console(stderr=True)
                console.show_cursor()
                if console.is_terminal:
                    console.line()  # leave that of the progress bar
                end_by_ctrl_c()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        signals.close()
        watcher.join()
        here.close()
