"""The arguments of losses: their checks, and the row options under the names of the NumPy functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxloss.core import checks, target_checks
from softmaxloss.core.options import NUMBERS, are_constant
from softmaxloss.torch.errors import TensorTypeError, TensorValueError
from softmaxloss.torch.internals import TRACED, is_mapped, is_transformed

if TYPE_CHECKING:
    from collections.abc import Iterable

Options = dict[str, Any]
Layer = tuple[Tensor, Tensor, Tensor | None]  # input, weight and bias

_PLAIN = {Tensor, torch.nn.Parameter}
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_NEEDED = {"input", "target", "linear_weight"}
IGNORED = -100  # PyTorch's default for class indices


def check_tensors(floats: dict[str, Any], others: dict[str, Any]) -> None:
    """Refuse what is no dense tensor, tensors on different devices, and tensors of `floats` that do not hold floats."""
    device = None
    for name, value in (floats | others).items():
        if value is None and name not in _NEEDED:
            continue
        if not isinstance(value, Tensor):
            remedy = "" if value is None else f"; pass torch.as_tensor({name})"
            raise TensorTypeError(f"{name} must be a tensor, got {type(value).__name__}{remedy}")
        if value.layout is not torch.strided or value.is_nested:
            got = "a nested tensor" if value.is_nested else f"layout {value.layout}; pass {name}.to_dense()"
            raise TensorTypeError(f"{name} must be a dense tensor, got {got}")
        device = device or value.device
        if value.device != device:
            raise TensorValueError(
                f"{name} must be on the device of input, {device}, got {value.device}; pass {name}.to(input.device)"
            )
        if name in floats and value.dtype not in FLOATS:
            raise TensorTypeError(
                f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}; pass {name}.float()"
            )


def check_numbers(**arguments: object) -> None:
    """Refuse tensors in the place of numbers, and None in the place of numbers that a loss needs."""
    for name, value in arguments.items():
        if value is None and name != "softcap":
            raise TensorTypeError(f"{name} must not be None; leave {name} out for its default")
        if isinstance(value, Tensor):
            raise TensorTypeError(
                f"{name} must be a number, got a tensor, which would get no gradient; pass {name}.item()"
            )


def row_options(target: Tensor, **options: Any) -> Options:
    """Return the row options that are given. If targets are distributions, leave a negative `ignore_index` out."""
    check_numbers(**{name: options[name] for name in NUMBERS})
    if options["reduction"] is None:  # None would be dropped below; other wrong values are found later
        checks.reduction(None)  # type: ignore[arg-type]
    if options["normalizer"] is not None:
        options["normalizer"] = _normalizer(options["normalizer"], options["reduction"], target.device)
    ignored = options["ignore_index"]
    if ignored is not None and type(ignored) is not int:
        ignored = options["ignore_index"] = checks.integer("ignore_index", ignored)
    if target.is_floating_point() or target.dtype is torch.bool:
        if ignored is not None and ignored >= 0:
            target_checks.refuse_ignore_index()
        options["ignore_index"] = None
    elif ignored is None:
        options["ignore_index"] = IGNORED
    return {name: value for name, value in options.items() if value is not None}


def _normalizer(value: Any, reduction: str, device: torch.device) -> Any:
    """Return a normalizer. While a graph for a CPU is compiled, a Python number becomes a tensor.

    So its value may change without a new compilation.
    """
    if isinstance(value, Tensor):
        checks.normalizer_beside(reduction)
        if value.dim() > 0:
            raise ValueError(f"normalizer must be a single number, got {checks.of_shape(value)}")
        if value.device not in (device, torch.device("cpu")):  # PyTorch takes a CPU scalar anywhere
            raise TensorValueError(f"normalizer must be on {device} or the CPU, got device {value.device}")
    elif torch.compiler.is_compiling() and device.type == "cpu":
        if type(value) not in (int, float):  # such as a NumPy number, whose value becomes a constant of the graph
            return torch.as_tensor(value, dtype=torch.float64, device="cpu")
        checks.normalizer(float(value), reduction)
        return value * torch.ones((), dtype=torch.float64, device="cpu")
    return value


def split(options: Options) -> tuple[Options, list[str], list[Tensor]]:
    """Return the options that are no tensors, then the names and the values of those that are; see `joined`."""
    if are_constant(options.values()):
        return options, [], []
    names = [name for name, value in options.items() if isinstance(value, Tensor)]
    return {name: v for name, v in options.items() if name not in names}, names, [options[name] for name in names]


def joined(numbers: Options, names: Iterable[str], tensors: Iterable[Tensor]) -> Options:
    """Return the options that `split` took apart."""
    return numbers | dict(zip(names, tensors, strict=True))


def is_plain(inputs: Iterable[Tensor | None], others: Iterable[Any]) -> bool:
    """Return whether kernels could take these tensors if they were on the CPU. The device is not checked here.

    All must have memory, none of `others` may require a gradient, and no transform may be active. In a graph that is
    being compiled, tensors count as if they had memory.
    """
    compiling, differentiated = torch.compiler.is_compiling(), torch.is_grad_enabled()
    for tensor in inputs:
        if tensor is not None and not _has_memory(tensor, compiling):
            return False
    for other in others:
        if isinstance(other, Tensor) and (
            not _has_memory(other, compiling) or (differentiated and other.requires_grad)
        ):
            return False
    return not (is_mapped() if compiling else is_transformed())


def _has_memory(tensor: Tensor, compiling: bool) -> bool:
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        return False
    if compiling:
        return type(tensor) in _PLAIN or type(tensor) in TRACED
    return type(tensor) in _PLAIN and not tensor.is_neg()
