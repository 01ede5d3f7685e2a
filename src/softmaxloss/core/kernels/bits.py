"""Floats as integers: the three tricks with bits that Numba has no words for."""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

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
    """Return 2**n for the integer n in the lowest bits of the float `shifted`; 2**n must be a normal number."""
    mantissa_bits, one = (23, 0x3F800000) if shifted == types.float32 else (52, 0x3FF0000000000000)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], context.get_value_type(_INTEGER[shifted]))
        power = builder.add(builder.shl(bits, bits.type(mantissa_bits)), bits.type(one))
        return builder.bitcast(power, context.get_value_type(shifted))

    return shifted(shifted), generate
