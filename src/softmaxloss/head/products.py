"""Matrix products, written or added to a given array.

BLAS computes them without a temporary array. If another library, such as PyTorch, is the host (`core/hosts.py`), that
library computes them. SciPy computes products of sparse matrices.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from softmaxloss.core.checks import is_sparse
from softmaxloss.core.hosts import host
from softmaxloss.core.threads import for_each, get_num_threads

Array = NDArray[Any]

_COLUMN_ELEMENTS = 2**19


def multiply(a: Any, b: Any, out: Array, *, add: bool = False) -> None:
    """Write a @ b to the C-contiguous `out`, or add it to `out`. All three have the same dtype, float32 or float64.

    One of the operands may be sparse. Operands that are C- or Fortran-contiguous are not copied.
    """
    if out.size == 0:
        return
    if is_sparse(a):
        _multiply_sparse(a, b, out, add=add)
        return
    if is_sparse(b):
        _multiply_sparse(b.T, a.T, out.T, add=add)
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
    """Return an array in Fortran order, and whether it is the transpose of the matrix, which saves a copy."""
    if matrix.flags.c_contiguous and not matrix.flags.f_contiguous:
        return matrix.T, True
    return np.asfortranarray(matrix), False


def _multiply_sparse(a: Any, b: Array, out: Array, *, add: bool) -> None:
    """Multiply by a sparse matrix a. A thread takes few columns of b at a time, because SciPy copies them."""
    columns_in_cache = max(1, _COLUMN_ELEMENTS // (a.shape[0] + a.shape[1]))
    size = min(columns_in_cache, -(-b.shape[1] // get_num_threads()))

    def work(columns: slice) -> None:
        product, place = a @ b[:, columns], out[:, columns]
        np.add(place, product, out=place) if add else np.copyto(place, product)

    for_each(work, [slice(start, start + size) for start in range(0, b.shape[1], size)])
