"""Matrix products, written or added to a given array: BLAS gemm without a temporary, or those of a hosting library."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from softmaxloss.core.hosts import host

Array = NDArray[Any]


def multiply(a: Array, b: Array, out: Array, *, add: bool = False) -> None:
    """Write a @ b to the C-contiguous `out`, or add it there; the three share a dtype, float32 or float64.

    Operands that are C- or Fortran-contiguous are not copied.
    """
    if out.size == 0:
        return
    if a.shape[1] == 0:
        if not add:
            out[...] = 0
        return
    if (library := host()) is not None:
        library.multiply(a, b, out, add=add)
        return
    (gemm,) = get_blas_funcs(("gemm",), (out,))
    # BLAS is column-major: it sees `out` as out.T = b.T @ a.T
    left, left_transposed = _columns(b.T)
    right, right_transposed = _columns(a.T)
    gemm(
        1.0,
        left,
        right,
        beta=float(add),
        c=out.T,
        overwrite_c=True,
        trans_a=left_transposed,
        trans_b=right_transposed,
    )


def _columns(matrix: Array) -> tuple[Array, bool]:
    """Return the matrix in Fortran order, or its transpose and True where that needs no copy."""
    if matrix.flags.c_contiguous and not matrix.flags.f_contiguous:
        return matrix.T, True
    return np.asfortranarray(matrix), False
