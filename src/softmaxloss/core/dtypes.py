"""The dtype of computations, and the dtype of results."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SINGLE, DOUBLE, INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)


@cache
def is_half(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is float16 or bfloat16, which NumPy only knows from the package ml_dtypes."""
    return dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16")


@cache
def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that kernels compute in: float32 for bool, half precision and float32, else float64."""
    single = dtype.kind == "b" or is_half(dtype) or (dtype.kind == "f" and dtype.itemsize == 4)
    return SINGLE if single else DOUBLE


@cache
def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of results of the shape of the logits: that of the logits, but float64 for integers."""
    return dtype.newbyteorder("=") if dtype.kind not in "iu" else DOUBLE


def computed(part: Array) -> Array:
    """Return a part of an array in the dtype of its computation; it is not copied if it has this dtype already."""
    return part.astype(kernel_dtype(part.dtype), copy=False)


def as_bits(part: Array) -> Array:
    """Return a view of float16 as int16, of bfloat16 as uint16, and other arrays as they are; kernels decode bits."""
    if part.itemsize != 2 or not is_half(part.dtype):
        return part
    return part.view(np.int16 if part.dtype.kind == "f" else np.uint16)
