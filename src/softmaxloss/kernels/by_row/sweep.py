"""One row, block by block: its peak, and the sums of all classes but the target."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.by_row.blocks import BLOCK, count_nan, exponentials, first_index, load, moments
from softmaxloss.kernels.machine.compilation import inline
from softmaxloss.kernels.machine.half import decoded
from softmaxloss.kernels.numerics.double_double import high_of, low_of, two_sum
from softmaxloss.kernels.numerics.exponential import Reference, reference_of, rises_above
from softmaxloss.kernels.numerics.lanes import clear, sum_of
from softmaxloss.kernels.row import half_gap, has_dense_q
from softmaxloss.kernels.tile import Tile, set_sums


@inline
def highest_of_row(logits: Any, class_mask: Any, block: Any) -> tuple[Any, int]:
    """Return the highest logit of a row, and the first class that has it; NaN if the row holds one."""
    top, winner = block.dtype.type(-math.inf), 0
    for start in range(0, logits.size, BLOCK):
        stop = min(start + BLOCK, logits.size)
        z, peak = load(logits[start:stop], class_mask[start:stop], block)
        if peak > top:
            top, winner = peak, start + first_index(z, peak)
        if count_nan(z) > 0:
            return block.dtype.type(math.nan), winner
    while class_mask.size > 0 and not class_mask[winner]:
        winner += 1  # all logits are -inf, as those of masked classes are
    return top, winner


@inline
def sweep(
    logits: Any, block: Any, out: Any, lanes: Any, rows: Any, i: int, tile: Tile, c: int, given: Any, is_given: bool
) -> bool:
    """Put the sums of row i in a tile; its exponentials, 0 for the target, go to `out`, which is a row or a block long.

    They are relative to the given reference, or else to that of the first block that is not all -inf. If a logit is too
    high above that, the sweep ends there, without sums, and returns False.
    """
    row, class_mask, t, lowest = logits[i], rows.class_mask, rows.temperature, block.dtype.type(-math.inf)
    label, target = tile.label[c], tile.target[c]
    peak, reference, dot, low_dot, mass = lowest, given, 0.0, 0.0, 0.0
    clear(lanes.total)
    clear(lanes.low)
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        z, top = load(row[start:stop], class_mask[start:stop], block)
        if peak == lowest and not is_given:
            reference = reference_of(top, t)
        if rises_above(top, reference, t):
            return False
        if top > peak:
            if has_dense_q(rows) and mass > 0.0:
                dot, error = two_sum(dot, mass * half_gap(np.float64(peak), np.float64(top)))
                low_dot += error
            peak = top
        if has_dense_q(rows):
            is_last = stop == row.size  # the mass is used where a later block has a higher peak
            block_dot, block_mass = moments(z, peak, rows, i, start, label, target, lanes, not is_last)
            dot, error = two_sum(dot, block_dot)
            low_dot += error
            mass += block_mass
        next_row, next_start = (i, stop) if stop < row.size else (min(i + 1, logits.shape[0] - 1), 0)
        ahead = logits[next_row][next_start : next_start + BLOCK]
        exponentials(z, target - start, reference, t, lanes, out[start % out.size :][: stop - start], ahead)
    total = sum_of(lanes.total, lanes.low, lowest)
    set_sums(tile, c, peak, reference, high_of(total), low_of(total), dot, low_dot)
    return True


@inline
def summarize_row(
    logits: Any, block: Any, out: Any, lanes: Any, rows: Any, i: int, tile: Tile, c: int, needs_lse: bool
) -> None:
    """Put the sums of row i in a tile, and its exponentials in `out`, a row or a block long; see `sweep`.

    The rare row that rises far above its first block is swept once more, with the reference of its peak. If a row has
    no wanted class but its lse is needed, the winner becomes the target. So a tiny rest keeps its digits.
    """
    from_winner = needs_lse and tile.q_target[c] == 0.0
    reference = reference_of(block.dtype.type(0), rows.temperature)
    is_given, is_done = from_winner, False
    while not is_done:
        peak = block.dtype.type(0)
        if is_given:
            peak, winner = highest_of_row(logits[i], rows.class_mask, block)
            reference = reference_of(peak, rows.temperature)
            tile.target[c] = winner if from_winner else tile.target[c]
        if math.isfinite(peak):
            is_done = sweep(logits, block, out, lanes, rows, i, tile, c, reference, is_given)
        else:
            set_sums(tile, c, peak, reference, 0.0, 0.0, 0.0, 0.0)
            is_done = True
        is_given = True
    tile.target_logit[c] = decoded(logits[i][tile.target[c]])
    if not tile.rest[c] >= 0.0 or math.isnan(tile.target_logit[c]):
        tile.peak[c] = math.nan


@inline
def leave_out(tile: Tile, c: int) -> None:
    """Treat a row of weight 0, which is never read, as if its logits were all -inf."""
    zero = tile.peak.dtype.type(0)
    set_sums(tile, c, -math.inf, Reference(zero, zero, zero, 0.0), 0.0, 0.0, 0.0, 0.0)
    tile.target_logit[c] = -math.inf
