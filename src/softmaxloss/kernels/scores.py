"""The entry point for argmax, rank and entropy, which `metrics` needs besides losses: a second pass over rows."""

import math
from typing import Any

from softmaxloss.kernels.by_row.blocks import BLOCK, block_for, load
from softmaxloss.kernels.by_row.sweep import highest_of_row
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import decoded, zero_in
from softmaxloss.kernels.numerics.double_double import rounded
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    Reference,
    Temperature,
    below_own_peak,
    reference_of,
    scaled_exp,
)
from softmaxloss.kernels.numerics.lanes import LANES, clear, lane_sum, lanes_for
from softmaxloss.kernels.numerics.logarithm import log_one_plus
from softmaxloss.kernels.row import of_row, rows_of


@kernel
def score(logits: Any, uncapped: Any, rows: Any, scores: Any) -> None:
    """Fill argmax, rank and entropy of rows that have a label.

    Rows of weight 0, or without a softmax, are left as they are. Argmax and rank are those of the `uncapped` logits:
    far beyond a soft cap, different logits become equal.
    """
    number, rows = zero_in(logits), rows_of(rows)
    block, lanes = block_for(number), lanes_for(number)
    for i in range(logits.shape[0]):
        if of_row(rows.weight, i) == 0.0 or math.isnan(scores.log_probability[i]):
            continue
        peak, winner = highest_of_row(logits[i], rows.class_mask, block, lanes.run)
        scores.entropy[i] = _entropy(logits[i], peak, winner, rows, block, lanes)
        _, scores.argmax[i] = highest_of_row(uncapped[i], rows.class_mask, block, lanes.run)
        scores.rank[i] = _rank(uncapped[i], rows.label[i], rows.class_mask, block, lanes.run)


@inline
def _entropy(row: Any, peak: Any, winner: int, rows: Any, block: Any, lanes: Any) -> float:
    """Return the entropy log(1 + rest) + sum_j x_j exp(-x_j) / (1 + rest), with x_j = (peak - z_j) / T.

    Here `rest` is the sum of exp(-x_j) over all classes but the winner.
    """
    t, rest, moment = rows.temperature, 0.0, 0.0
    reference = reference_of(peak, t)
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, _ = load(row[start:stop], rows.class_mask[start:stop], block, lanes.run)
        others, with_gaps = _sums_below(z, winner - start, peak, reference, t, lanes)
        rest += others
        moment += with_gaps
    below = rounded(below_own_peak(peak, reference, t)) * UNSCALE
    return rounded(log_one_plus(rest * below, 0.0)) + moment * below / (1.0 + rest * below)


@inline
def _sums_below(
    z: Any, winner: int, peak: Any, reference: Reference, temperature: Temperature, lanes: Any
) -> tuple[float, float]:
    """Return the sums of SCALE * exp((z - R) / T), and of these times x, without the winner; -inf adds nothing."""
    reciprocal = z.dtype.type(temperature.value) ** -1
    clear(lanes.run)
    clear(lanes.first)
    for start in range(0, z.size, LANES):
        part = z[start : start + LANES]
        for lane in range(part.size):
            term = scaled_exp(part[lane] - reference.base, reference, temperature)
            term = term if start + lane != winner else part.dtype.type(0)
            gap = (peak - part[lane]) * reciprocal if term > 0 else part.dtype.type(0)
            lanes.run[lane] += term * gap
            lanes.first[lane] += term
    return lane_sum(lanes.first), lane_sum(lanes.run)


@inline
def _rank(logits: Any, label: int, class_mask: Any, block: Any, scratch: Any) -> int:
    """Return the rank of the label among the classes that exist; of equal logits the first ranks first."""
    rank, logit = 1, decoded(logits[label])
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        z, _ = load(logits[start:stop], class_mask[start:stop], block, scratch)
        for j in range(z.size):
            rank += z[j] > logit or (z[j] == logit and start + j < label)
        for j in range(start, min(stop, label, class_mask.size) if logit == -math.inf else 0):
            rank -= not class_mask[j]  # masked classes are -inf, too
    return rank
