"""Float16 and bfloat16, which Numba does not know: decoded when they are read, encoded when they are written."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softmaxloss.kernels.machine.compilation import by_type

_WORD = ir.IntType(32)


@intrinsic
def decoded(context: Any, stored: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a stored number in the precision it is computed in.

    Float16 comes as the int16 of its bits, bfloat16 as uint16: Numba knows no numbers of half width.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (number,) = arguments
        if stored == types.int16:
            return builder.fpext(builder.bitcast(number, ir.HalfType()), ir.FloatType())
        if stored == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(number, _WORD), _WORD(16)), ir.FloatType())
        return number

    return (types.float32 if stored in _ENCODERS else stored)(stored), generate


@by_type
def zero_in(logits: Any) -> Any:
    """Return 0 in the precision that logits are computed in."""
    real: type[np.floating[Any]] = np.float64 if logits.dtype == types.float64 else np.float32
    return lambda logits: real(0)


@intrinsic
def encoded(context: Any, number: Any, like: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a number in the stored format of `like`, rounded to the nearest, ties to even."""
    encoded_type = like if like in _ENCODERS else number
    return encoded_type(number, like), lambda _, builder, __, arguments: encode(builder, arguments[0], like)


def encode(builder: Any, number: Any, stored: Any) -> Any:
    """Generate the code that encodes a number, or a vector of numbers, as a stored type."""
    return _ENCODERS[stored](builder, number) if stored in _ENCODERS else number


def _to_float16(builder: Any, number: Any) -> Any:
    half, bits = (_as_many(number, kind) for kind in (ir.HalfType(), ir.IntType(16)))
    return builder.bitcast(builder.fptrunc(number, half), bits)


def _to_bfloat16(builder: Any, number: Any) -> Any:
    kind = _as_many(number, _WORD)

    def word(value: int) -> Any:
        return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)

    bits = builder.bitcast(number, kind)
    high = builder.lshr(bits, word(16))
    # adding 0x7FFF, and 1 more if the last kept bit is odd, rounds to the nearest, ties to even
    rounded = builder.add(builder.add(bits, word(0x7FFF)), builder.and_(high, word(1)))
    is_nan = builder.fcmp_unordered("uno", number, number)
    quiet = builder.or_(high, word(0x40))
    result = builder.select(is_nan, quiet, builder.lshr(rounded, word(16)))
    return builder.trunc(result, _as_many(number, ir.IntType(16)))


def _as_many(numbers: Any, kind: Any) -> Any:
    """Return a kind, or the vector of it that is as long as a vector of numbers."""
    return ir.VectorType(kind, numbers.type.count) if isinstance(numbers.type, ir.VectorType) else kind


_ENCODERS = {types.int16: _to_float16, types.uint16: _to_bfloat16}
