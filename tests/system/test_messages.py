"""The catalogue of messages reaches every check; each message shows what was got and says what to do."""

import re

import numpy as np
import pytest
from rich.console import Console

import messages
from calls import FUNCTIONS, names_in
from loss.test_errors import TABLE
from softmaxloss.cli.app import app

# How a message says what to do: what the argument must be, or a clause with a verb.
NEXT_STEP = re.compile(
    r"\bmust\b|\bneeds?\b|[;:] (if|or|for|to|with|export|did|see|save|train|pass|use|set|leave|add|check|name|choose|"
    r"change|correct|call|give|rename|write|close|make|remove|look|convert|turn|multiply|unset|apply|copy|install|standardise)\b|"
    r"; the options of every loss are|; this function has no such option|\? See|is not an option of this function"
)


@pytest.fixture(scope="module")
def of_functions():
    return list(messages.of_functions())


@pytest.mark.parametrize("name", ["checks.py", "target_checks.py"])
def test_the_catalogue_reaches_every_raise_of_the_checks(of_functions, name):
    path = messages.SOURCE / "core" / name
    assert len(messages.raises_of(path)) > 8
    assert messages.not_reached(path, of_functions) == []


def test_each_message_of_a_function_says_what_to_do(of_functions):
    assert without_a_next_step(of_functions) == []


def without_a_next_step(found):
    texts = (message.text for message in found if message.is_ours and "has no attribute" not in message.text)
    return [text for text in texts if not NEXT_STEP.search(text)]


# One error is for developers who call code that only compiled code can call; Numba catches the other.
NOT_FOR_USERS = {"kernels/machine/compilation.py": 2}


@pytest.mark.thorough
def test_the_catalogue_reaches_every_raise_and_each_message_says_what_to_do():
    found = [message for section in messages.SECTIONS for message in section()]
    missing = {
        path.relative_to(messages.SOURCE).as_posix(): messages.not_reached(path, found)
        for path in messages.SOURCE.rglob("*.py")
    }
    assert {name: len(lines) for name, lines in missing.items() if lines} == NOT_FOR_USERS
    assert without_a_next_step(found) == []


def test_the_help_of_each_option_is_one_line_where_there_is_room(monkeypatch):
    """A line break within a help text would stay, wherever the terminal breaks lines."""
    monkeypatch.setattr(app, "console", Console(width=300))
    for help_text in messages.of_help():
        inside = [line for line in help_text.text.splitlines() if line.startswith("│")]
        assert inside
        assert [line for line in inside if not re.match(r"│ (--|\*  |[a-z]+ )", line)] == []


def ways_to_show(value):
    """Return texts of which a message about a wrong value must hold one."""
    texts = {type(value).__name__, repr(value)[:12], getattr(value, "__name__", "")} - {""}
    if isinstance(value, np.ma.MaskedArray):
        return {"masked", "MaskedArray"}
    try:
        array = np.asarray(value)
    except ValueError:
        return texts | {"different lengths"}
    texts |= {str(entry) for entry in array.ravel()[:8].tolist()}
    texts |= {"single number"} if array.ndim == 0 else {str(array.shape), str(array.strides), str(array.dtype)}
    return texts if array.flags.writeable else texts | {"read-only"}


def test_each_message_names_its_argument_and_shows_what_was_got():
    faults = []
    for name, parameter, row in (case.values for case in TABLE):
        (function, right), own = FUNCTIONS[name], names_in(name)
        wrong = {own[parameter]: row.value, **{own[other]: value for other, value in row.beside.items()}}
        text = messages.refusal(own[parameter], function, **{**right, **wrong}).text
        ways = set().union(*map(ways_to_show, [row.value, *row.beside.values()])) | {"at position", "each k of topk"}
        is_named = re.search(rf"\b({parameter}|{own[parameter]})\b", text)
        if not (is_named and any(re.search(rf"(?<!\w){re.escape(way)}", text) for way in ways)):
            faults.append((name, parameter, row.value, text))
    assert faults == []
