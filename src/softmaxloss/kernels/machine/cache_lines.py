"""Cache lines: where they begin, and streaming stores, which bypass the caches."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softmaxloss.kernels.machine.compilation import inline
from softmaxloss.kernels.machine.half import encode, encoded
from softmaxloss.kernels.machine.intrinsics import CACHE_LINE


@inline
def numbers_before_cache_line(array: Any) -> int:
    """Return how many numbers of an array lie before the first that begins a cache line."""
    return (-array.ctypes.data % CACHE_LINE) // array.itemsize


@inline
def store(source: Any, factor: Any, out: Any, streamed: bool) -> None:
    """Write numbers times a factor to `out`, in its format; streaming stores bypass the caches."""
    begin = end = 0
    if streamed:
        per_line = CACHE_LINE // out.itemsize
        begin = min(out.size, numbers_before_cache_line(out))
        end = begin + (out.size - begin) // per_line * per_line
        for j in range(begin, end, per_line):
            stream_line(source, factor, out, j)
    for first, last in ((0, begin), (end, out.size)):
        _store(source[first:last], factor, out[first:last])


@inline
def _store(source: Any, factor: Any, out: Any) -> None:
    for j in range(out.size):
        out[j] = encoded(source[j] * factor, out[j])


@intrinsic
def stream_line(context: Any, source: Any, factor: Any, destination: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Write source[index:] times a factor to the cache line that begins at destination[index], by a streaming store."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, stored = (context.get_value_type(array.dtype) for array in (source, destination))
        count, align = CACHE_LINE // context.get_abi_sizeof(stored), context.get_abi_sizeof(number)
        line = ir.VectorType(number, count)

        def place(array: Any, value: Any, kind: Any) -> Any:
            data = context.make_array(array)(context, builder, value).data
            return builder.bitcast(builder.gep(data, [arguments[3]]), kind.as_pointer())

        one = builder.insert_element(ir.Constant(line, ir.Undefined), arguments[1], ir.IntType(32)(0))
        factors = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), count), None))
        value = builder.fmul(builder.load(place(source, arguments[0], line), align=align), factors)
        value = encode(builder, value, destination.dtype)
        write = builder.store(value, place(destination, arguments[2], value.type), align=CACHE_LINE)
        write.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(source, source.dtype, destination, types.intp), generate
