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

    Python raises KeyboardInterrupt only between two of its own instructions. So a long call of compiled code delays it.
    If compiled code has called back into Python, as Numba's compiler does, the exception is lost. A thread that the
    signal itself wakes has neither problem. The block must not need any clean-up.
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
                    console.line()  # begin a new line after the progress bar
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
