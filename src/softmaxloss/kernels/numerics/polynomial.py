"""Polynomials, as two chains of instructions that do not wait for each other."""

from typing import Any

from softmaxloss.kernels.machine.compilation import fused

Halves = tuple[tuple[Any, ...], tuple[Any, ...]]


def halves(coefficients: tuple[Any, ...]) -> Halves:
    """Return the coefficients of even and of odd powers, highest first, given all of them, lowest first."""
    return coefficients[::2][::-1], coefficients[1::2][::-1]


@fused
def polynomial(coefficients: Halves, x: Any, square: Any) -> Any:
    """Return the sum of coefficients times powers of x, given x and x**2."""
    even, odd = coefficients
    evens, odds = even[0], odd[0]
    for coefficient in even[1:]:
        evens = evens * square + coefficient
    for coefficient in odd[1:]:
        odds = odds * square + coefficient
    return evens + odds * x
