"""How functions that pass row options on show them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, TypeVar

from softmaxloss.core.rows import RowOptions, describe

F = TypeVar("F", bound=Callable[..., Any])


def with_row_options(function: F) -> F:
    """Show the row options, instead of `**options`, in the signature that help() and editors print."""
    shown = signature(function)
    own = [p for p in shown.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [p for name, p in signature(describe).parameters.items() if name in RowOptions.__annotations__]
    positional = [p for p in own if p.kind is not Parameter.KEYWORD_ONLY]
    axis = [p for p in own if p.name == "axis"]
    keyword_only = [p for p in own if p.kind is Parameter.KEYWORD_ONLY and p not in axis]
    function.__signature__ = shown.replace(parameters=[*positional, *axis, *options, *keyword_only])  # type: ignore[attr-defined]
    return function
