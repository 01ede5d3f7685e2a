"""The entry points: summaries, losses, gradients and log-softmax of rows, one block of classes at a time.

They allocate nothing: `parts` is room_for_blocks, `work` room_for_a_block.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import class_weight_of, half_gap
from softmaxloss.core.kernels.blocks import (
    BLOCK,
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
from softmaxloss.core.kernels.exponential import UNLIFT, lifted_exp
from softmaxloss.core.summary import merge_parts, new_summary, row_loss


def room_for_blocks(logits: Any) -> Any:
    """Return room for the summaries of the blocks of one row."""
    return new_summary(-(-logits.shape[1] // BLOCK))


def room_for_a_block(logits: Any) -> Any:
    """Return room for one block of logits."""
    return np.empty(min(BLOCK, logits.shape[1]), logits.dtype)


@inline
def target_of(rows: Any, i: int) -> tuple[int, float, float, bool]:
    """Return how row i's target q is made: q_j = spread_target(j, keep), plus `spike` where j is the label."""
    label = rows.label[i]
    if label >= 0:
        return label, 0.0, rows.keep * class_weight_of(rows.class_weight, label), rows.floor > 0.0
    return label, rows.keep, 0.0, rows.floor > 0.0 or rows.dense is not None


@inline
def summarize_row(logits: Any, work: Any, parts: Any, rows: Any, i: int) -> tuple[int, float, float, float, float]:
    """Summarise a row block by block into `parts`, and return the merged summary.

    `work` may be as short as a block. If it is as long as the row, it ends up with LIFT * exp(z - its block's peak).
    """
    label, keep, spike, has_spread = target_of(rows, i)
    label_logit = np.float64(logits[label]) if label >= 0 else 0.0
    n = 0
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        place = start % work.size
        block = work[place : place + stop - start]
        load(logits[start:stop], block)
        peak = highest(block)
        winner = first_index(block, peak)
        parts.argmax[n], parts.peak[n], parts.dot[n], parts.mass[n] = start + winner, peak, 0.0, 0.0
        if has_spread:
            parts.dot[n], parts.mass[n] = spread_moments(block, peak, rows, i, start, keep)
        parts.rest[n] = exponentials(block, winner, peak)
        n += 1
    argmax, peak, rest, dot, mass = merge_parts(parts, n)
    if spike > 0.0:
        dot += 2.0 * (spike * half_gap(label_logit, peak))
        mass += spike
    return argmax, peak, rest, dot, mass


@kernel
def summarize(logits: Any, rows: Any, parts: Any, work: Any, summary: Any) -> None:
    """Fill the summaries of rows, whatever their weight."""
    for i in range(logits.shape[0]):
        row = summarize_row(logits[i], work, parts, rows, i)
        summary.argmax[i], summary.peak[i], summary.rest[i], summary.dot[i], summary.mass[i] = row


@kernel
def losses(logits: Any, rows: Any, parts: Any, work: Any, loss: Any) -> None:
    """Fill the loss of each row; rows of weight 0 are not read."""
    for i in range(logits.shape[0]):
        loss[i] = 0.0
        if rows.weight[i] != 0.0:
            _, peak, rest, dot, _ = summarize_row(logits[i], work, parts, rows, i)
            loss[i] = row_loss(rows.weight[i], rows.mass[i], peak, rest, dot)


@kernel
def losses_and_gradients(logits: Any, rows: Any, d_loss: Any, parts: Any, loss: Any, out: Any) -> None:
    """Fill the loss of each row and d_loss * (mass * softmax(z) - q); `out` may be `logits` itself."""
    for i in range(logits.shape[0]):
        if rows.weight[i] == 0.0:
            loss[i] = 0.0
            out[i] = 0
            continue
        work = out[i]
        label, keep, spike, has_spread = target_of(rows, i)
        label_logit = np.float64(logits[i, label]) if label >= 0 else 0.0
        argmax, peak, rest, dot, _ = summarize_row(logits[i], work, parts, rows, i)
        loss[i] = row_loss(rows.weight[i], rows.mass[i], peak, rest, dot)

        total = 1.0 + rest if math.isfinite(peak) else math.nan
        for b in range(parts.peak.size):
            start = b * BLOCK
            block = work[start : start + BLOCK]
            factor = lifted_exp(parts.peak[b], peak) * (d_loss[i] * rows.mass[i] / total) * UNLIFT
            if has_spread:
                scale_and_subtract(block, factor, rows, i, start, keep, d_loss[i])
            else:
                scale(block, factor)
        if label >= 0:
            q = spread_target(rows, i, label, keep) + spike
            work[label] = d_loss[i] * (rows.mass[i] * lifted_exp(label_logit, peak) * UNLIFT / total - q)
        q = spread_target(rows, i, argmax, keep) + (spike if label == argmax else 0.0)
        work[argmax] = d_loss[i] * gradient_at_winner(rows.mass[i], q, rest, total)


@inline
def gradient_at_winner(mass: float, q: float, rest: float, total: float) -> float:
    """Return mass * p - q for the class of the highest logit, whose p = 1 / total is 1 - rest / total."""
    if q > mass / 2.0:
        return (mass - q) - mass * rest / total
    return mass / total - q


@kernel
def log_softmax(logits: Any, rows: Any, parts: Any, work: Any, out: Any) -> None:
    """Fill z - logsumexp(z) of each row; `out` may be `logits` itself."""
    for i in range(logits.shape[0]):
        _, peak, rest, _, _ = summarize_row(logits[i], work, parts, rows, i)
        row = out[i]
        load(logits[i], row)
        shift_twice(row, row.dtype.type(peak), row.dtype.type(math.log1p(rest) if math.isfinite(peak) else math.nan))


@inline
def shift_twice(row: Any, peak: Any, log_total: Any) -> None:
    """Subtract in two steps: both differences have one sign, so that nothing cancels."""
    for j in range(row.size):
        row[j] = (row[j] - peak) - log_total
