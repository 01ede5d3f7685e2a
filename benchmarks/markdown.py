"""Tables, and where they stand in a document."""

from collections.abc import Sequence
from pathlib import Path

END = "<!-- end -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with its columns aligned."""
    width = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * n for n in width], *rows]
    return "\n".join("".join(f"| {cell:{n}} " for cell, n in zip(line, width, strict=True)) + "|" for line in lines)


def replace_between(document: Path, begin: str, text: str) -> None:
    """Put a text in the place of the one between two markers."""
    before, found, after = document.read_text().partition(begin)
    if not found:
        raise SystemExit(f"{document} has no line {begin}")
    document.write_text(f"{before}{begin}\n{text}\n{END}{after.partition(END)[2]}")
