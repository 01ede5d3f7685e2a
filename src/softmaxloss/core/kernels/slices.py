"""One long row, slices of whose classes threads take one at a time: first their sums, then their gradients.

Between the two every thread puts the sums together by itself, always in the same order: it takes less time than to wait
for another thread. Long rows that are not shared are made up of the same slices (sweeps.py), with the same bits.
"""

import math
from typing import Any

import numpy as np

from softmaxloss.core.kernels.arithmetic import carried, lanes_for, lost_of, number_in, probability_of, value_of
from softmaxloss.core.kernels.bits import decoded
from softmaxloss.core.kernels.blocks import BLOCK, block_for, load
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import Reference, reference_of
from softmaxloss.core.kernels.progress import take
from softmaxloss.core.kernels.row_kernels import finish_gradient, keep_sums
from softmaxloss.core.kernels.sweeps import SLICE, Sums, highest_of_row, put_back, sweep, together
from softmaxloss.core.kernels.tiles import (
    begin_tile,
    factors_for,
    finish_factors,
    finish_losses,
    finish_summaries,
    tile_for,
)
from softmaxloss.core.rows import rows_of

# Columns of what is found of slices: numbers of either precision, and indices of classes, fit in float64.
_ARGMAX, _PEAK, ROSE, _TOTAL, _LOST_TOTAL, _DOT, _LOST_DOT, _MASS = range(8)
_BASE, _ROUNDER, _LOWEST, _EXPONENT = range(8, 12)
_LABEL_LOGIT = 12


def count(n_classes: int) -> int:
    """Return how many slices a row has."""
    return -(-n_classes // SLICE)


def room(n_slices: int) -> Any:
    """Return room for what is found of slices."""
    return np.empty((n_slices, _LABEL_LOGIT + 1))


@inline
def shared_reference(logits: Any, rows: Any, block: Any, work: Any, of_peak: bool) -> Reference:
    """Return the reference of the only row: that of its first block which is not all -inf, or else of its peak."""
    row = logits[0]
    if of_peak:
        return reference_of(highest_of_row(row, rows.class_mask, block, work), rows.temperature)
    top = block.dtype.type(-math.inf)
    for start in range(0, row.size, BLOCK):
        stop = min(start + BLOCK, row.size)
        _, top = load(row[start:stop], rows.class_mask[start:stop], block, work)
        if top != -math.inf:
            break
    return reference_of(top, rows.temperature)


@inline
def write_sums(sums: Sums, out: Any) -> None:
    """Write the sums of a slice."""
    out[_ARGMAX], out[_PEAK], out[ROSE] = sums.argmax, sums.peak, 1.0 if sums.rose else 0.0
    out[_TOTAL], out[_LOST_TOTAL] = value_of(sums.total), lost_of(sums.total)
    out[_DOT], out[_LOST_DOT], out[_MASS] = sums.dot, sums.lost_dot, sums.mass
    reference = sums.reference
    out[_BASE], out[_ROUNDER], out[_LOWEST], out[_EXPONENT] = (
        reference.base,
        reference.rounder,
        reference.lowest,
        reference.exponent,
    )


@inline
def read_sums(values: Any, block: Any) -> Sums:
    """Return the sums of a slice."""
    real = block.dtype.type
    reference = Reference(real(values[_BASE]), real(values[_ROUNDER]), real(values[_LOWEST]), values[_EXPONENT])
    peak, rose = real(values[_PEAK]), values[ROSE] != 0.0
    total = carried(values[_TOTAL], values[_LOST_TOTAL], peak)
    return Sums(int(values[_ARGMAX]), peak, reference, rose, total, values[_DOT], values[_LOST_DOT], values[_MASS])


@kernel
def sweep_slices(logits: Any, rows: Any, taken: Any, swept: Any, work: Any, slices: Any, of_peak: bool) -> None:
    """Fill in what is found of slices of the only row, and its exponentials, where `work` has room for them.

    `swept` counts the slices that are done. The row's weight is not 0.
    """
    number, rows = number_in(logits), rows_of(rows)
    block, spare, lanes, tile = block_for(number), block_for(number), lanes_for(number), tile_for(number)
    begin_tile(rows, tile, 0, 1)
    reference = shared_reference(logits, rows, block, lanes.run, of_peak)
    lifted = work[0] if work.size > 0 else spare
    s = take(taken, 1)
    while s < slices.shape[0]:
        begin, end = s * SLICE, min((s + 1) * SLICE, logits.shape[1])
        write_sums(sweep(logits, block, lifted, lanes, rows, 0, tile.keep[0], reference, True, begin, end), slices[s])
        slices[s, _LABEL_LOGIT] = decoded(logits[0, tile.label[0]]) if tile.label[0] >= 0 else 0.0
        take(swept, 1)
        s = take(taken, 1)


@kernel
def finish_slices(
    rows: Any, d_loss: Any, taken: Any, work: Any, slices: Any, loss: Any, out: Any, past_caches: bool
) -> None:
    """Fill the loss of the only row, and its gradient, as losses_and_gradients does, when all its slices are swept.

    The logits are not read again: gradients may take their place.
    """
    number, rows, n_classes = number_in(work), rows_of(rows), work.shape[1]
    block, tile, factors = block_for(number), tile_for(number), factors_for(number)
    begin_tile(rows, tile, 0, 1)
    sums = read_sums(slices[0], block)
    for s in range(1, slices.shape[0]):
        sums = together(sums, read_sums(slices[s], block), rows.temperature)
    keep_sums(tile, 0, sums, block.dtype.type(math.nan) if sums.rose else sums.peak)
    tile.label_logit[0] = slices[0, _LABEL_LOGIT]
    finish_summaries(rows, tile, 1)
    s = take(taken, 1)
    while s < slices.shape[0]:
        if s == 0:
            finish_losses(rows, tile, 0, 1, loss)
        if out.size > 0:
            begin, end = s * SLICE, min((s + 1) * SLICE, n_classes)
            part, label = read_sums(slices[s], block), tile.label[0]
            if part.argmax != sums.argmax:
                put_back(work[0], part, rows.temperature)
            factors.label_exp[0] = work[0, label] if begin <= label < end else 0.0
            factors.q_winner[0] = probability_of(rows.dense, 0, tile.winner[0])
            finish_factors(rows, d_loss, tile, factors, 0, 1)
            finish_gradient(rows, work, block, tile, factors, 0, 0, out, past_caches, begin, end)
        s = take(taken, 1)
