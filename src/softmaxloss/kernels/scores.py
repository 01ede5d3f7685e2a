"""The entry point for argmax, rank and entropy, which `metrics` needs besides losses: a second pass over rows."""

import math
from typing import Any

from softmaxloss.kernels.by_row.blocks import BLOCK, block_for, load
from softmaxloss.kernels.by_row.sweep import highest_of_row
from softmaxloss.kernels.log_probabilities import entropy_of, seen_from_winner
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import decoded, zero_in
from softmaxloss.kernels.numerics.lanes import lanes_for
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
        scores.entropy[i] = entropy_of(seen_from_winner(logits[i], rows, block, lanes), rows.temperature)
        _, scores.argmax[i] = highest_of_row(uncapped[i], rows.class_mask, block)
        scores.rank[i] = _rank(uncapped[i], rows.label[i], rows.class_mask, block)


@inline
def _rank(logits: Any, label: int, class_mask: Any, block: Any) -> int:
    """Return the rank of the label among the classes that exist; of equal logits the first ranks first."""
    rank, logit = 1, decoded(logits[label])
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        z, _ = load(logits[start:stop], class_mask[start:stop], block)
        for j in range(z.size):
            rank += z[j] > logit or (z[j] == logit and start + j < label)
        for j in range(start, min(stop, label, class_mask.size) if logit == -math.inf else 0):
            rank -= not class_mask[j]  # masked classes are -inf, too
    return rank
