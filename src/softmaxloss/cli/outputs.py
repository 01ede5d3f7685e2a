"""Writes files whole or not at all, and never replaces files that other programs wrote."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from softmaxloss.cli import CommandError


def check_out(folder: Path, names: Iterable[str], is_ours: Callable[[bytes], bool]) -> None:
    """Raise CommandError if `write_all` would fail or replace a foreign file. The check is quick: call it early."""
    home = _nearest(folder)
    if not home.is_dir():
        raise CommandError(f"{home} is a file, not a folder to write to; choose another --out")
    if not os.access(home, os.W_OK | os.X_OK):
        raise CommandError(f"no permission to write in {home}; choose another folder with --out")
    for name in names:
        path = folder / name
        if path.is_file() and not os.access(path, os.W_OK):
            raise CommandError(f"no permission to replace {path}; choose another --out")
        if path.is_dir() or (path.exists() and not is_ours(path.read_bytes())):
            raise CommandError(f"{path} is there already and was not written by this command; choose another --out")


def check_parent(out: Path) -> None:
    """Raise CommandError if the folder of a file to write is missing."""
    if not out.parent.is_dir():
        raise CommandError(f"the folder {out.parent} of --out {out} does not exist; make it, or choose another --out")


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files to the folder, which is made if needed. If one cannot be written, write none."""
    home = _nearest(folder)
    try:
        # inside an existing folder, not beside it: it may be a mount point, or its parent may be read-only
        with TemporaryDirectory(prefix=".softmaxloss-", dir=home) as temporary:
            below = folder.resolve().relative_to(home)
            new = Path(temporary, "new", below)
            new.mkdir(parents=True)
            for name, content in files.items():
                (new / name).write_bytes(content)
            if below.parts:
                (new.parents[len(below.parts) - 1] / below.parts[0]).rename(home / below.parts[0])
            else:
                _replace_each(new, home, files, Path(temporary, "earlier"))
    except OSError as error:
        raise CommandError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error


def _nearest(folder: Path) -> Path:
    """Return the folder itself, or its nearest ancestor that exists."""
    path = folder.resolve()
    while not path.exists():
        path = path.parent
    return path


def _replace_each(new: Path, folder: Path, names: Iterable[str], earlier: Path) -> None:
    """Replace the earlier files by the new ones. If that fails for one file, restore the earlier ones."""
    earlier.mkdir()
    for name in names:
        if (folder / name).exists():
            shutil.copy2(folder / name, earlier / name)
    try:
        for name in names:
            (new / name).replace(folder / name)
    except BaseException:
        for name in names:
            if (earlier / name).exists():
                (earlier / name).replace(folder / name)
            elif not (new / name).exists():
                (folder / name).unlink()
        raise
