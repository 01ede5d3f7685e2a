"""The functions of `softmaxloss.torch`, which also choose the way in which a loss is computed.

It is computed by kernels, by operators in a graph that is being compiled, or by `softmaxloss.array`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from softmaxloss import array
from softmaxloss.core import checks
from softmaxloss.torch import by_arrays, by_kernels, operators
from softmaxloss.torch.arguments import FLOATS, check_numbers, check_tensors, is_plain, row_options
from softmaxloss.torch.errors import TensorTypeError, TensorValueError, in_words_of_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.torch.arguments import Options


@in_words_of_torch
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    normalizer: float | Tensor | None = None,
    inplace_backward: bool = False,
) -> Tensor:
    """Return the cross-entropy between targets and the softmax of logits, as `torch.nn.functional.cross_entropy` does.

    It keeps digits that PyTorch rounds away. For large inputs on a CPU it is mostly two to three times as fast. It
    allocates one array of the size of the logits, their gradient. For a second derivative it also keeps a reference to
    the logits until the backward pass.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (C,), (N, C) or (N, C, d1, ..., dK)
        Logits of C classes.
    target : Tensor
        Class indices: integers of any width, shape (), (N,) or (N, d1, ..., dK). Or distributions: bools (one-hot) or
        floats of the shape of `input`, finite and not negative.
    weight : Tensor of float, shape (C,), optional
        One factor per class.
    size_average, reduce
        Deprecated in PyTorch; use `reduction`.
    ignore_index : int, default -100
        Rows with this class index are left out. For distributions a negative value has no effect, and any other value
        is an error.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the row weights. The weight of a row is `sample_weight` times the class weight of
        its label. For a distribution, it is `sample_weight` times the sum over the classes of target times class
        weight. If the sum of the row weights is 0, the loss is 0.
    label_smoothing : float, default 0.0
        This share of the target, from 0 to 1, is spread evenly over all classes.
    sample_weight : Tensor of float, shape of the loss without reduction, optional
        One factor per row. A row of weight 0 is never read.
    class_mask : Tensor of bool, shape (C,), optional
        True for each class that exists. The logits of the other classes are never read, and their gradient is 0.
    z_loss : float, default 0.0
        The loss of each row grows by ``z_loss * logsumexp(z)**2``. Here z are the logits after `softcap` and
        `temperature`.
    softcap : float, optional
        The logits are replaced by ``softcap * tanh(input / softcap)``, before the temperature divides them.
    temperature : float, default 1.0
        The logits are divided by it.
    normalizer : float or Tensor of one number, optional
        The mean divides by this number instead of the sum of the row weights.
    inplace_backward : bool, default False
        Let the forward pass overwrite the logits with their gradient, so that the loss takes no memory of their size.
        Second derivatives are then impossible. The option is ignored for leaf tensors, on other devices than the CPU,
        and in compiled graphs.

    Returns
    -------
    Tensor
        float64 for float64 logits, else float32.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described. Each error is also a RuntimeError, and a ValueError is also an IndexError,
        because these are what PyTorch raises. Values are checked only where the kernels run. Elsewhere, as on other
        devices than the CPU, the loss of a row whose label is not a class is NaN.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import cross_entropy
    >>> logits = torch.tensor([[0.0, -40.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0]))
    >>> loss.backward()
    >>> loss.item(), logits.grad
    (4.24835413113866e-18, tensor([[-4.2484e-18,  4.2484e-18]]))
    """
    tensors = (input, target, weight, sample_weight, class_mask, normalizer)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            cross_entropy,
            tensors,
            input,
            target,
            weight,
            size_average,
            ignore_index,
            reduce,
            reduction,
            label_smoothing,
            sample_weight=sample_weight,
            class_mask=class_mask,
            z_loss=z_loss,
            softcap=softcap,
            temperature=temperature,
            normalizer=normalizer,
            inplace_backward=inplace_backward,
        )
    if not isinstance(inplace_backward, bool):
        raise TensorTypeError(f"inplace_backward must be True or False, got {checks.shown(inplace_backward)}")
    others = {"target": target, "weight": weight, "sample_weight": sample_weight, "class_mask": class_mask}
    check_tensors({"input": input}, others)
    if size_average is not None or reduce is not None:
        reduction = _reduction_of_old_arguments(size_average, reduce)
    options = row_options(
        target,
        class_weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        class_mask=class_mask,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        normalizer=normalizer,
    )
    axis = 1 if input.dim() > 1 else 0
    return cross_entropy_of(input, target, axis, options, inplace_backward=inplace_backward)


def _reduction_of_old_arguments(size_average: bool | None, reduce: bool | None) -> str:
    """Return the reduction that PyTorch's older arguments ask for. PyTorch's own function breaks a compiled graph."""
    is_none, is_sum = (value is not None and not value for value in (reduce, size_average))
    reduction = "none" if is_none else "sum" if is_sum else "mean"
    if not torch.compiler.is_compiling():  # the compiler cannot trace a warning
        warnings.warn(
            f"size_average and reduce are deprecated; pass reduction={reduction!r}", stacklevel=4
        )  # the caller of `cross_entropy`
    return reduction


def cross_entropy_of(
    input: Tensor, target: Tensor, axis: int, options: Options, *, inplace_backward: bool = False
) -> Tensor:
    """Return the loss of logits whose classes lie on an axis, with options under the names of the NumPy functions."""
    if not (input.is_cpu and is_plain((input,), (target, *options.values()))):
        return by_arrays.cross_entropy(input, target, axis, options)
    if torch.compiler.is_compiling():
        return operators.cross_entropy(input, target, axis, options)
    return by_kernels.cross_entropy(input, target, axis, options, inplace_backward=inplace_backward)


@in_words_of_torch
def softmax(
    input: Tensor, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Return the softmax over a dimension, each entry within 4 units in the last place on a CPU.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
    dim : int, default -1
        The dimension of the classes.
    dtype : torch.dtype, optional
        If given, `input` is converted to it first.
    temperature : float, default 1.0
        Number by which the input is divided before the softmax.

    Returns
    -------
    Tensor of the shape and dtype of the input
        A row that holds NaN or inf, or only -inf, becomes NaN.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import softmax
    >>> softmax(torch.tensor([0.0, 0.0, -torch.inf]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    return _softmax(softmax, by_kernels.softmax, array.softmax, input, dim, dtype, temperature)


@in_words_of_torch
def log_softmax(
    input: Tensor, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Return the logarithms of the softmax over a dimension. Entries near 0 keep all their digits.

    Parameters
    ----------
    input, dim, dtype, temperature
        As in `softmax`.

    Returns
    -------
    Tensor of the shape and dtype of the input
        A row that holds NaN or inf, or only -inf, becomes NaN.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import log_softmax
    >>> log_softmax(torch.tensor([0.0, -40.0]))
    tensor([-4.2484e-18, -4.0000e+01])
    """
    return _softmax(log_softmax, by_kernels.log_softmax, array.log_softmax, input, dim, dtype, temperature)


def _softmax(
    function: Callable[..., Tensor],
    by_kernels: Callable[..., Tensor],
    by_arrays: Callable[..., Tensor],
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    temperature: float,
) -> Tensor:
    if has_torch_function_variadic(input):
        return handle_torch_function(function, (input,), input, dim, dtype=dtype, temperature=temperature)
    check_numbers(temperature=temperature)
    if dtype not in FLOATS and dtype is not None:
        raise TensorTypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, got {checks.shown(dtype)}")
    input = input.to(dtype) if dtype is not None and isinstance(input, Tensor) else input
    check_tensors({"input": input}, {})
    dim = checks.integer("dim", dim)
    lowest, highest = (-input.dim(), input.dim() - 1) if input.dim() else (-1, 0)
    if not lowest <= dim <= highest:
        raise TensorValueError(f"dim must lie between {lowest} and {highest}, got {dim}")
    if input.dim() == 0:
        return function(input.reshape(1), dim, temperature=temperature).reshape(())
    if not torch.compiler.is_compiling() and is_plain((input,), ()) and input.is_cpu:
        return by_kernels(input, dim, temperature)
    return by_arrays(input, axis=dim, temperature=checks.temperature(temperature), xp=torch_namespace)
