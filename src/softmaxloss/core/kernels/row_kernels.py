"""The entry points that go row by row, one block of classes at a time: (rows, classes) in, (rows, classes) out.

They allocate nothing: `room` is room_for_rows.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from softmaxloss.core.kernels.arithmetic import class_weight_of, gap_times, room_for_lanes
from softmaxloss.core.kernels.blocks import (
    BLOCK,
    clear_masked,
    count_before,
    count_masked,
    entropy_moment,
    exponentials,
    first_index,
    highest,
    load,
    scale,
    scale_and_subtract,
    spread_moments,
    spread_target,
)
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import times_exp
from softmaxloss.core.summary import (
    gradient_at_winner,
    gradient_factors,
    merge_parts,
    new_summary,
    row_loss,
)


class Room(NamedTuple):
    """What a kernel works in: the summaries of the blocks of one row, one block of logits, and lanes for its sums."""

    parts: Any
    block: Any
    lanes: Any


def room_for_rows(logits: Any) -> Room:
    """Return the room that kernels need for such logits."""
    n_classes = logits.shape[1]
    block = np.empty(min(BLOCK, n_classes), logits.dtype)
    return Room(new_summary(-(-n_classes // BLOCK)), block, room_for_lanes(logits.dtype, n_classes))


@inline
def target_of(rows: Any, i: int) -> tuple[int, float, float, bool]:
    """Return how row i's target q is made: q_j = spread_target(j, keep), plus `spike` where j is the label."""
    label = rows.label[i]
    if label >= 0:
        return label, 0.0, rows.keep * class_weight_of(rows.class_weight, label), rows.floor > 0.0
    return label, rows.keep, 0.0, rows.floor > 0.0 or rows.dense is not None


@inline
def summarize_row(logits: Any, work: Any, room: Any, rows: Any, i: int) -> tuple[int, float, float, float, float]:
    """Summarise a row block by block into `room.parts`, and return the merged summary.

    `work` may be as short as a block. If it is as long as the row, it ends up with LIFT * exp of z - its block's peak.
    """
    label, keep, spike, has_spread = target_of(rows, i)
    label_logit = np.float64(logits[label]) if label >= 0 else 0.0
    parts, n = room.parts, 0
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        place = start % work.size
        block = work[place : place + stop - start]
        load(logits[start:stop], rows.class_mask[start:stop], block)
        peak = highest(block)
        winner = first_index(block, peak)
        parts.argmax[n], parts.peak[n], parts.dot[n], parts.mass[n] = start + winner, peak, 0.0, 0.0
        if has_spread:
            parts.dot[n], parts.mass[n] = spread_moments(block, peak, rows, i, start, keep, room.lanes)
        parts.rest[n] = exponentials(block, winner, peak, rows.temperature, room.lanes)
        n += 1
    argmax, peak, rest, dot, mass = merge_parts(parts, n, rows.temperature)
    if spike > 0.0:
        dot += gap_times(spike, label_logit, peak, rows.temperature.value)
        mass += spike
    return argmax, peak, rest, dot, mass


@kernel
def summarize(logits: Any, rows: Any, room: Any, summary: Any) -> None:
    """Fill the summaries of rows; those of weight 0 are not read."""
    for i in range(logits.shape[0]):
        if rows.weight[i] != 0.0:
            row = summarize_row(logits[i], room.block, room, rows, i)
            summary.argmax[i], summary.peak[i], summary.rest[i], summary.dot[i], summary.mass[i] = row


@kernel
def losses_and_gradients(logits: Any, rows: Any, d_loss: Any, room: Any, loss: Any, out: Any) -> None:
    """Fill the loss of each row and its gradient, times d_loss; `out` may be `logits` itself."""
    for i in range(logits.shape[0]):
        if rows.weight[i] == 0.0:
            loss[i] = 0.0
            out[i] = 0
            continue
        work = out[i]
        label, keep, spike, has_spread = target_of(rows, i)
        label_logit = np.float64(logits[i, label]) if label >= 0 else 0.0
        argmax, peak, rest, dot, _ = summarize_row(logits[i], work, room, rows, i)
        loss[i] = row_loss(rows, i, peak, rest, dot)

        f, d = gradient_factors(rows, i, d_loss[i], peak, rest)
        for b in range(room.parts.peak.size):
            start = b * BLOCK
            block = work[start : start + BLOCK]
            factor = times_exp(f, room.parts.peak[b], peak, rows.temperature)
            if has_spread:
                scale_and_subtract(block, factor, rows, i, start, d * keep, d * rows.floor)
            else:
                scale(block, factor)
        if label >= 0:
            q = spread_target(rows, i, label, keep) + spike
            work[label] = times_exp(f, label_logit, peak, rows.temperature) - d * q
        if math.isfinite(peak):
            q = spread_target(rows, i, argmax, keep) + (spike if label == argmax else 0.0)
            work[argmax] = gradient_at_winner(rows, i, (f, d), (peak, rest), q)
        clear_masked(work, rows.class_mask)


@kernel
def log_softmax(logits: Any, rows: Any, room: Any, out: Any) -> None:
    """Fill (z - peak) / T - log1p(rest) of each row; `out` may be `logits` itself."""
    for i in range(logits.shape[0]):
        _, peak, rest, _, _ = summarize_row(logits[i], room.block, room, rows, i)
        row = out[i]
        log_total = math.log1p(rest) if math.isfinite(peak) else math.nan
        load(logits[i], rows.class_mask, row)
        log_shares(row, row.dtype.type(peak), row.dtype.type(log_total), row.dtype.type(rows.temperature.reciprocal))


@inline
def log_shares(row: Any, peak: Any, log_total: Any, reciprocal: Any) -> None:
    """Subtract in two steps: both differences have one sign, so that nothing cancels."""
    half = row.dtype.type(0.5)
    for j in range(row.size):
        row[j] = (half * row[j] - half * peak) * (reciprocal + reciprocal) - log_total  # halves do not overflow


@kernel
def score(logits: Any, uncapped: Any, rows: Any, room: Any, scores: Any) -> None:
    """Fill the Scores of rows that have a label; those of weight 0, or without a softmax, are left as they are.

    Ranks are those of `uncapped` logits, as far beyond a soft cap different ones become equal.
    """
    for i in range(logits.shape[0]):
        if rows.weight[i] == 0.0:
            continue
        _, peak, rest, _, _ = summarize_row(logits[i], room.block, room, rows, i)
        if not math.isfinite(peak):
            continue
        label, label_logit = rows.label[i], np.float64(logits[i, rows.label[i]])
        scores.argmax[i], scores.rank[i] = argmax_and_rank(uncapped[i], label, rows.class_mask, room.block)
        moment = 0.0
        for start in range(0, logits.shape[1], BLOCK):
            stop = min(start + BLOCK, logits.shape[1])
            block = room.block[: stop - start]
            load(logits[i][start:stop], rows.class_mask[start:stop], block)
            moment += entropy_moment(block, block.dtype.type(peak), rows.temperature, room.lanes)
        scores.log_probability[i] = gap_times(1.0, label_logit, peak, rows.temperature.value) - math.log1p(rest)
        scores.entropy[i] = math.log1p(rest) + moment / (1.0 + rest)


@inline
def argmax_and_rank(logits: Any, label: int, class_mask: Any, work: Any) -> tuple[int, int]:
    """Return the class of the highest logit and the rank of the label; of equal logits the first ranks first."""
    top, best, before = logits.dtype.type(-math.inf), -1, 0
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        block = work[: stop - start]
        load(logits[start:stop], class_mask[start:stop], block)
        peak = highest(block)
        if peak > top or best < 0:
            top, best = peak, start + first_index(block, peak)
        before += count_before(block, logits[label], label - start)
    if logits[label] == -math.inf:
        before -= count_masked(class_mask, label)
    while class_mask.size > 0 and not class_mask[best]:
        best += 1  # all are -inf, as masked classes are
    return best, before + 1
