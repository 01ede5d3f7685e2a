"""The entry point for what `metrics` needs of rows besides their losses."""

import math
from typing import Any

from softmaxloss.core.kernels.arithmetic import lanes_for, number_in, of_row, rounded
from softmaxloss.core.kernels.bits import decoded
from softmaxloss.core.kernels.blocks import (
    BLOCK,
    block_for,
    count_before,
    count_masked,
    entropy_moment,
    first_index,
    load,
)
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import above_reference, reference_of
from softmaxloss.core.kernels.logarithm import log_one_plus
from softmaxloss.core.rows import rows_of


@kernel
def score(logits: Any, uncapped: Any, rows: Any, begin: int, end: int, summary: Any, scores: Any) -> None:
    """Fill argmax, rank and entropy of rows begin to end, which have a label, given their summaries.

    Rows of weight 0, or without a softmax, are left as they are. Ranks are those of `uncapped` logits, as far beyond a
    soft cap different ones become equal.
    """
    number, rows = number_in(logits), rows_of(rows)
    block, lanes, t = block_for(number), lanes_for(number), rows.temperature
    for i in range(begin, end):
        peak, moment = block.dtype.type(summary.peak[i]), 0.0
        if of_row(rows.weight, i) == 0.0 or not math.isfinite(peak):
            continue
        scores.argmax[i], scores.rank[i] = argmax_and_rank(
            uncapped[i], rows.label[i], rows.class_mask, block, lanes.run
        )
        reference = reference_of(peak, t)
        for start in range(0, logits.shape[1], BLOCK):
            stop = min(start + BLOCK, logits.shape[1])
            z, _ = load(logits[i][start:stop], rows.class_mask[start:stop], block, lanes.run)
            moment += entropy_moment(z, peak, reference, t, lanes)
        above, rest = rounded(above_reference(peak, reference, t)), summary.rest[i]
        scores.entropy[i] = rounded(log_one_plus(rest, 0.0)) + moment / above / (1.0 + rest)


@inline
def argmax_and_rank(logits: Any, label: int, class_mask: Any, work: Any, room: Any) -> tuple[int, int]:
    """Return the class of the highest logit and the rank of the label; of equal logits the first ranks first."""
    top, best, before, logit = work.dtype.type(-math.inf), -1, 0, decoded(logits[label])
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        z, peak = load(logits[start:stop], class_mask[start:stop], work, room)
        if peak > top or best < 0:
            top, best = peak, start + first_index(z, peak)
        before += count_before(z, logit, label - start)
    if logit == -math.inf:
        before -= count_masked(class_mask, label)
    while class_mask.size > 0 and not class_mask[best]:
        best += 1  # all are -inf, as masked classes are
    return best, before + 1
