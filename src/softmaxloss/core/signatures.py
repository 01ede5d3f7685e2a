"""How functions that pass row options on show them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar

from softmaxloss.core import checks
from softmaxloss.core.rows import RowOptions, describe

F = TypeVar("F", bound=Callable[..., Any])


def with_row_options(function: F) -> F:
    """Show the row options, instead of `**options`, in the signature that help() and editors print; refuse others."""
    shown = signature(function)
    own = [p for p in shown.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [p for name, p in signature(describe).parameters.items() if name in RowOptions.__annotations__]
    positional = [p for p in own if p.kind is not Parameter.KEYWORD_ONLY]
    axis = [p for p in own if p.name == "axis"]
    keyword_only = [p for p in own if p.kind is Parameter.KEYWORD_ONLY and p not in axis]
    known = {p.name: None for p in (*own, *options)}

    @wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        if not keywords.keys() <= known.keys():
            checks.known_keywords(function.__name__, keywords, known)
        return function(*arguments, **keywords)

    checked.__signature__ = shown.replace(parameters=[*positional, *axis, *options, *keyword_only])  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]
