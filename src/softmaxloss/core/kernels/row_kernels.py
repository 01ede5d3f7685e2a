"""The entry points that go row by row, one block of classes at a time: (rows, classes) in, (rows, classes) out.

They allocate nothing: what they work in lies on the stack, but for the exponentials of one row.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.core.kernels.arithmetic import (
    class_weight_of,
    clear,
    finished_dot,
    half_gap,
    lanes_for,
    number_in,
    sum_of,
    two_quotient,
    two_sum,
)
from softmaxloss.core.kernels.bits import decoded, encoded
from softmaxloss.core.kernels.blocks import (
    BLOCK,
    block_for,
    clear_masked,
    count_before,
    count_masked,
    entropy_moment,
    exponentials,
    first_index,
    load,
    scale,
    scale_and_subtract,
    spread_moments,
    spread_target,
    store,
)
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import (
    LIFT,
    UNLIFT,
    Reference,
    above_reference,
    log_one_plus,
    reference_of,
    rises_above,
)
from softmaxloss.core.summary import (
    gradient_at_winner,
    gradient_factors,
    row_loss,
)


@inline
def target_of(rows: Any, i: int) -> tuple[int, float, float, bool]:
    """Return how row i's target q is made: q_j = spread_target(j, keep), plus `spike` where j is the label."""
    label = rows.label[i]
    if label >= 0:
        return label, 0.0, rows.keep * class_weight_of(rows.class_weight, label), rows.floor > 0.0
    return label, rows.keep, 0.0, rows.floor > 0.0 or rows.dense is not None


class Summary(NamedTuple):
    """The RowSummary of one row, and what exponentials of it are relative to."""

    argmax: int
    peak: float
    rest: float
    lost_rest: float
    dot: float
    mass: float
    above: float  # exp((peak - R) / T)
    lost_above: float


@inline
def highest_of_row(logits: Any, class_mask: Any, block: Any) -> Any:
    """Return the highest logit of a row, or NaN."""
    top = block.dtype.type(-math.inf)
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        peak = load(logits[start:stop], class_mask[start:stop], block[: stop - start])
        top = peak if peak > top or math.isnan(peak) else top
        if math.isnan(top):
            break
    return top


class Sums(NamedTuple):
    """What a sweep over a row finds."""

    argmax: int
    peak: Any  # in the precision of the logits
    reference: Reference
    rose: bool  # a logit is so high above the reference that the sweep ended there
    ousted: float  # sum of the exponentials of classes that were the winner for a while
    dot: float  # half of T times the sum of q (z - peak) / T, but for the label
    lost_dot: float
    mass: float


@inline
def sweep(logits: Any, block: Any, work: Any, lanes: Any, rows: Any, i: int, given: Any, is_given: bool) -> Sums:
    """Go over row i block by block: exponentials but for the winner's go to `work` and are added to the folded lanes.

    They are relative to the given reference, or else to that of the first block that is not all -inf.
    """
    row, class_mask, t, lowest = logits[i], rows.class_mask, rows.temperature, block.dtype.type(-math.inf)
    _, keep, _, has_spread = target_of(rows, i)
    argmax, peak, reference, ousted, dot, lost_dot, mass = 0, lowest, given, 0.0, 0.0, 0.0, 0.0
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, out = block[: stop - start], work[start % work.size :][: stop - start]
        top = load(row[start:stop], class_mask[start:stop], z)
        if peak == lowest and not is_given:
            reference = reference_of(top, t)
        if math.isnan(top) or rises_above(top, reference, t):
            return Sums(argmax, top, reference, True, 0.0, 0.0, 0.0, 0.0)
        if top > peak:
            if peak > lowest:
                above, _ = above_reference(peak, reference, t)
                ousted += above
                work[argmax % work.size] = above * LIFT
                dot, error = two_sum(dot, mass * half_gap(np.float64(peak), np.float64(top)))
                lost_dot += error
            argmax, peak = start + first_index(z, top), top
        if has_spread:
            block_dot, block_mass = spread_moments(z, peak, rows, i, start, keep, lanes)
            dot, error = two_sum(dot, block_dot)
            lost_dot += error
            mass += block_mass
        if argmax >= start:
            z[argmax - start] = lowest
        next_row, next_start = (i, stop) if stop < row.size else (min(i + 1, logits.shape[0] - 1), 0)
        ahead = logits[next_row][next_start : next_start + BLOCK]
        exponentials(z, reference, t, lanes, out, ahead)
    return Sums(argmax, peak, reference, False, ousted, dot, lost_dot, mass)


@inline
def summarize_row(logits: Any, block: Any, work: Any, rows: Any, i: int) -> Summary:
    """Summarise row i; `work`, as long as the row or one block, gets LIFT * exp((z - R) / T) of its classes.

    The rare row that rises far above its first block is swept once more, with the reference of its peak.
    """
    row, t, lanes = logits[i], rows.temperature, lanes_for(block[0])
    label, _, spike, _ = target_of(rows, i)
    label_logit = np.float64(decoded(row[label])) if label >= 0 else 0.0
    reference, is_given = reference_of(block.dtype.type(0), t), False
    while True:
        clear(lanes.total)
        clear(lanes.lost)
        sums = sweep(logits, block, work, lanes, rows, i, reference, is_given)
        if is_given or not sums.rose:
            peak = np.float64(sums.peak)
            break
        top = highest_of_row(row, rows.class_mask, block)
        reference, is_given = reference_of(top, t), True
        if not math.isfinite(top):
            peak = np.float64(top)
            break

    if not math.isfinite(peak):
        return Summary(sums.argmax, peak, 0.0, 0.0, sums.dot, sums.mass, 1.0, 0.0)
    above, lost_above = above_reference(sums.peak, sums.reference, t)
    total, lost = sum_of(lanes.total, lanes.lost)
    total, error = two_sum(total * UNLIFT, sums.ousted)
    rest, lost_rest = two_quotient(total, lost * UNLIFT + error, above, lost_above)
    dot = finished_dot(sums.dot, sums.lost_dot, spike, label_logit, peak, t)
    return Summary(sums.argmax, peak, rest, lost_rest, dot, sums.mass + spike, above, lost_above)


@kernel
def summarize(logits: Any, rows: Any, begin: int, end: int, summary: Any) -> None:
    """Fill the summaries of rows begin to end; those of weight 0 are not read."""
    block, work = block_for(number_in(logits)), block_for(number_in(logits))
    for i in range(begin, end):
        if rows.weight[i] != 0.0:
            row = summarize_row(logits, block, work, rows, i)
            summary.argmax[i], summary.peak[i], summary.rest[i] = row.argmax, row.peak, row.rest
            summary.dot[i], summary.mass[i] = row.dot, row.mass


@kernel
def losses_and_gradients(
    logits: Any, rows: Any, d_loss: Any, begin: int, end: int, work: Any, loss: Any, out: Any, past_caches: bool
) -> None:
    """Fill the losses of rows begin to end and their gradients, times d_loss; `out` may be `logits` itself.

    Exponentials wait for their sum in a row of `work`, which has but one, or is `out` if that is not `logits`.
    """
    block = block_for(number_in(logits))
    for i in range(begin, end):
        row = out[i]
        if rows.weight[i] == 0.0:
            loss[i] = 0.0
            row[:] = 0
            continue
        lifted = work[i % work.shape[0]]
        label, keep, spike, has_spread = target_of(rows, i)
        summary = summarize_row(logits, block, lifted, rows, i)
        loss[i] = row_loss(rows, i, summary.peak, summary.rest, summary.dot)

        factors = gradient_factors(rows, i, d_loss[i], summary.peak, (summary.rest, summary.lost_rest))
        factor, lost = two_quotient(factors.f, factors.lost_f, summary.above, summary.lost_above)
        d = factors.d
        factor += lost
        at_label = np.float64(lifted[label]) * UNLIFT * factor if label >= 0 else 0.0
        for start in range(0, row.size, BLOCK):
            stop = min(start + BLOCK, row.size)
            part = lifted[start:stop]
            if has_spread:
                scale_and_subtract(part, factor, rows, i, start, d * keep, d * rows.floor)
            else:
                scale(part, factor)
            store(part, row[start:stop], past_caches)
        if label >= 0:
            at_label -= d * (spread_target(rows, i, label, keep) + spike)
            row[label] = encoded(block.dtype.type(at_label), row[label])
        if math.isfinite(summary.peak):
            q = spread_target(rows, i, summary.argmax, keep) + (spike if label == summary.argmax else 0.0)
            at_winner = gradient_at_winner(rows.mass[i], factors, summary.rest, q)
            row[summary.argmax] = encoded(block.dtype.type(at_winner), row[summary.argmax])
        clear_masked(row, rows.class_mask)


@kernel
def log_softmax(logits: Any, rows: Any, begin: int, end: int, out: Any) -> None:
    """Fill (z - peak) / T - log1p(rest) of rows begin to end; `out` may be `logits` itself."""
    block, work = block_for(number_in(logits)), block_for(number_in(logits))
    real = block.dtype.type
    for i in range(begin, end):
        row, summary = out[i], summarize_row(logits, block, work, rows, i)
        log_total = log_one_plus(summary.rest)[0] if math.isfinite(summary.peak) else math.nan
        for start in range(0, row.size, BLOCK):
            stop = min(start + BLOCK, row.size)
            z = block[: stop - start]
            load(logits[i][start:stop], rows.class_mask[start:stop], z)
            log_shares(z, real(summary.peak), real(log_total), real(1.0 / rows.temperature.value))
            store(z, row[start:stop], False)


@inline
def log_shares(row: Any, peak: Any, log_total: Any, reciprocal: Any) -> None:
    """Subtract in two steps: both differences have one sign, so that nothing cancels."""
    half = row.dtype.type(0.5)
    for j in range(row.size):
        row[j] = (half * row[j] - half * peak) * (reciprocal + reciprocal) - log_total  # halves do not overflow


@kernel
def score(logits: Any, uncapped: Any, rows: Any, begin: int, end: int, summary: Any, scores: Any) -> None:
    """Fill argmax, rank and entropy of rows begin to end, which have a label, given their summaries.

    Rows of weight 0, or without a softmax, are left as they are. Ranks are those of `uncapped` logits, as far beyond a
    soft cap different ones become equal.
    """
    block, lanes, t = block_for(number_in(logits)), lanes_for(number_in(logits)), rows.temperature
    for i in range(begin, end):
        peak, moment = block.dtype.type(summary.peak[i]), 0.0
        if rows.weight[i] == 0.0 or not math.isfinite(peak):
            continue
        scores.argmax[i], scores.rank[i] = argmax_and_rank(uncapped[i], rows.label[i], rows.class_mask, block)
        reference = reference_of(peak, t)
        for start in range(0, logits.shape[1], BLOCK):
            stop = min(start + BLOCK, logits.shape[1])
            z = block[: stop - start]
            load(logits[i][start:stop], rows.class_mask[start:stop], z)
            moment += entropy_moment(z, peak, reference, t, lanes)
        above, _ = above_reference(peak, reference, t)
        rest = summary.rest[i]
        scores.entropy[i] = log_one_plus(rest)[0] + moment / above / (1.0 + rest)


@inline
def argmax_and_rank(logits: Any, label: int, class_mask: Any, work: Any) -> tuple[int, int]:
    """Return the class of the highest logit and the rank of the label; of equal logits the first ranks first."""
    top, best, before, logit = work.dtype.type(-math.inf), -1, 0, decoded(logits[label])
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        block = work[: stop - start]
        peak = load(logits[start:stop], class_mask[start:stop], block)
        if peak > top or best < 0:
            top, best = peak, start + first_index(block, peak)
        before += count_before(block, logit, label - start)
    if logit == -math.inf:
        before -= count_masked(class_mask, label)
    while class_mask.size > 0 and not class_mask[best]:
        best += 1  # all are -inf, as masked classes are
    return best, before + 1
