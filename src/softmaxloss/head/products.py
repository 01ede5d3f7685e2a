"""Matrix products, written or added to a given array.

The BLAS of SciPy computes them without a temporary array. If another library, such as PyTorch, is the host
(`core/hosts.py`), that library computes them. SciPy computes products of sparse matrices.
"""

from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_float, c_int, c_void_p
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from softmaxloss.core.checks import is_sparse
from softmaxloss.core.hosts import host
from softmaxloss.core.threads import for_each, get_num_threads

Array = NDArray[Any]

_COLUMN_ELEMENTS = 2**19
# SciPy's BLAS functions for Python hold the GIL, so only one thread at a time can compute a product. Its functions for
# Cython, called by ctypes, do not hold it. Such a call takes 10 to 60 us longer, so it pays only if there are at least
# so many multiplications.
_MANY = 2**19


def _for_cython(name: str, number: Any) -> tuple[Any, Any]:
    """Return SciPy's BLAS function of this name, which runs without the GIL, and the C type of its numbers."""
    size, factor, matrix = POINTER(c_int), POINTER(number), (c_void_p, POINTER(c_int))
    letters = c_char_p, c_char_p
    kind = CFUNCTYPE(None, *letters, size, size, size, factor, *matrix, *matrix, factor, *matrix)
    return kind(get_cython_function_address("scipy.linalg.cython_blas", name)), number


_FOR_CYTHON = {
    np.dtype(np.float32): _for_cython("sgemm", c_float),
    np.dtype(np.float64): _for_cython("dgemm", c_double),
}


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
    # BLAS is column-major: it sees `out` as out.T = b.T @ a.T
    left, left_transposed = _columns(b.T, out.dtype)
    right, right_transposed = _columns(a.T, out.dtype)
    inner, (n_rows, n_columns) = a.shape[1], out.shape
    if inner * out.size < _MANY:
        (gemm,) = get_blas_funcs(("gemm",), (out,))
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
        return
    gemm, number = _FOR_CYTHON[out.dtype]  # its numbers are passed by reference: ctypes does so by itself
    gemm(
        b"T" if left_transposed else b"N",
        b"T" if right_transposed else b"N",
        *(c_int(n_columns), c_int(n_rows), c_int(inner)),
        *(number(1.0), left.ctypes.data, c_int(left.shape[0]), right.ctypes.data, c_int(right.shape[0])),
        *(number(float(add)), out.ctypes.data, c_int(n_columns)),
    )


def _columns(matrix: Array, dtype: np.dtype[Any]) -> tuple[Array, bool]:
    """Return the matrix, or its transpose if that saves a copy, in Fortran order; and whether it is the transpose."""
    transposed = matrix.flags.c_contiguous and not matrix.flags.f_contiguous
    return np.asfortranarray(matrix.T if transposed else matrix, dtype), transposed


def _multiply_sparse(a: Any, b: Array, out: Array, *, add: bool) -> None:
    """Multiply by a sparse matrix a. SciPy copies columns of b: a thread takes what fits in the cache at a time."""
    columns_in_cache = max(1, _COLUMN_ELEMENTS // (a.shape[0] + a.shape[1]))
    size = min(columns_in_cache, -(-b.shape[1] // get_num_threads()))

    def work(columns: slice) -> None:
        product, place = a @ b[:, columns], out[:, columns]
        np.add(place, product, out=place) if add else np.copyto(place, product)

    for_each(work, [slice(start, start + size) for start in range(0, b.shape[1], size)])
