"""What happens to each logit before the kernels, and to each result after them: formats of half width and the soft cap.

Half precision is computed in float32, integers in float64. A soft cap maps
logits x to softcap * tanh(x / softcap), in float64 whatever they come in; results carry the slope of that map.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@cache
def is_half(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is float16 or bfloat16, which NumPy knows from the ml_dtypes package alone."""
    return dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16")


@cache
def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what numbers of a dtype are computed in: float32 where it holds them all, or float64."""
    single = dtype.kind == "b" or is_half(dtype) or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if single else np.float64)


@cache
def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of results of the shape of the logits: theirs, but float64 for integers."""
    return dtype.newbyteorder("=") if dtype.kind not in "iu" else np.dtype(np.float64)


def computed(part: Array) -> Array:
    """Return a part of an array in the precision it is computed in; itself where that is its own."""
    return part.astype(kernel_dtype(part.dtype), copy=False)


def load(part: Array, softcap: float = 0.0) -> Array:
    """Return some of the logits as kernels take them, capped if asked to; half precision as the bits it lies in."""
    if softcap == 0.0:
        return as_bits(part.astype(result_dtype(part.dtype), copy=False))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        part = part.astype(np.float64) / softcap
        np.tanh(part, out=part)
        return np.multiply(part, softcap, out=part)


def as_bits(part: Array) -> Array:
    """Return a view of float16 as int16, of bfloat16 as uint16, and of other numbers as they are: see `decoded`."""
    if part.itemsize != 2 or not is_half(part.dtype):
        return part
    return part.view(np.int16 if part.dtype.kind == "f" else np.uint16)


def store(result: Array, out: Array) -> None:
    """Round a result of kernels into its place."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out[...] = result


def multiply_by_cap_slope(gradient: Array, logits: Array, softcap: float) -> None:
    """Turn a gradient of capped logits into that of the logits."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        slope = cap_slope(logits, softcap)
        np.multiply(gradient, slope, out=gradient, where=gradient != 0)  # 0 * NaN: not read, so 0


def cap_slope(logits: Array, softcap: float) -> NDArray[np.float64]:
    """Return the derivative of the soft cap, 1 - tanh(x / softcap)**2, which is 1 / cosh(x / softcap)**2."""
    return 1 / np.cosh(logits.astype(np.float64) / softcap) ** 2
