"""The entry points that go row by row, one block of classes at a time: (rows, classes) in, (rows, classes) out.

They allocate nothing. Their scratch arrays lie on the stack; only the one for the exponentials of some rows comes from
the caller. The work per row, as opposed to per element, is done for many rows at once: see tile.py.
"""

import math
from typing import Any

from softmaxloss.kernels.by_row.blocks import BLOCK, block_for, load
from softmaxloss.kernels.by_row.gradient import write_gradient
from softmaxloss.kernels.by_row.sweep import leave_out, summarize_row
from softmaxloss.kernels.machine.cache_lines import store
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import zero_in
from softmaxloss.kernels.machine.intrinsics import prefetch
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.double_double import double_double, rounded
from softmaxloss.kernels.numerics.lanes import lanes_for
from softmaxloss.kernels.row import cost_of, rows_of
from softmaxloss.kernels.tile import MOST_ROWS, begin_tile, factors_for, find_below, finish_sums, finish_tile, tile_for

# Exponentials of several rows wait until the rows are finished together: 32 or 64 KiB of a second-level cache.
WAITING_ELEMENTS = 1 << 13


def rows_that_wait(n_classes: int) -> int:
    """Return how many rows to finish together."""
    return max(1, min(MOST_ROWS, WAITING_ELEMENTS // max(n_classes, 1)))


@kernel
def losses_and_gradients(
    logits: Any,
    rows: Any,
    d_loss: Any,
    taken: Any,
    share: int,
    scratch: Any,
    loss: Any,
    out: Any,
    streamed: bool,
    summary: Any,
    whole: Any,
) -> None:
    """Fill the losses of rows, their gradients times d_loss, and their summaries. Rows are taken a share at a time.

    `out` may be `logits` itself, or hold nothing where no gradients are wanted; `summary` may be None. If these classes
    are only a part of all, `whole` holds the summaries of whole rows, else None. Exponentials wait for their sum in the
    rows of the scratch array, which may be `out` if that is not `logits`.
    """
    number, rows = zero_in(logits), rows_of(rows)
    block, dropped, lanes = block_for(number), block_for(number), lanes_for(number)
    tile, factors, most = tile_for(number), factors_for(number), min(MOST_ROWS, scratch.shape[0])
    has_gradients = out.size > 0
    needs_lse = summary is not None or whole is not None or rows.z_loss > 0.0
    begin = take(taken, share)
    while begin < logits.shape[0]:
        end = min(begin + share, logits.shape[0])
        for first in range(begin, end, most):
            size = min(most, end - first)
            begin_tile(rows, tile, first, size, first)
            for c in range(size):
                i = first + c
                if tile.weight[c] == 0.0:
                    leave_out(tile, c)
                    continue
                if streamed:
                    # The cache line where two rows meet is written in parts, which would delay all other stores
                    # until it is fetched: a seventh of the time of 8192x1000.
                    prefetch(out, (i + 1) * out.shape[1] - 1)
                exponentials = scratch[i % scratch.shape[0]] if has_gradients else dropped
                summarize_row(logits, block, exponentials, lanes, rows, i, tile, c, needs_lse)
            find_below(tile, size, rows.temperature)
            finish_tile(rows, d_loss, tile, factors, first, size, loss, has_gradients, summary, whole)
            if has_gradients:
                for c in range(size):
                    i = first + c
                    write_gradient(scratch[i % scratch.shape[0]], rows, tile, factors, i, c, block, out[i], streamed)
        begin = take(taken, share)


@kernel
def log_softmax(logits: Any, rows: Any, taken: Any, share: int, out: Any) -> None:
    """Fill (z - peak) / T - cost of rows, a share of them at a time; `out` may be `logits`."""
    number, rows = zero_in(logits), rows_of(rows)
    block, dropped, lanes, tile = block_for(number), block_for(number), lanes_for(number), tile_for(number)
    results = block_for(number)
    real = block.dtype.type
    begin = take(taken, share)
    while begin < logits.shape[0]:
        end = min(begin + share, logits.shape[0])
        for i in range(begin, end):
            begin_tile(rows, tile, i, 1, i)
            summarize_row(logits, block, dropped, lanes, rows, i, tile, 0, True)
            find_below(tile, 1, rows.temperature)
            finish_sums(rows, tile, 1)
            peak, rest = tile.peak[0], rounded(double_double(tile.rest[0], tile.low_rest[0], 0.0))
            cost = rounded(cost_of(rest, tile.y_target[0], 0.0)) if math.isfinite(peak) else math.nan
            for start in range(0, logits.shape[1], BLOCK):
                stop = min(start + BLOCK, logits.shape[1])
                z, _ = load(logits[i][start:stop], rows.class_mask[start:stop], block)
                log_probabilities(z, peak, real(cost), real(1.0 / rows.temperature.value), results[: stop - start])
                store(results[: stop - start], real(1), out[i][start:stop], False)
        begin = take(taken, share)


@inline
def log_probabilities(z: Any, peak: Any, cost: Any, reciprocal: Any, out: Any) -> None:
    """Write (z - peak) / T - cost: both terms lower the result, so that nothing cancels."""
    half = z.dtype.type(0.5)
    for j in range(z.size):
        out[j] = (half * z[j] - half * peak) * (reciprocal + reciprocal) - cost  # halves do not overflow
