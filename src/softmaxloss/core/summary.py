"""RowSummary: all that a loss needs to know of a row of logits, exact and mergeable.

One row of logits z against an effective target q with sum `mass` (see rows.py):

    k    = argmax_j z_j                               the lowest index on a tie
    peak = z_k
    rest = sum over j != k of exp(z_j - peak)         everything but the winner, relative to the winner
    dot  = sum_j q_j (z_j - peak)                     <= 0
    lse  = peak + log1p(rest)
    loss = weight * (mass * log1p(rest) - dot)        no term is negative: nothing cancels

Summaries of disjoint sets of classes merge into that of their union, so a block in cache, a slice of the vocabulary
and a shard on another machine are the same thing. The functions on single rows here are compiled into the kernels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.kernels.arithmetic import half_gap, two_sum
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import LIFT, UNLIFT, lifted_exp


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
def merge_parts(parts: Any, n: int) -> tuple[int, float, float, float, float]:
    """Merge the first n entries, summaries of disjoint sets of classes of one row.

    With one winner w, the part of the highest peak, the others' winners are ordinary classes:

        rest = rest_w + sum over b != w of exp(peak_b - peak_w) (1 + rest_b)
        dot  = sum_b dot_b + mass_b (peak_b - peak_w)
    """
    winner = 0
    for b in range(1, n):
        tie = parts.peak[b] == parts.peak[winner] and parts.argmax[b] < parts.argmax[winner]
        if parts.peak[b] > parts.peak[winner] or tie or math.isnan(parts.peak[b]):
            winner = b
    peak, rest, dot, mass = parts.peak[winner], parts.rest[winner], parts.dot[winner], parts.mass[winner]
    rest, lost_rest, lost_dot = rest * LIFT, 0.0, 0.0
    for b in range(n):
        if b == winner:
            continue
        mass += parts.mass[b]
        dot, error = two_sum(dot, parts.dot[b])
        lost_dot += error
        if peak == -math.inf:
            continue
        rest, error = two_sum(rest, lifted_exp(parts.peak[b], peak) * (1.0 + parts.rest[b]))
        lost_rest += error
        if parts.mass[b] > 0.0:
            dot, error = two_sum(dot, 2.0 * (parts.mass[b] * half_gap(parts.peak[b], peak)))
            lost_dot += error
    if dot > -math.inf:
        dot += lost_dot
    return parts.argmax[winner], peak, (rest + lost_rest) * UNLIFT, dot, mass


@inline
def row_loss(weight: float, mass: float, peak: float, rest: float, dot: float) -> float:
    """Return the loss of a row; NaN where its logits define no softmax."""
    if not math.isfinite(peak):
        return math.nan
    return weight * (mass * math.log1p(rest) - dot)


@kernel
def _merge_rows(stacked: RowSummary, merged: RowSummary) -> None:
    """Merge stacked summaries of shape (parts, rows) row by row."""
    n_parts, n_rows = stacked.argmax.shape
    for i in range(n_rows):
        parts = RowSummary(
            stacked.argmax[:, i], stacked.peak[:, i], stacked.rest[:, i], stacked.dot[:, i], stacked.mass[:, i]
        )
        row = merge_parts(parts, n_parts)
        merged.argmax[i], merged.peak[i], merged.rest[i], merged.dot[i], merged.mass[i] = row


def merge(parts: Sequence[RowSummary]) -> RowSummary:
    """Return the summaries of the union of disjoint sets of classes, given those of each set.

    `argmax` of each part must count over all classes. Merging is associative up to rounding.
    """
    stacked = RowSummary(*(np.stack(columns) for columns in zip(*parts, strict=True)))
    merged = new_summary(len(parts[0].argmax))
    _merge_rows(stacked, merged)
    return merged
