"""Errors that use PyTorch's names of arguments. Code that expects PyTorch's errors can catch them."""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class TensorValueError(ValueError, RuntimeError, IndexError):
    """A wrong shape or value. It is a ValueError, and also a RuntimeError and an IndexError, as PyTorch raises them."""


class TensorTypeError(TypeError, RuntimeError):
    """A wrong type or dtype. It is a TypeError, and also a RuntimeError, as PyTorch raises it."""


_OF_LOSS = {"logits": "input", "targets": "target", "class_weight": "weight"}
_OF_HEAD = {"features": "input", "weight": "linear_weight", "bias": "linear_bias", "targets": "target"}
_OF_HEAD |= {"class_weight": "weight"}
_REMEDIES = {
    r"(\w+)\.astype\(bool\)": r"\1.bool()",
    r"np\.ravel\((\w+)\)": r"\1.flatten()",
    r"np\.reshape\((\w+), (.*?\))\)": r"\1.reshape(\2)",
    r"(\S+)\.astype\(int\)": r"\1.long()",
    r"np\.moveaxis": "torch.movedim",
    r"NumPy array": "tensor",
    r"; if the classes are on axis \d+.*": "",  # PyTorch's losses have the classes on axis 1
    r"np\.asarray\((\w+), bool\)": r"\1.bool()",
    r"np\.asarray\((\w+), float\)": r"\1.double()",
    r"np\.real\((\w+)\)": r"\1.real",
    r"pass logits first and targets second": "pass input first and target second",
}


def in_words_of_torch(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function raise errors that name PyTorch's arguments."""
    names = _OF_HEAD if "linear" in function.__name__ else _OF_LOSS

    @wraps(function)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (TensorValueError, TensorTypeError):
            raise  # in PyTorch's words already
        except ValueError as error:
            raise TensorValueError(_translated(str(error), names)) from None
        except TypeError as error:
            raise TensorTypeError(_translated(str(error), names)) from None

    return translated


def _translated(message: str, names: dict[str, str]) -> str:
    for ours, theirs in _REMEDIES.items():
        message = re.sub(ours, theirs, message)
    # names in shapes, such as (classes, features), stay as they are
    return re.sub(rf"\b({'|'.join(names)})\b(?!\))", lambda found: names[found[0]], message)
