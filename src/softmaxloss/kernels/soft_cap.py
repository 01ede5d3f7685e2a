"""The entry points that cap logits, c tanh(x / c), and apply the slope of the cap, 1 / cosh(x / c)**2.

Both compute in double precision. With e = exp(-2 |x| / c), tanh(|x| / c) is (1 - e) / (1 + e), and the slope is
4 e / (1 + e)**2. `less_one` returns e - 1 with all its digits, where 1 - e would lose them.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import decoded
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    exponential,
    less_one,
    reduced,
    reference_of,
    temperature_of,
)


@kernel
def cap(logits: Any, softcap: float, out: Any) -> None:
    """Write capped logits to `out`; both arrays are flat."""
    one = temperature_of(1.0)
    zero = reference_of(0.0, one)
    for i in range(logits.size):
        x = np.float64(decoded(logits[i]))
        r, power = _reduced_square(x, softcap, zero, one)
        less = less_one(r, power)
        out[i] = math.copysign(softcap * (less / (2.0 + less)), x)


@kernel
def multiply_by_slope(logits: Any, softcap: float, gradient: Any) -> None:
    """Turn a gradient with respect to capped logits into one with respect to the logits; 0 stays 0, beside NaN, too."""
    one = temperature_of(1.0)
    zero = reference_of(0.0, one)
    for i in range(logits.size):
        r, power = _reduced_square(np.float64(decoded(logits[i])), softcap, zero, one)
        total = 2.0 + less_one(r, power)
        slope = 4.0 * exponential(r, power) / (total * total)
        gradient[i] = gradient[i] * slope if gradient[i] != 0.0 else gradient[i]


@inline
def _reduced_square(x: float, softcap: float, zero: Any, one: Any) -> tuple[float, float]:
    """Return r and a power of two such that exp(-2 |x| / softcap) is power * e**r."""
    r, power = reduced(-2.0 * (abs(x) / softcap), zero, one)
    return r, power * UNSCALE
