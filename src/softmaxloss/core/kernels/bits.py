"""What Numba has no words for: floats as integers, hints to the caches, and arrays on the stack."""

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

CACHE_LINE = 64  # bytes
SQUARE_BYTES = 32  # of a row of a square that is transposed at once

_INTEGER = {types.float32: types.int32, types.float64: types.int64}
_FLOAT = {integer: number for number, integer in _INTEGER.items()}


def _flip_if_negative(builder: Any, bits: Any) -> Any:
    """Flip all bits but the sign where the sign is set: floats in two's complement order, and back."""
    width = bits.type.width
    sign = builder.ashr(bits, bits.type(width - 1))
    return builder.xor(bits, builder.and_(sign, bits.type(2 ** (width - 1) - 1)))


@intrinsic
def order_key(context: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    """Return an integer that is ordered as the floats are, with NaN above inf or, of negative sign, below -inf."""
    key = _INTEGER[number]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _flip_if_negative(builder, builder.bitcast(arguments[0], context.get_value_type(key)))

    return key(number), generate


@intrinsic
def number_of_key(context: Any, key: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the float that has this order_key."""
    number = _FLOAT[key]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(_flip_if_negative(builder, arguments[0]), context.get_value_type(number))

    return number(key), generate


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
        # the biased exponent in the lowest bits of the float 2**52
        magic = builder.or_(builder.lshr(bits, word(52)), word(0x4330000000000000))
        return builder.fsub(builder.bitcast(magic, ir.DoubleType()), ir.DoubleType()(2.0**52 + 1023))

    return types.float64(number), generate


@intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a * b + c, rounded once: one instruction of processors since 2013, a slow function on others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), generate


@intrinsic
def transpose(
    context: Any, source: Any, begin: Any, stride: Any, out: Any, out_begin: Any, out_stride: Any
) -> tuple[Any, Callable[..., Any]]:
    """Copy a square of source[begin + i * stride + j] to out[out_begin + j * out_stride + i]; its size is side_of.

    The square is read as vectors, its rows, which are interleaved: single numbers, then pairs of them, within the
    halves of 16 bytes that processors can shuffle at once, and at last these halves.
    """
    side = side_of(source.dtype)

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
            """Take runs of so many numbers by turns from two rows so far apart, of lower, or upper halves of lanes."""
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


def side_of(dtype: Any) -> int:
    """Return the size of a square that `transpose` takes."""
    return SQUARE_BYTES * 8 // int(dtype.bitwidth)


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
    """Return the only entry of an int64 array, after which all is seen that was written before it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(counter)(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(counter), generate


@cache
def local_array(size: int) -> Callable[..., Any]:
    """Return a function that makes an array of so many numbers, uninitialised, of the dtype of its argument.

    It lives on the stack of the kernel until that ends. The compiler knows that no other array overlaps it.
    """

    @intrinsic
    def make(context: Any, like: Any) -> tuple[Any, Callable[..., Any]]:
        kind = types.Array(like, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number, integer = context.get_data_type(like), context.get_value_type(types.intp)
            with builder.goto_entry_block():
                data = builder.alloca(ir.ArrayType(number, size))
            data.align = CACHE_LINE
            itemsize = integer(context.get_abi_sizeof(number))
            array = context.make_array(kind)(context, builder)
            data = builder.bitcast(data, number.as_pointer())
            shape, strides = [integer(size)], [itemsize]
            populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
            return array._getvalue()  # noqa: SLF001

        return kind(like), generate

    return make


def decoded(stored: Any) -> Any:
    """Return a stored number in the precision it is computed in.

    Float16 comes as the int16 of its bits, bfloat16 as uint16: Numba knows no numbers of half width.
    """
    raise NotImplementedError  # compiled code has the versions below


@overload(decoded, strict=False, inline="always")
def _decoded(stored: Any) -> Callable[..., Any]:
    if stored == types.int16:
        return lambda stored: _of_float16(stored)
    if stored == types.uint16:
        return lambda stored: _of_bfloat16(stored)
    return lambda stored: stored


@intrinsic
def encoded(context: Any, number: Any, like: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a number as it is stored, rounded to the nearest even, in the format of another one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _ENCODED.get(like, _as_it_is)(builder, arguments[0])

    return (like if like in _ENCODED else number)(number, like), generate


@intrinsic
def _of_float16(context: Any, stored: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(stored), generate


@intrinsic
def _of_bfloat16(context: Any, stored: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(stored), generate


def _to_float16(builder: Any, number: Any) -> Any:
    half, bits = (_as_many(number, kind) for kind in (ir.HalfType(), ir.IntType(16)))
    return builder.bitcast(builder.fptrunc(number, half), bits)


def _to_bfloat16(builder: Any, number: Any) -> Any:
    kind = _as_many(number, ir.IntType(32))

    def word(value: int) -> Any:
        return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)

    bits = builder.bitcast(number, kind)
    high = builder.lshr(bits, word(16))
    # half a unit less one bit, and that bit if the last one kept is odd: to the nearest, ties to even
    rounded = builder.add(builder.add(bits, word(0x7FFF)), builder.and_(high, word(1)))
    is_nan = builder.fcmp_unordered("uno", number, number)
    quiet = builder.or_(high, word(0x40))
    result = builder.select(is_nan, quiet, builder.lshr(rounded, word(16)))
    return builder.trunc(result, _as_many(number, ir.IntType(16)))


def _as_many(numbers: Any, kind: Any) -> Any:
    """Return the type of as many values of a kind as there are numbers: one, or a vector."""
    return ir.VectorType(kind, numbers.type.count) if isinstance(numbers.type, ir.VectorType) else kind


def _as_it_is(builder: Any, number: Any) -> Any:
    return number


_ENCODED = {types.int16: _to_float16, types.uint16: _to_bfloat16}


@intrinsic
def stream_line(context: Any, source: Any, factor: Any, destination: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Write source[index:] times a factor, encoded, to the cache line beginning at destination[index], past caches."""

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
        value = _ENCODED.get(destination.dtype, _as_it_is)(builder, value)
        write = builder.store(value, place(destination, arguments[2], value.type), align=CACHE_LINE)
        write.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(source, source.dtype, destination, types.intp), generate
