"""Operations that Numba lacks: floats as integers, hints to the caches, atomic counters, and arrays on the stack."""

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

CACHE_LINE = 64  # bytes

_INTEGER = {types.float32: types.int32, types.float64: types.int64}


@intrinsic
def higher(context: Any, a: Any, b: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the higher of two floats, or either one if one is NaN. A loop of it becomes vector code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        maximum = builder.module.declare_intrinsic("llvm.maxnum", [number], ir.FunctionType(number, [number, number]))
        return builder.call(maximum, arguments, fastmath=("nnan", "nsz"))

    return a(a, a), generate


@intrinsic
def power_of_two(context: Any, shifted: Any) -> tuple[Any, Callable[..., Any]]:
    """Return 2**(n - bias), a normal number, for the integer n in the lowest bits of the float `shifted`; 0 for n = 0.

    The bias is that of the format: 127 in single precision, 1023 in double.
    """
    mantissa_bits = 23 if shifted == types.float32 else 52

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], context.get_value_type(_INTEGER[shifted]))
        power = builder.shl(bits, bits.type(mantissa_bits))
        return builder.bitcast(power, context.get_value_type(shifted))

    return shifted(shifted), generate


@intrinsic
def binary_exponent(context: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    """Return k, as a float, for which number / 2**k lies between sqrt(1/2) and sqrt(2); for normal numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.add(builder.bitcast(arguments[0], word), word(0x3FF0000000000000 - 0x3FE6A09E667F3BCD))
        # put the biased exponent into the lowest bits of the float 2**52
        magic = builder.or_(builder.lshr(bits, word(52)), word(0x4330000000000000))
        return builder.fsub(builder.bitcast(magic, ir.DoubleType()), ir.DoubleType()(2.0**52 + 1023))

    return types.float64(number), generate


@intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a * b + c, rounded once: one instruction on processors since 2013, a slow function on others."""
    return a(a, a, a), lambda _, builder, __, arguments: builder.fma(*arguments)


@intrinsic
def prefetch(context: Any, array: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Ask for the cache line of array[index], which is about to be used."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), "llvm.prefetch.p0"
        )
        read, keep_in_all_caches, data_cache = word(0), word(3), word(1)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [place, read, keep_in_all_caches, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def atomic_add(context: Any, counter: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    """Add to the only entry of an int64 array and return what it was, so that no two threads get the same.

    Who then reads the sum by atomic_load sees all that this thread has written.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(counter)(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, arguments[1], "acq_rel")

    return types.int64(counter, types.int64), generate


@intrinsic
def atomic_load(context: Any, counter: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the only entry of an int64 array. The caller then sees all that was written before this entry."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(counter)(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(counter), generate


@cache
def stack_array(size: int) -> Callable[..., Any]:
    """Return a function that makes an uninitialised array of this size and of the dtype of its argument.

    The array lives on the stack of the kernel until it returns. The compiler knows that no other array overlaps it.
    """

    @intrinsic
    def make(context: Any, like: Any) -> tuple[Any, Callable[..., Any]]:
        kind = types.Array(like, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _stack_array(context, builder, kind, size)

        return kind(like), generate

    return make


def stack_arrays(fields: Any, size: int) -> Callable[..., Any]:
    """Return a function that makes a NamedTuple of such arrays.

    Each field is annotated with its Numba dtype, or with None for the dtype of the function's argument.
    """

    @intrinsic
    def make(context: Any, like: Any) -> tuple[Any, Callable[..., Any]]:
        dtypes = [annotation.__metadata__[0] for annotation in fields.__annotations__.values()]
        kinds = [types.Array(like if dtype is None else dtype, 1, "C") for dtype in dtypes]
        arrays = types.NamedTuple(kinds, fields)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.make_tuple(builder, arrays, [_stack_array(context, builder, kind, size) for kind in kinds])

        return arrays(like), generate

    return make


def _stack_array(context: Any, builder: Any, kind: Any, size: int) -> Any:
    number, integer = context.get_data_type(kind.dtype), context.get_value_type(types.intp)
    with builder.goto_entry_block():
        data = builder.alloca(ir.ArrayType(number, size))
    data.align = CACHE_LINE
    itemsize = integer(context.get_abi_sizeof(number))
    array = context.make_array(kind)(context, builder)
    data = builder.bitcast(data, number.as_pointer())
    shape, strides = [integer(size)], [itemsize]
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()  # noqa: SLF001
