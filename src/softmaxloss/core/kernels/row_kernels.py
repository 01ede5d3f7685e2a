"""The entry points that go row by row, one block of classes at a time: (rows, classes) in, (rows, classes) out.

They allocate nothing: what they work in lies on the stack, but for the exponentials of some rows. What a row costs
besides its elements is paid for many rows at once: see tiles.py.
"""

import math
from typing import Any

from softmaxloss.core.kernels.arithmetic import (
    lanes_for,
    lost_of,
    number_in,
    probability_of,
    rounded,
    value_of,
)
from softmaxloss.core.kernels.bits import CACHE_LINE, decoded, encoded, prefetch
from softmaxloss.core.kernels.blocks import (
    BLOCK,
    block_for,
    clear_masked,
    load,
    multiply,
)
from softmaxloss.core.kernels.compilation import inline, kernel
from softmaxloss.core.kernels.exponential import Reference, reference_of
from softmaxloss.core.kernels.logarithm import log_one_plus
from softmaxloss.core.kernels.progress import take
from softmaxloss.core.kernels.scaling import scale_and_subtract, store
from softmaxloss.core.kernels.sweeps import SLICE, Sums, highest_of_row, no_sums, put_back, sweep, together
from softmaxloss.core.kernels.tiles import (
    MOST_ROWS,
    Tile,
    TileFactors,
    begin_tile,
    factors_for,
    finish_factors,
    finish_losses,
    finish_summaries,
    has_spread,
    set_reference,
    tile_for,
    write_summaries,
)
from softmaxloss.core.rows import rows_of

# So many exponentials wait together until their rows are finished: 32 or 64 KiB of a second-level cache.
WAITING_ELEMENTS = 1 << 13


def rows_that_wait(n_classes: int) -> int:
    """Return how many rows to finish together."""
    return max(1, min(MOST_ROWS, WAITING_ELEMENTS // max(n_classes, 1)))


@inline
def summarize_row(logits: Any, block: Any, work: Any, lanes: Any, rows: Any, i: int, tile: Tile, c: int) -> None:
    """Put what row i adds up to in a tile; `work`, a row or a block long, gets LIFT * exp((z - R) / T) of its classes.

    The rare row that rises far above its first block is swept once more, with the reference of its peak.
    """
    zero, label, t, n_classes = block.dtype.type(0), tile.label[c], rows.temperature, logits.shape[1]
    tile.label_logit[c] = decoded(logits[i][label]) if label >= 0 else 0.0
    reference, is_given = reference_of(zero, t), False
    while True:
        sums = no_sums(block.dtype.type(-math.inf), reference, False)
        for begin in range(0, n_classes, SLICE):
            end = min(begin + SLICE, n_classes)
            part = sweep(logits, block, work, lanes, rows, i, tile.keep[c], reference, is_given, begin, end)
            if part.rose or n_classes <= SLICE:
                sums = part
                break
            before, sums = sums, together(sums, part, t)
            put_back(work, before if sums.argmax == part.argmax else part, t)
            reference, is_given = part.reference, is_given or part.peak > -math.inf
        peak = sums.peak
        if not sums.rose:
            break
        peak = highest_of_row(logits[i], rows.class_mask, block, lanes.run)
        reference, is_given = reference_of(peak, t), True
        if not math.isfinite(peak):
            break
    keep_sums(tile, c, sums, peak)


@inline
def keep_sums(tile: Tile, c: int, sums: Sums, peak: Any) -> None:
    """Put the sums of a row in a tile."""
    set_reference(tile, c, sums.reference)
    tile.winner[c], tile.peak[c] = sums.argmax, peak if value_of(sums.total) >= 0.0 else math.nan
    tile.rest[c], tile.lost_rest[c], tile.dot[c], tile.lost_dot[c] = (
        value_of(sums.total),
        lost_of(sums.total),
        sums.dot,
        sums.lost_dot,
    )


@inline
def leave_out(tile: Tile, c: int) -> None:
    """Make a row of weight 0, which is not read, one whose classes are all at -inf."""
    zero = tile.peak.dtype.type(0)
    set_reference(tile, c, Reference(zero, zero, zero, 0.0))
    tile.winner[c], tile.peak[c], tile.label_logit[c] = 0, -math.inf, 0.0
    tile.rest[c], tile.lost_rest[c], tile.dot[c], tile.lost_dot[c] = 0.0, 0.0, 0.0, 0.0


@kernel
def summarize(logits: Any, rows: Any, taken: Any, step: int, summary: Any) -> None:
    """Fill the summaries of rows, taking `step` at a time; those of weight 0 are not read."""
    number, rows = number_in(logits), rows_of(rows)
    block, work, lanes, tile = block_for(number), block_for(number), lanes_for(number), tile_for(number)
    begin = take(taken, step)
    while begin < logits.shape[0]:
        end = min(begin + step, logits.shape[0])
        for first in range(begin, end, MOST_ROWS):
            size = min(MOST_ROWS, end - first)
            begin_tile(rows, tile, first, size)
            for c in range(size):
                if tile.weight[c] != 0.0:
                    summarize_row(logits, block, work, lanes, rows, first + c, tile, c)
                else:
                    leave_out(tile, c)
            finish_summaries(rows, tile, size)
            write_summaries(rows, tile, first, size, summary)
        begin = take(taken, step)


@kernel
def losses_and_gradients(
    logits: Any, rows: Any, d_loss: Any, taken: Any, step: int, work: Any, loss: Any, out: Any, past_caches: bool
) -> None:
    """Fill the losses of rows, taking `step` at a time, and their gradients, times d_loss.

    `out` may be `logits` itself, or hold nothing where no gradients are wanted. Exponentials wait for their sum in the
    rows of `work`, which may be `out` if that is not `logits`.
    """
    number, rows = number_in(logits), rows_of(rows)
    block, spare, lanes = block_for(number), block_for(number), lanes_for(number)
    tile, factors, most = tile_for(number), factors_for(number), min(MOST_ROWS, work.shape[0])
    begin = take(taken, step)
    while begin < logits.shape[0]:
        end = min(begin + step, logits.shape[0])
        for first in range(begin, end, most):
            size = min(most, end - first)
            begin_tile(rows, tile, first, size)
            for c in range(size):
                i, factors.label_exp[c], factors.q_winner[c] = first + c, 0.0, 0.0
                if tile.weight[c] == 0.0:
                    leave_out(tile, c)
                    continue
                lifted = work[i % work.shape[0]] if out.size > 0 else spare
                if past_caches:
                    # The line where two rows meet is written in parts, which hold up all others while it is fetched:
                    # a seventh of the time of 8192x1000.
                    prefetch(out, (i + 1) * out.shape[1] - 1)
                summarize_row(logits, block, lifted, lanes, rows, i, tile, c)
                if out.size > 0:
                    factors.label_exp[c] = lifted[max(tile.label[c], 0)]
                    factors.q_winner[c] = probability_of(rows.dense, i, tile.winner[c])
            finish_summaries(rows, tile, size)
            finish_losses(rows, tile, first, size, loss)
            if out.size > 0:
                finish_factors(rows, d_loss, tile, factors, first, size)
                for c in range(size):
                    finish_gradient(rows, work, block, tile, factors, first + c, c, out, past_caches, 0, out.shape[1])
        begin = take(taken, step)


@inline
def finish_gradient(
    rows: Any,
    work: Any,
    block: Any,
    tile: Tile,
    factors: TileFactors,
    i: int,
    c: int,
    out: Any,
    past_caches: bool,
    begin: int,
    end: int,
) -> None:
    """Turn the exponentials of classes `begin` to `end` of row i into its gradient, which is written just once."""
    row, lifted = out[i], work[i % work.shape[0]]
    if tile.weight[c] == 0.0:
        row[begin:end] = 0
        return
    if factors.first[c] != 1:
        multiply(lifted[begin:end], factors.first[c])
    stop = begin
    while stop < end:  # blocks end where cache lines do, so that none of these is written in parts
        start = stop
        beyond = row[start:end].ctypes.data % CACHE_LINE // row.itemsize
        stop = min(start + BLOCK - beyond, end)
        part, place = lifted[start:stop], row[start:stop]
        in_place = part.ctypes.data == place.ctypes.data
        if in_place or (past_caches and not is_scaled_alone(rows, tile, c, start, stop)):
            d_z = block[: stop - start]
            gradients(part, rows, tile, factors, i, c, start, d_z, False)
            store(d_z, d_z.dtype.type(1), place, past_caches)
        else:
            gradients(part, rows, tile, factors, i, c, start, place, past_caches)


@inline
def is_scaled_alone(rows: Any, tile: Tile, c: int, start: int, stop: int) -> bool:
    """Return whether the gradients of some classes are exponentials times a factor: none is the label or the winner.

    Only these are written just once, as what is written past the caches should be.
    """
    plain = not has_spread(rows) and rows.class_mask.size == 0
    return plain and not start <= tile.label[c] < stop and not start <= tile.winner[c] < stop


@inline
def gradients(
    lifted: Any, rows: Any, tile: Tile, factors: TileFactors, i: int, c: int, start: int, out: Any, past_caches: bool
) -> None:
    """Turn exponentials, times the first factor, of neighbouring classes of row i into gradients."""
    if has_spread(rows):
        scale_and_subtract(lifted, tile, factors, c, rows, i, start, out)
    else:
        store(lifted, factors.second[c], out, past_caches)
    label, winner = tile.label[c] - start, tile.winner[c] - start
    if 0 <= label < out.size:
        out[label] = encoded(factors.at_label[c], out[label])
    if 0 <= winner < out.size:
        out[winner] = encoded(factors.at_winner[c], out[winner])
    clear_masked(out, rows.class_mask[start : start + out.size])


@kernel
def log_softmax(logits: Any, rows: Any, taken: Any, step: int, out: Any) -> None:
    """Fill (z - peak) / T - log1p(rest) of rows, taking `step` at a time; `out` may be `logits`."""
    number, rows = number_in(logits), rows_of(rows)
    block, work, lanes, tile = block_for(number), block_for(number), lanes_for(number), tile_for(number)
    shares = block_for(number)
    real = block.dtype.type
    begin = take(taken, step)
    while begin < logits.shape[0]:
        end = min(begin + step, logits.shape[0])
        for i in range(begin, end):
            begin_tile(rows, tile, i, 1)
            summarize_row(logits, block, work, lanes, rows, i, tile, 0)
            finish_summaries(rows, tile, 1)
            peak, rest = tile.peak[0], tile.rest[0] + tile.lost_rest[0]
            log_total = rounded(log_one_plus(rest, 0.0)) if math.isfinite(peak) else math.nan
            for start in range(0, logits.shape[1], BLOCK):
                stop = min(start + BLOCK, logits.shape[1])
                z, _ = load(logits[i][start:stop], rows.class_mask[start:stop], block, lanes.run)
                log_shares(z, peak, real(log_total), real(1.0 / rows.temperature.value), shares[: stop - start])
                store(shares[: stop - start], real(1), out[i][start:stop], False)
        begin = take(taken, step)


@inline
def log_shares(row: Any, peak: Any, log_total: Any, reciprocal: Any, out: Any) -> None:
    """Subtract in two steps: both differences have one sign, so that nothing cancels."""
    half = row.dtype.type(0.5)
    for j in range(row.size):
        out[j] = (half * row[j] - half * peak) * (reciprocal + reciprocal) - log_total  # halves do not overflow
