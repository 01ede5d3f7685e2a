"""The polynomials of the exponential and of the logarithm; `python -m benchmarks.polynomials` prints the coefficients.

A polynomial with n coefficients has the smallest possible largest error where it reaches that error at n + 1 points,
with alternating signs. Remez exchange starts from some n + 1 points, computes the polynomial whose errors there are
equal and alternate, and goes on from the points where the error of that polynomial is largest.

E. Y. Remez, Sur la détermination des polynômes d'approximation de degré donnée, Comm. Soc. Math. Kharkov 10, 1934.
"""

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from mpmath import atanh, cos, exp, log, lu_solve, matrix, mp, mpf, pi, polyval, sqrt

Function = Callable[[Any], Any]
BITS = 200
CONVERGED = 1e-20  # the largest error is this close to the smallest possible one, relative to it
SAMPLES = 40  # per point
CUTS = 60  # by a third, of the interval in which an error is largest


class Task(NamedTuple):
    """A function on an interval, the number of coefficients, and by what the error counts."""

    function: Function
    weight: Function
    low: Any
    high: Any
    terms: int


class Found(NamedTuple):
    """The coefficients of a polynomial, lowest power first, rounded to double precision, and its largest errors."""

    coefficients: tuple[float, ...]
    error: float
    rounded_error: float


@mp.workprec(BITS)
def tasks() -> dict[str, Task]:
    """Return the tasks by name.

    Rounding may take r and s a little beyond the ends of their intervals, so these are taken wider, by 0.1 and 0.01 %.
    """
    r = mpf("1.001") * log(2) / 2
    square = mpf("1.0001") * (3 - sqrt(8)) ** 2
    return {
        "exponential, single precision": Task(exp_rest, exp_weight, -r, r, 5),
        "exponential, double precision": Task(exp_rest, exp_weight, -r, r, 10),
        "logarithm, single precision": Task(log_rest, lambda _: 1, mpf(0), square, 6),
        "logarithm, double precision": Task(log_rest, lambda _: 1, mpf(0), square, 7),
    }


def exp_rest(r: Any) -> Any:
    """Return (e**r - 1 - r) / r**2."""
    return (exp(r) - 1 - r) / r**2 if r else mpf(1) / 2


def exp_weight(r: Any) -> Any:
    """Return what turns an error of `exp_rest` into one of e**r relative to it."""
    return r**2 / exp(r)


def log_rest(square: Any) -> Any:
    """Return (2 atanh(s) / s - 2) / s**2 for s**2."""
    s = sqrt(square)
    return (2 * atanh(s) / s - 2) / square if square else mpf(2) / 3


@mp.workprec(BITS)
def solve(task: Task) -> Found:
    """Return the polynomial with the smallest largest error, by Remez exchange."""
    points = sampled(task, task.terms + 1, shift=1e-3)  # an exponential has no error at 0, whatever its coefficients
    while True:
        coefficients, level = equal_errors(task, points)
        points = largest_errors(task, coefficients)
        largest = max(abs(error(task, coefficients, x)) for x in points)
        if largest - level <= CONVERGED * level:
            break
    rounded = tuple(float(coefficient) for coefficient in coefficients)
    rounded_error = max(abs(error(task, rounded, x)) for x in sampled(task, SAMPLES * task.terms))
    return Found(rounded, float(largest), float(rounded_error))


def sampled(task: Task, count: int, shift: float = 0.0) -> list[Any]:
    """Return points of the interval from end to end, denser towards its ends."""
    middle, radius = (task.low + task.high) / 2, (task.high - task.low) / 2
    return [middle - radius * (cos(pi * k / (count - 1)) - shift * (0 < k < count - 1)) for k in range(count)]


def error(task: Task, coefficients: Any, x: Any) -> Any:
    """Return the error of a polynomial at a point."""
    return task.weight(x) * (task.function(x) - polyval(coefficients[::-1], x))


def equal_errors(task: Task, points: list[Any]) -> tuple[list[Any], Any]:
    """Return the coefficients whose errors at these points are equal but for alternating signs, and that error."""
    rows = [[*(x**power for power in range(task.terms)), (-1) ** k / task.weight(x)] for k, x in enumerate(points)]
    *coefficients, level = lu_solve(matrix(rows), matrix([task.function(x) for x in points]))
    return coefficients, abs(level)


def largest_errors(task: Task, coefficients: list[Any]) -> list[Any]:
    """Return the point with the largest error of each run of points whose errors have one sign."""

    def height(x: Any) -> Any:
        return abs(error(task, coefficients, x))

    samples = sampled(task, SAMPLES * (task.terms + 1))
    found = []
    for _, run in groupby(range(len(samples)), key=lambda k: error(task, coefficients, samples[k]) > 0):
        k = max(run, key=lambda k: height(samples[k]))
        at_end = k in {0, len(samples) - 1}
        found.append(samples[k] if at_end else peak(height, samples[k - 1], samples[k + 1]))
    if len(found) != task.terms + 1:
        raise ArithmeticError(f"the error changes its sign {len(found) - 1} times, not {task.terms} times")
    return found


def peak(height: Function, low: Any, high: Any) -> Any:
    """Return where a function is highest between two points, given that it has one peak there."""
    for _ in range(CUTS):
        near, far = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, far) if height(near) > height(far) else (near, high)
    return (low + high) / 2


def main() -> None:
    """Print all polynomials."""
    for name, task in tasks().items():
        found = solve(task)
        print(f"{name}: error {_size(found.error)}; {_size(found.rounded_error)} with these rounded coefficients")
        print(*(f"    {coefficient!r}," for coefficient in found.coefficients), sep="\n")


def _size(value: float) -> str:
    return f"{value:.2g} = 2**{math.log2(value):.1f}"


if __name__ == "__main__":
    main()
