"""The entry point for the log-probability of a label t, the entropy of its row, and the gradient of a function of both.

A row is seen from its winner k, the class of the highest logit. At temperature T, with x_j = (peak - z_j) / T, which is
never negative:

    rest    = sum over j != k of exp(-x_j)
    moment  = sum over j != k of x_j exp(-x_j)
    total   = 1 + rest
    log p_j = -x_j - log(total)                       neither term is positive: nothing cancels
    H       = log(total) + moment / total             = -sum_j p_j log p_j
    m       = moment / total                          so that log p_j + H = m - x_j

    d log p_t / d z_j = ([j = t] - p_j) / T           1 - p_t = rest / total where t is the winner
    d H / d z_j       = p_j (x_j - m) / T             = -p_j (log p_j + H) / T
"""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.kernels.by_row.blocks import BLOCK, block_for, clear_masked, load
from softmaxloss.kernels.by_row.sweep import highest_of_row
from softmaxloss.kernels.machine.cache_lines import store
from softmaxloss.kernels.machine.compilation import fused, inline, kernel
from softmaxloss.kernels.machine.half import decoded, encoded, zero_in
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.double_double import double_double, over, plus, rounded, times, two_sum
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    Reference,
    Temperature,
    below_own_peak,
    over_temperature,
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
    """Fill the log-probabilities of labels and the entropies of rows. Rows are taken a share at a time.

    `out` gets d_log_prob times the gradient of the log-probability plus d_entropy times that of the entropy. It may be
    `logits`, or empty if no gradient is wanted. All results are 0 in rows of weight 0, and NaN in rows without a
    softmax.
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
            log_prob[i] = log_prob_of(z_label, seen, rows.temperature)
            entropy[i] = entropy_of(seen, rows.temperature)
            if has_gradients:
                d_p = of_row(d_log_prob, i)
                slopes = slopes_of(seen, d_p, of_row(d_entropy, i), rows.temperature)
                _write_gradients(logits[i], rows, seen, slopes, block, results, lanes, out[i])
                at_label = gradient_at_label(z_label, label, seen, slopes, d_p, rows.temperature)
                out[i][label] = encoded(block.dtype.type(at_label), out[i][label])
        begin = take(taken, share)


class Seen(NamedTuple):
    """A row seen from its winner; see the formulas above. Sums are double-doubles in rows of double precision."""

    peak: Any
    winner: int
    reference: Reference
    unit: float  # the smallest power of two above T: to divide a gap, peak - z, by it rounds nothing
    below: Any  # exp((R - peak) / T)
    rest: Any
    mean: Any  # m T / unit, to be compared with gaps / unit


@inline
def seen_from_winner(row: Any, rows: Any, block: Any, lanes: Any) -> Seen:
    """Look at a row from its winner, in two passes; rest and mean are NaN if its logits define no softmax."""
    t = rows.temperature
    peak, winner = highest_of_row(row, rows.class_mask, block)
    reference, unit = reference_of(peak, t), 2.0 ** math.frexp(t.value)[1]
    rest = low_rest = moment = low_moment = 0.0
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, _ = load(row[start:stop], rows.class_mask[start:stop], block)
        more_rest, more_moment = _sums_below(z, winner - start, peak, reference, t, block.dtype.type(1.0 / unit), lanes)
        rest, error = two_sum(rest, more_rest)
        low_rest += error
        moment, error = two_sum(moment, more_moment)
        low_moment += error
    below = below_own_peak(peak if math.isfinite(peak) else reference.base, reference, t)
    scale = UNSCALE if math.isfinite(peak) else math.nan
    others = times(double_double(rest * scale, low_rest * scale, peak), below)
    gaps = times(double_double(moment * scale, low_moment * scale, peak), below)
    return Seen(peak, winner, reference, unit, below, others, over(gaps, plus(others, 1.0)))


@inline
def _sums_below(
    z: Any, winner: int, peak: Any, reference: Reference, temperature: Temperature, per_unit: Any, lanes: Any
) -> tuple[float, float]:
    """Return the sums of SCALE * exp((z - R) / T), and of the same times (peak - z) / unit, without the winner."""
    clear(lanes.run)
    clear(lanes.first)
    for start in range(0, z.size, LANES):
        part = z[start : start + LANES]
        for lane in range(part.size):
            term = scaled_exp(part[lane] - reference.base, reference, temperature)
            term = term if start + lane != winner else part.dtype.type(0)
            gap = (peak - part[lane]) * per_unit if term > 0 else part.dtype.type(0)  # -inf adds nothing
            lanes.run[lane] += term * gap
            lanes.first[lane] += term
    return lane_sum(lanes.first), lane_sum(lanes.run)


@inline
def log_prob_of(z: Any, seen: Seen, temperature: Temperature) -> float:
    """Return the log-probability of a class with this logit."""
    gap = half_gap(np.float64(z), np.float64(seen.peak)) * (2.0 * temperature.double.reciprocal)
    return -(rounded(log_one_plus(rounded(seen.rest), seen.peak)) + gap)


@inline
def entropy_of(seen: Seen, temperature: Temperature) -> float:
    """Return H."""
    mean = over_temperature(times(seen.mean, seen.unit), temperature)
    return rounded(plus(log_one_plus(rounded(seen.rest), seen.peak), mean))


class Slopes(NamedTuple):
    """The numbers in the gradient exp((z - R) / T) (a x - b) of classes other than the label, with x = gap / unit."""

    a: float  # d_H * below * unit / (T**2 * total)
    b: float  # a * mean + d_p * below / (T * total)
    of_entropy: float  # a * mean


@inline
def slopes_of(seen: Seen, d_log_prob: float, d_entropy: float, temperature: Temperature) -> Slopes:
    """Return the slopes of a row."""
    per_total = over_temperature(over(seen.below, plus(seen.rest, 1.0)), temperature)
    a = over_temperature(times(times(per_total, seen.unit), d_entropy), temperature)
    of_entropy = times(a, seen.mean)
    return Slopes(rounded(a), rounded(plus(of_entropy, times(per_total, d_log_prob))), rounded(of_entropy))


@inline
def gradient_at_label(
    z: Any, label: int, seen: Seen, slopes: Slopes, d_log_prob: float, temperature: Temperature
) -> float:
    """Return the gradient at the label, with 1 - p = rest / total where it is the winner."""
    y = np.float64(scaled_exp(z - seen.reference.base, seen.reference, temperature))
    x = (np.float64(seen.peak) - np.float64(z)) / seen.unit if y > 0.0 else 0.0
    total = plus(seen.rest, 1.0)
    p = y * rounded(over(seen.below, total)) * UNSCALE
    not_p = rounded(over(seen.rest, total)) if label == seen.winner else 1.0 - p
    return d_log_prob * not_p * temperature.double.reciprocal + y * (slopes.a * x - slopes.of_entropy) * UNSCALE


@inline
def _write_gradients(
    row: Any, rows: Any, seen: Seen, slopes: Slopes, block: Any, results: Any, lanes: Any, out: Any
) -> None:
    """Write the gradient of a row, as if none of its classes were the label."""
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, _ = load(row[start:stop], rows.class_mask[start:stop], block)
        _write_block(z, seen, slopes, rows.temperature, results[: stop - start])
        store(results[: stop - start], block.dtype.type(1), out[start:stop], False)
        clear_masked(out[start:stop], rows.class_mask[start:stop])


@fused
def _write_block(z: Any, seen: Seen, slopes: Slopes, temperature: Temperature, out: Any) -> None:
    per_unit, peak = 1.0 / seen.unit, np.float64(seen.peak)
    for j in range(z.size):
        y = np.float64(scaled_exp(z[j] - seen.reference.base, seen.reference, temperature))
        x = (peak - np.float64(z[j])) * per_unit if y > 0.0 else 0.0
        out[j] = y * (slopes.a * x - slopes.b) * UNSCALE  # UNSCALE comes last, as y * UNSCALE may be subnormal
