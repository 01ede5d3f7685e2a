"""The entry points that read no logits, only numbers of each row: they merge summaries, and add up losses."""

import math
from typing import Any

from softmaxloss.kernels.machine.compilation import kernel
from softmaxloss.kernels.numerics.double_double import two_sum
from softmaxloss.kernels.numerics.exponential import temperature_of
from softmaxloss.kernels.numerics.lanes import clear, fold, folded_lanes
from softmaxloss.kernels.row import merged


@kernel
def merge(stacked: Any, temperature: float, out: Any) -> None:
    """Merge stacked summaries, arrays of shape (parts, rows), row by row."""
    for i in range(out.peak.size):
        row = merged(stacked, i, temperature_of(temperature))
        out.peak[i], out.rest[i], out.dot[i], out.mass[i], out.target_logit[i], out.q_target[i] = row


@kernel
def total(losses: Any) -> Any:
    """Return the sum of losses of rows, rounded about once."""
    totals, lows = folded_lanes(0.0), folded_lanes(0.0)
    clear(totals)
    clear(lows)
    fold(losses, totals, lows)
    total = low = 0.0
    for lane in range(totals.size):  # lane_sum would take half a second longer to compile
        total, error = two_sum(total, totals[lane])
        low += error + lows[lane]
    return total + low if math.isfinite(low) else total
