"""The bar: only in a terminal, on one line however small that is, and no claim that training came to its limit."""

import io
import re
import sys

import pytest

from softmaxloss.cli.progress import training_bar


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
    with training_bar(1000, quiet=False) as update:
        for iteration in range(1, 80):
            update(iteration, 2.302585 / iteration)


@pytest.mark.parametrize("columns", [20, 59, 60, 80, 200])
def test_the_bar_stays_on_one_line(terminal, monkeypatch, columns):
    draw(columns, terminal, monkeypatch)
    lines = lines_drawn(terminal.getvalue())
    assert max(map(len, lines)) <= columns
    assert lines[-1].split()[0 if columns < 60 else 1] in {"79", "79/1000"}
    assert "0.0291" in lines[-1]
    assert re.search(r"\d\d:\d\d", lines[-1])


def test_a_fit_that_converges_early_is_not_shown_as_complete(terminal, monkeypatch):
    draw(100, terminal, monkeypatch)
    assert "1000/1000" not in terminal.getvalue()
    assert "100%" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K") or "\x1b[1A\x1b[2K" in terminal.getvalue()[-30:]


def test_no_color_is_respected(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    draw(100, terminal, monkeypatch)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", terminal.getvalue())


def test_nothing_is_drawn_without_a_terminal_or_when_quiet(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with training_bar(10, quiet=True) as update:
        assert update is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with training_bar(10, quiet=False) as update:
        assert update is None
    assert terminal.getvalue() + sys.stderr.getvalue() == ""
