"""Matrices transposed as squares of vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softmaxloss.kernels.machine.compilation import inline

_SQUARE_BYTES = 32  # in each row of a square


@inline
def transpose(
    source: Any, stride: int, n_rows: int, out: Any, out_stride: int, n_columns: int, columns_first: bool
) -> None:
    """Copy the matrix source[i * stride + j] to out[j * out_stride + i] in squares.

    If `columns_first`, the outer loop goes over the columns. Callers make it go over the classes: then a first-level
    cache has to hold only a few numbers of each sample. For losses of 100 classes this saves a fifth of the time on a
    processor with AVX-512, and little on others.
    """
    side = _SQUARE_BYTES // out.itemsize
    if n_rows < side or n_columns < side:
        _transpose_by_element(source, stride, n_rows, out, out_stride, n_columns)
        return
    outer, inner = (n_columns, n_rows) if columns_first else (n_rows, n_columns)
    for first in range(0, outer, side):
        a = min(first, outer - side)  # the last squares overlap those before them
        for second in range(0, inner, side):
            b = min(second, inner - side)
            i, j = (b, a) if columns_first else (a, b)
            _transpose_square(source, i * stride + j, stride, out, j * out_stride + i, out_stride)


@inline
def _transpose_by_element(source: Any, stride: int, n_rows: int, out: Any, out_stride: int, n_columns: int) -> None:
    for i in range(n_rows):
        for j in range(n_columns):
            place = np.uint64(j * out_stride + i)
            out[place] = source[np.uint64(i * stride + j)]


@intrinsic
def _transpose_square(
    context: Any, source: Any, begin: Any, stride: Any, out: Any, out_begin: Any, out_stride: Any
) -> tuple[Any, Callable[..., Any]]:
    """Copy a square of source[begin + i * stride + j] to out[out_begin + j * out_stride + i]; rows have 32 bytes.

    Each row is read as a vector. The vectors are interleaved by single numbers, then by pairs of them, within the
    halves of 16 bytes that processors can shuffle at once, and last by these halves.
    """
    side = _SQUARE_BYTES * 8 // int(source.dtype.bitwidth)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(source.dtype), side).as_pointer()
        word = ir.IntType(64)

        def places(array: Any, value: Any, begin: Any, stride: Any) -> list[Any]:
            data = context.make_array(array)(context, builder, value).data
            at = [builder.add(begin, builder.mul(stride, word(i))) for i in range(side)]
            return [builder.bitcast(builder.gep(data, [place]), vector) for place in at]

        align = context.get_abi_sizeof(context.get_value_type(source.dtype))
        rows = [builder.load(place, align=align) for place in places(source, *arguments[:3])]
        half, indices = side // 2, ir.VectorType(ir.IntType(32), side)

        def interleaved(size: int, lane: int) -> list[Any]:
            """Take runs of `size` numbers alternately from two rows: from the lower halves of lanes, or the upper."""
            picks = [
                [run + k + row for begin in range(lower, side, lane) for run in range(begin, begin + lane // 2, size)
                 for row in (0, side) for k in range(size)]
                for lower in (0, lane // 2)
            ]  # fmt: skip
            pairs = [(rows[k], rows[k + size]) for k in range(side) if not k & size]
            return [builder.shuffle_vector(*pair, indices(pick)) for pair in pairs for pick in picks]

        for level in range(half.bit_length() - 1):
            rows = interleaved(1 << level, half)
        rows = interleaved(half, side)
        rows = rows[::2] + rows[1::2]
        for row, place in zip(rows, places(out, *arguments[3:]), strict=True):
            builder.store(row, place, align=align)
        return context.get_dummy_value()

    integers = [types.intp, types.intp]
    return types.void(source, *integers, out, *integers), generate
