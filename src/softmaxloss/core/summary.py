"""RowSummary: all that a loss needs to know of a row of logits, exact and mergeable.

One row of logits z at temperature T against an effective target q with sum `mass` (see rows.py):

    k     = argmax_j z_j                                 the lowest index on a tie
    peak  = z_k
    rest  = sum over j != k of exp((z_j - peak) / T)     everything but the winner, relative to the winner
    dot   = sum_j q_j (z_j - peak) / T                   <= 0
    lse   = peak / T + log1p(rest)
    loss  = weight * (mass * log1p(rest) - dot + z_loss * lse**2)        no term is negative: nothing cancels
    slope = mass + 2 * z_loss * lse                      d loss / d z_j = weight / T * (slope * softmax_j - q_j)

Summaries of disjoint sets of classes merge into that of their union, so a block in cache, a slice of the vocabulary
and a shard on another machine are the same thing. The functions on single rows here are compiled into the kernels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.kernels.arithmetic import (
    carried,
    clear,
    fold,
    folded_lanes,
    gap_times,
    of_row,
    over,
    per,
    plus,
    rounded,
    times,
    two_sum,
)
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import Temperature, temperature_of, times_exp
from softmaxloss.core.kernels.logarithm import log_one_plus


class RowSummary(NamedTuple):
    """Summaries of N rows over a set of classes.

    Attributes
    ----------
    argmax : int64 array, shape (N,)
    peak, rest, dot : float64 arrays, shape (N,)
        As above. A row without any logit above -inf has peak -inf and rest 0; one with a NaN has peak NaN.
    mass : float64 array, shape (N,)
        Sum of q over this set of classes.
    """

    argmax: NDArray[np.int64]
    peak: NDArray[np.float64]
    rest: NDArray[np.float64]
    dot: NDArray[np.float64]
    mass: NDArray[np.float64]

    def part(self, rows: slice) -> Self:
        """Return the summaries of some of the rows."""
        return type(self)(self.argmax[rows], self.peak[rows], self.rest[rows], self.dot[rows], self.mass[rows])


def new_summary(n: int) -> RowSummary:
    """Return room for n summaries."""
    return RowSummary(np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n), np.empty(n))


@inline
def merge_parts(parts: Any, n: int, temperature: Temperature) -> tuple[int, float, float, float, float]:
    """Merge the first n entries, summaries of disjoint sets of classes of one row.

    With one winner w, the part of the highest peak, the others' winners are ordinary classes:

        rest = rest_w + sum over b != w of exp((peak_b - peak_w) / T) (1 + rest_b)
        dot  = sum_b dot_b + mass_b (peak_b - peak_w) / T
    """
    winner = 0
    for b in range(1, n):
        tie = parts.peak[b] == parts.peak[winner] and parts.argmax[b] < parts.argmax[winner]
        if parts.peak[b] > parts.peak[winner] or tie or math.isnan(parts.peak[b]):
            winner = b
    peak, rest, dot, mass = parts.peak[winner], parts.rest[winner], parts.dot[winner], parts.mass[winner]
    lost_rest = lost_dot = 0.0
    for b in range(n):
        if b == winner:
            continue
        mass += parts.mass[b]
        dot, error = two_sum(dot, parts.dot[b])
        lost_dot += error
        if peak == -math.inf:
            continue
        rest, error = two_sum(rest, times_exp(1.0 + parts.rest[b], parts.peak[b], peak, temperature))
        lost_rest += error
        if parts.mass[b] > 0.0:
            dot, error = two_sum(dot, gap_times(parts.mass[b], parts.peak[b], peak, temperature.value))
            lost_dot += error
    if dot > -math.inf:
        dot += lost_dot
    return parts.argmax[winner], peak, rest + lost_rest, dot, mass


@inline
def row_loss(rows: Any, mass: float, weight: float, peak: Any, rest: Any, dot: float) -> Any:
    """Return the loss of a row; NaN where its logits define no softmax."""
    log_total = log_one_plus(rounded(rest), peak)
    loss = plus(times(log_total, mass), -dot)
    if rows.z_loss > 0.0:
        lse = log_sum_exp(rows, peak, log_total)
        loss = plus(loss, times(times(lse, rows.z_loss), lse))  # in this order, as lse**2 may overflow
    loss = rounded(times(loss, weight))
    return loss if math.isfinite(peak) else math.nan


@inline
def log_sum_exp(rows: Any, peak: Any, log_total: Any) -> Any:
    """Return peak / T + log(1 + rest)."""
    return plus(per(carried(np.float64(peak), 0.0, peak), rows.temperature), log_total)


class Factors(NamedTuple):
    """What the gradient of one row is made of: f * exp((z - peak) / T) - d * q."""

    f: Any  # carried
    d: float
    extra: float  # what z-loss adds to mass in the slope


@inline
def gradient_factors(rows: Any, mass: float, weight: float, d_loss: float, peak: Any, rest: Any) -> Factors:
    """Return the factors of a row, NaN where logits define no softmax.

    d = d_loss * weight / T and f = d * slope / (1 + rest).
    """
    d = per(times(carried(weight, 0.0, peak), d_loss), rows.temperature)
    extra = carried(0.0, 0.0, peak)
    if rows.z_loss > 0.0:
        extra = times(log_sum_exp(rows, peak, log_one_plus(rounded(rest), peak)), 2.0 * rows.z_loss)
    f = over(times(d, plus(extra, mass)), plus(rest, 1.0))
    nothing = 0.0 if math.isfinite(peak) else math.nan
    return Factors(plus(f, nothing), rounded(d), rounded(extra))


@inline
def gradient_at_winner(mass: float, factors: Factors, rest: float, q: float) -> Any:
    """Return the gradient for the class of the highest logit: its softmax is 1 / (1 + rest) = 1 - rest / (1 + rest)."""
    f = rounded(factors.f)
    near = factors.d * ((mass - q) + factors.extra) - f * rest
    return near if q > abs(mass + factors.extra) / 2.0 else f - factors.d * q


@kernel
def row_losses(rows: Any, summary: RowSummary, begin: int, end: int, loss: Any) -> None:
    """Fill the losses of rows begin to end from their summaries; 0 for rows of weight 0."""
    for i in range(begin, end):
        loss[i] = 0.0
        mass, weight = of_row(rows.mass, i), of_row(rows.weight, i)
        if weight != 0.0:
            loss[i] = row_loss(rows, mass, weight, summary.peak[i], summary.rest[i], summary.dot[i])


@kernel
def total_loss(losses: Any) -> Any:
    """Return the sum of losses of rows, rounded about once."""
    totals, losts = folded_lanes(0.0), folded_lanes(0.0)
    clear(totals)
    clear(losts)
    fold(losses, totals, losts)
    total = lost = 0.0
    for lane in range(totals.size):  # not as in lane_sum, which would take half a second longer to compile
        total, error = two_sum(total, totals[lane])
        lost += error + losts[lane]
    return total + lost if math.isfinite(lost) else total


@kernel
def _merge_rows(stacked: RowSummary, temperature: Temperature, merged: RowSummary) -> None:
    """Merge stacked summaries of shape (parts, rows) row by row."""
    n_parts, n_rows = stacked.argmax.shape
    for i in range(n_rows):
        parts = RowSummary(
            stacked.argmax[:, i], stacked.peak[:, i], stacked.rest[:, i], stacked.dot[:, i], stacked.mass[:, i]
        )
        row = merge_parts(parts, n_parts, temperature)
        merged.argmax[i], merged.peak[i], merged.rest[i], merged.dot[i], merged.mass[i] = row


def merge(parts: Sequence[RowSummary], temperature: float = 1.0) -> RowSummary:
    """Return the summaries of the union of disjoint sets of classes, given those of each set.

    `argmax` of each part must count over all classes. Merging is associative up to rounding.
    """
    stacked = RowSummary(*(np.stack(columns) for columns in zip(*parts, strict=True)))
    merged = new_summary(len(parts[0].argmax))
    _merge_rows(stacked, temperature_of(temperature), merged)
    return merged
