"""The command `softmaxloss`: train, evaluate and predict from a table, without writing Python."""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_CTRL_C = 130
EXIT_CLOSED_PIPE = 141
CTRL_C = "stopped by Ctrl-C"

# The packages that the extra `cli` installs, under the names by which they are imported.
_EXTRA = {"cyclopts", "matplotlib", "polars", "rich", "safetensors", "sklearn"}


class CommandError(Exception):
    """A fault that the user can correct. `main` shows it as one line and exits with code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Every fault that a user can cause is shown as one line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `softmaxloss`; by default those that the process was started with.

    Returns
    -------
    int
        0: done. 2: a fault that the user can correct, shown as one line on standard error. 130: stopped by Ctrl-C.
        141: the reader of a pipe was closed.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that the terminal's encoding lacks
    # polars would keep memory after the text of a table has become numbers: 150 MB for a CSV file of 90 MB
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
    try:
        from softmaxloss.cli.app import run  # noqa: PLC0415  (so that a missing extra is caught below)

        run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            with standard_output():
                sys.stdout.flush()
    except (KeyboardInterrupt, SystemError) as error:
        # If Ctrl-C interrupts C code while it is loaded, such as that of pandas, it arrives as a SystemError.
        if not (isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)):
            raise
        if arguments is None:
            end_by_ctrl_c()  # Python's own exit takes up to a second with so many modules loaded
        _say(CTRL_C)
        return EXIT_CTRL_C
    except (BrokenPipeError, SystemExit):  # rich ends a program by SystemExit if a pipe is closed
        _settle_output()
        return EXIT_CLOSED_PIPE
    except (CommandError, ImportError, OSError) as error:
        message = _explain(error)
        if message is None:
            raise
        _say(message)
        _settle_output()
        return EXIT_USER_ERROR
    return 0


def end_by_ctrl_c() -> NoReturn:
    """End the process at once, from any thread, the way `main` ends it after KeyboardInterrupt."""
    _say(CTRL_C)
    os._exit(EXIT_CTRL_C)


@contextmanager
def standard_output() -> Iterator[None]:
    """Name standard output in errors of a block that writes only there: such an error names no file by itself."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def _explain(error: Exception) -> str | None:
    """Return the message of an error for the user; None if the program is at fault."""
    if isinstance(error, ModuleNotFoundError):
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            return None
        return f"{error.name} is not installed; the command line needs it: pip install 'softmaxloss[cli]'"
    if isinstance(error, ImportError) and "NUMBA_DISABLE_JIT" in str(error):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {reason}{_remedy(error)}" if error.filename else reason
    return str(error) if isinstance(error, CommandError) else None


def _remedy(error: OSError) -> str:
    """Return advice about a file that cannot be read or written."""
    if isinstance(error, FileNotFoundError):
        return alike_file(str(error.filename)) or "; check the name and the folder"
    if isinstance(error, IsADirectoryError):
        return "; name a file in it"
    if isinstance(error, PermissionError):
        return "; change its permissions, or name another file"
    return ""


def counted(n: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def alike(name: str, known: Iterable[str]) -> str:
    """Return a question that names the known name most like a wrong one; "" if none is like it."""
    like = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {like[0]}?" if like else ""


def alike_file(name: str) -> str:
    """Return a question that names the file that may be meant: it is in the same folder and has a similar name."""
    wrong = Path(name)
    try:
        files = {file.stem: file for file in sorted(wrong.parent.iterdir()) if file != wrong}
    except OSError:
        return ""
    like = difflib.get_close_matches(wrong.stem, list(files), 1)
    return f"; did you mean {files[like[0]]}?" if like else ""


def _say(message: str) -> None:
    """Print a message as one line on standard error, even if it contains line breaks."""
    with suppress(AttributeError, OSError):  # standard error or the reader of its pipe is closed
        sys.stderr.write(f"softmaxloss: {' '.join(message.split())}\n")


def _settle_output() -> None:
    """Flush standard output. If that fails, discard all further output, so that the flush at exit cannot fail again."""
    try:
        sys.stdout.flush()
    except AttributeError:  # closed
        return
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
