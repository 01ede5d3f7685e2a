"""CPU tensors as NumPy arrays, which kernels take, and arrays as tensors. Both share their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from softmaxloss.torch.internals import has_no_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_FLOATS = (torch.float16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_OF_NUMPY = {dtype: np.dtype(f"{dtype}".removeprefix("torch.")) for dtype in (*_FLOATS, torch.bool, *_INTEGERS)}
_OF_NUMPY[torch.bfloat16] = _BFLOAT16


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return NumPy's dtype for one of PyTorch. It is complex128 for every dtype that is neither real nor bool."""
    return _OF_NUMPY.get(dtype, np.dtype(np.complex128))


class _Memory:
    """NumPy's description of a tensor's memory. It keeps the tensor alive.

    `Tensor.numpy()` would forbid PyTorch to resize the memory later. FSDP resizes the memory of parameters. After that
    an array would point to freed memory. So no array may live longer than the call that made it.
    """

    __slots__ = "__array_interface__", "tensor"

    def __init__(self, tensor: Tensor, dtype: np.dtype[Any]) -> None:
        self.tensor = tensor
        strides = None if tensor.is_contiguous() else tuple(dtype.itemsize * step for step in tensor.stride())
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),  # False: NumPy may write to it
            "shape": tensor.shape,
            "strides": strides,
            "typestr": dtype.str,
            "version": 3,
        }


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a CPU tensor as a NumPy array that shares its memory, bfloat16 included.

    Only if memory does not hold the numbers, as in negated tensors, the array has memory of its own.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    dtype = _OF_NUMPY.get(tensor.dtype)
    if dtype is None:  # complex numbers, which losses refuse
        return tensor.numpy()
    if tensor.is_neg() or has_no_memory(tensor):
        tensor = tensor.clone()
    array = np.asarray(_Memory(tensor, dtype))
    return array.view(dtype) if dtype is _BFLOAT16 else array


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of a NumPy array, bfloat16 included."""
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_loss(result: float | np.float64 | NDArray[Any], logits: NDArray[Any]) -> Tensor:
    """Return a loss, or one for each row, as a tensor of the dtype that losses of such logits have."""
    return torch.from_numpy(np.asarray(result, np.float64 if logits.dtype == np.float64 else np.float32))


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the loss of logits of a dtype."""
    return torch.float64 if dtype is torch.float64 else torch.float32
