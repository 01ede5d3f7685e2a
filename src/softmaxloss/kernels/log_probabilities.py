"""The entry points for the log-probability of a label and the entropy of its row, and for the gradient of both.

A row is seen from its winner k, the class of the highest logit. With x_j = (peak - z_j) / T, which is never negative:

    rest    = sum over j != k of exp(-x_j)
    moment  = sum over j != k of x_j exp(-x_j)
    total   = 1 + rest
    log p_j = -x_j - log(total)                       both terms are negative: nothing cancels
    H       = log(total) + moment / total             = -sum_j p_j log p_j
    m       = moment / total                          so that log p_j + H = m - x_j

    d log p_t / d z_j = ([j = t] - p_j) / T           1 - p_t = rest / total where t is the winner
    d H / d z_j       = p_j (x_j - m) / T             = -p_j (log p_j + H) / T
"""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.kernels.by_row.blocks import BLOCK, block_for, load
from softmaxloss.kernels.by_row.sweep import highest_of_row
from softmaxloss.kernels.machine.cache_lines import store
from softmaxloss.kernels.machine.compilation import fused, inline, kernel
from softmaxloss.kernels.machine.half import decoded, encoded, zero_in
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.double_double import rounded, two_sum
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
from softmaxloss.kernels.row import half_gap, of_row, rows_of


@kernel
def log_probs(
    logits: Any,
    rows: Any,
    d_log_prob: Any,
    d_entropy: Any,
    taken: Any,
    share: int,
    log_prob: Any,
    entropy: Any,
    out: Any,
) -> None:
    """Fill the log-probabilities of labels and the entropies of rows, taking a share of them at a time.

    `out` gets d_log_prob times the gradient of the one plus d_entropy times that of the other. It may be `logits`, or
    hold nothing where no gradient is wanted. All results are 0 in rows of weight 0, and NaN in rows without a softmax.
    """
    number, rows = zero_in(logits), rows_of(rows)
    block, results, lanes, has_gradients = block_for(number), block_for(number), lanes_for(number), out.size > 0
    begin = take(taken, share)
    while begin < logits.shape[0]:
        for i in range(begin, min(begin + share, logits.shape[0])):
            if of_row(rows.weight, i) == 0.0:
                log_prob[i] = entropy[i] = 0.0
                if has_gradients:
                    clear(out[i])
                continue
            seen, label = seen_from_winner(logits[i], rows, block, lanes), rows.label[i]
            z_label = decoded(logits[i][label])
            log_prob[i] = -gap_of(z_label, seen.peak, rows.temperature) - log_total(seen)
            entropy[i] = entropy_of(seen)
            if has_gradients:
                d_p, d_h = of_row(d_log_prob, i), of_row(d_entropy, i)
                _write_gradients(logits[i], rows, seen, d_p, d_h, block, results, lanes, out[i])
                at_label = _at_label(z_label, label, seen, d_p, d_h, rows.temperature)
                out[i][label] = encoded(block.dtype.type(at_label), out[i][label])
        begin = take(taken, share)


class Seen(NamedTuple):
    """A row seen from its winner; see the formulas above."""

    peak: Any
    winner: int
    reference: Reference
    below: float  # exp((R - peak) / T) / SCALE
    rest: float
    moment: float


@inline
def seen_from_winner(row: Any, rows: Any, block: Any, lanes: Any) -> Seen:
    """Return what is known of a row after two passes over it; NaN where its logits define no softmax."""
    t = rows.temperature
    peak, winner = highest_of_row(row, rows.class_mask, block, lanes.run)
    reference = reference_of(peak, t)
    rest = low_rest = moment = low_moment = 0.0
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, _ = load(row[start:stop], rows.class_mask[start:stop], block, lanes.run)
        more_rest, more_moment = _sums_below(z, winner - start, peak, reference, t, lanes)
        rest, error = two_sum(rest, more_rest)
        low_rest += error
        moment, error = two_sum(moment, more_moment)
        low_moment += error
    below = rounded(below_own_peak(peak, reference, t)) * UNSCALE if math.isfinite(peak) else math.nan
    return Seen(peak, winner, reference, below, (rest + low_rest) * below, (moment + low_moment) * below)


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
def log_total(seen: Seen) -> float:
    """Return log(total)."""
    return rounded(log_one_plus(seen.rest, seen.peak))


@inline
def entropy_of(seen: Seen) -> float:
    """Return H."""
    return log_total(seen) + seen.moment / (1.0 + seen.rest)


@inline
def gap_of(z: Any, peak: Any, temperature: Temperature) -> float:
    """Return x of a logit."""
    return half_gap(np.float64(z), np.float64(peak)) * (2.0 * temperature.double.reciprocal)


@inline
def _at_label(z: Any, label: int, seen: Seen, d_log_prob: float, d_entropy: float, temperature: Temperature) -> float:
    """Return the gradient at the label."""
    total = 1.0 + seen.rest
    p = np.float64(scaled_exp(z - seen.reference.base, seen.reference, temperature)) * (seen.below / total)
    not_p = seen.rest / total if label == seen.winner else 1.0 - p
    x = gap_of(z, seen.peak, temperature) if p > 0.0 else 0.0
    return (d_log_prob * not_p + d_entropy * (p * (x - seen.moment / total))) * temperature.double.reciprocal


@inline
def _write_gradients(
    row: Any, rows: Any, seen: Seen, d_log_prob: float, d_entropy: float, block: Any, results: Any, lanes: Any, out: Any
) -> None:
    """Write the gradient of a row, as if none of its classes were the label."""
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, _ = load(row[start:stop], rows.class_mask[start:stop], block, lanes.run)
        _write_block(z, seen, d_log_prob, d_entropy, rows.temperature, results[: stop - start])
        store(results[: stop - start], block.dtype.type(1), out[start:stop], False)
        for j in range(start, min(stop, rows.class_mask.size)):
            out[j] = out[j] if rows.class_mask[j] else 0


@fused
def _write_block(z: Any, seen: Seen, d_log_prob: float, d_entropy: float, temperature: Temperature, out: Any) -> None:
    total, reciprocal = 1.0 + seen.rest, temperature.double.reciprocal
    to_p, mean, d_p, d_h = seen.below / total, seen.moment / total, d_log_prob * reciprocal, d_entropy * reciprocal
    for j in range(z.size):
        scaled = np.float64(scaled_exp(z[j] - seen.reference.base, seen.reference, temperature))
        x = gap_of(z[j], seen.peak, temperature) if scaled > 0.0 else 0.0
        out[j] = scaled * (d_h * (x - mean) - d_p) * to_p  # in this order, as p may be no normal number
