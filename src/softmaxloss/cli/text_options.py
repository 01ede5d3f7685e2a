"""The options about text files, which several commands share."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How to read a text file if the detection is wrong."""

    separator: str | None = None
    """Character between cells of a text file, or its name: tab, comma, semicolon, bar or space. Default: what fits."""

    encoding: str | None = None
    """Encoding of a text file, such as utf-8, utf-16 or latin-1. Default: the first that fits."""

    header: Annotated[bool | None, Parameter(negative="--no-header")] = None
    """Whether the first line of a text file names the columns. Default: yes, unless this line holds numbers."""
