"""The exponentials of a row turned into its gradient, which is written just once."""

import math
from typing import Any

import numpy as np

from softmaxloss.kernels.by_row.blocks import BLOCK, clear_masked, multiply
from softmaxloss.kernels.machine.cache_lines import store
from softmaxloss.kernels.machine.compilation import fused, inline
from softmaxloss.kernels.machine.half import encoded
from softmaxloss.kernels.machine.intrinsics import CACHE_LINE
from softmaxloss.kernels.row import gradient_of, has_dense_q, q_of_class
from softmaxloss.kernels.tile import Tile, TileFactors


@inline
def write_gradient(
    exponentials: Any,
    rows: Any,
    tile: Tile,
    factors: TileFactors,
    i: int,
    c: int,
    block: Any,
    out: Any,
    streamed: bool,
) -> None:
    """Write the gradient of row i. Blocks end where cache lines end, so that no line is written in parts."""
    if tile.weight[c] == 0.0 or math.isnan(factors.second[c]):
        value = exponentials.dtype.type(0.0 if tile.weight[c] == 0.0 else math.nan)
        for j in range(out.size):
            out[j] = encoded(value, out[j])  # one and the same NaN in rows without a softmax
        clear_masked(out, rows.class_mask)
        return
    if factors.first[c] != 1:
        multiply(exponentials, factors.first[c])
    stop = np.int64(0)  # a literal 0 would compile the steps below twice, as would a literal False
    while stop < out.size:
        start = stop
        beyond = out[start:].ctypes.data % CACHE_LINE // out.itemsize
        stop = min(start + BLOCK - beyond, out.size)
        part, place = exponentials[start:stop], out[start:stop]
        in_place = part.ctypes.data == place.ctypes.data
        # Streaming stores must write each number just once. One pass suffices only if gradients are exponentials times
        # a factor.
        are_scaled_alone = not has_dense_q(rows) and rows.class_mask.size == 0 and not start <= tile.target[c] < stop
        apart = in_place or (streamed and not are_scaled_alone)
        if apart:
            d_z = block[: stop - start]
            _write_block(part, rows, tile, factors, i, c, start, d_z, not apart)
            store(d_z, d_z.dtype.type(1), place, streamed)
        else:
            _write_block(part, rows, tile, factors, i, c, start, place, streamed)


@inline
def _write_block(
    exponentials: Any, rows: Any, tile: Tile, factors: TileFactors, i: int, c: int, start: int, out: Any, streamed: bool
) -> None:
    """Turn exponentials of neighbouring classes of row i, already times the first factor, into gradients."""
    if has_dense_q(rows):
        _subtract_dense_q(exponentials, rows, tile, factors, i, c, start, out)
    else:  # gradient_of with wanted = 0
        store(exponentials, factors.second[c], out, streamed)
    target = tile.target[c] - start
    if 0 <= target < out.size:
        out[target] = encoded(factors.at_target[c], out[target])
    clear_masked(out, rows.class_mask[start : start + out.size])


@fused
def _subtract_dense_q(
    exponentials: Any, rows: Any, tile: Tile, factors: TileFactors, i: int, c: int, start: int, out: Any
) -> None:
    label, second, d, real = tile.label[c], factors.second[c], factors.d[c], exponentials.dtype.type
    for k in range(out.size):
        j = start + k
        out[k] = encoded(gradient_of(exponentials[k], second, real(d * q_of_class(rows, i, j, label))), out[k])
