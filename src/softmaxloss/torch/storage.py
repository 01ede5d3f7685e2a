"""CPU tensors as NumPy arrays, which kernels take, and arrays as tensors. Both share their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

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


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a NumPy array that shares the memory of a CPU tensor, bfloat16 included."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


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
