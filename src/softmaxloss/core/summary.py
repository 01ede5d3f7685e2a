"""RowSummary: all that a loss needs to know about some classes of a row; see kernels/row.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import checks
from softmaxloss.kernels import summary as kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

Float64s = NDArray[np.float64]


class RowSummary(NamedTuple):
    """All that a loss needs to know about N rows over a set of classes: the whole vocabulary or a part of it.

    The target t of a row is the class of the set with the largest effective target q. The summaries of
    disjoint sets of classes merge into that of their union, see `merge`. Each field is a float64 array of shape (N,).
    Here z are the logits after the soft cap, and T is the temperature.

    Attributes
    ----------
    peak
        The highest z of the set: -inf if all are, NaN where there is a NaN.
    rest
        The sum of exp((z_j - peak) / T) over all classes of the set but t.
    dot, mass
        The sums of q_j (peak - z_j) / T and of q_j over the set.
    target_logit, q_target
        z_t and q_t.
    """

    peak: Float64s
    rest: Float64s
    dot: Float64s
    mass: Float64s
    target_logit: Float64s
    q_target: Float64s

    def part(self, rows: slice) -> Self:
        """Return the summaries of some of the rows."""
        return type(self)(*(numbers[rows] for numbers in self))

    def cost(self, temperature: float = 1.0) -> Float64s:
        """Return log(rest + exp((z_t - peak) / T)), which is lse - peak / T. A tiny value keeps all its digits."""
        with np.errstate(all="ignore"):
            cost = np.log1p(self.rest + (np.exp((self.target_logit - self.peak) / temperature) - 1))
            return np.where(np.isfinite(self.peak), cost, np.nan)

    def lse(self, temperature: float = 1.0) -> Float64s:
        """Return log(sum_j exp(z_j / T)) over the set."""
        with np.errstate(all="ignore"):
            return np.where(np.isinf(self.peak), self.peak, self.peak / temperature + self.cost(temperature))

    def losses(self, *, z_loss: float = 0.0, temperature: float = 1.0) -> Float64s:
        """Return mass * cost + dot + z_loss * lse**2, the loss of each row before its weight."""
        with np.errstate(all="ignore"):
            loss = self.mass * self.cost(temperature) + self.dot
            return loss + z_loss * self.lse(temperature) ** 2 if z_loss else loss


def new_summary(n: int) -> RowSummary:
    """Return uninitialised summaries."""
    return RowSummary(*(np.empty(n) for _ in RowSummary._fields))


def merge(parts: Sequence[RowSummary], *, temperature: float = 1.0) -> RowSummary:
    """Return the summaries of the union of disjoint sets of classes, given those of each set.

    The highest peak stays, and the sums of the others are scaled by one exponential each:

        rest = sum_b rest_b * exp((peak_b - peak) / T)
        dot  = sum_b dot_b + mass_b * (peak - peak_b) / T

    The target of the set with the largest q_t stays the target; the targets of the other sets join `rest`.

    Parameters
    ----------
    parts : sequence of RowSummary
        At least one summary. All are of the same rows, and no two have a class in common.
    temperature : float, default 1.0
        The temperature of the summaries.

    Returns
    -------
    RowSummary

    Raises
    ------
    TypeError, ValueError
        If there is no summary, their numbers of rows differ, or the temperature is no number or out of range.

    Examples
    --------
    >>> import softmaxloss
    >>> left = softmaxloss.summarize([[0.3, 2.9]], [2], n_classes=3)
    >>> right = softmaxloss.summarize([[4.0]], [2], first_class=2, n_classes=3)
    >>> softmaxloss.merge([left, right]).losses().round(3)
    array([0.306])
    """
    rows = [len(part.peak) for part in parts]
    if len(set(rows)) != 1:
        raise ValueError(f"parts must be one or more summaries with equally many rows, got {rows} rows")
    merged, temperature = new_summary(rows[0]), checks.temperature(temperature)
    kernels.merge(RowSummary(*map(np.stack, zip(*parts, strict=True))), temperature, merged)
    return merged
