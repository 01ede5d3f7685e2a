"""The progress: only in a terminal, on one line however small that is, and without a time that nobody knows."""

import io
import re
import sys

import pytest

from softmaxloss.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr("softmaxloss.cli.progress.PAUSE", 0)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def lines_drawn(text):
    return [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


def draw(columns, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "5")
    progress = Progress(quiet=False)
    with progress.line("preparing kernels, once"):
        pass
    with progress.iterations() as update:
        for iteration in range(1, 80):
            update(iteration, 2.302585 / iteration)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_progress_stays_on_one_line(terminal, monkeypatch, columns):
    draw(columns, terminal, monkeypatch)
    lines = lines_drawn(terminal.getvalue())
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("preparing kernels"[: columns - 1])
    assert lines[-1].startswith("00:00  iteration 79")
    assert ("loss 0.0291" in lines[-1]) == (columns > 30)


def test_the_line_vanishes_in_the_end(terminal, monkeypatch):
    draw(100, terminal, monkeypatch)
    assert terminal.getvalue().endswith("\x1b[2K") or "\x1b[1A\x1b[2K" in terminal.getvalue()[-30:]


def test_nothing_is_drawn_without_a_terminal_or_when_quiet(terminal, monkeypatch):
    for stream, quiet in ((terminal, True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(quiet=quiet).iterations() as update:
            assert update is None
        assert stream.getvalue() == ""
