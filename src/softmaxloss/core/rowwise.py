"""The row functions over whole arrays: 2-d logits in, blocks of rows over threads, one number or row out for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core.kernels import row_kernels
from softmaxloss.core.parallel import map_row_blocks, readable
from softmaxloss.core.rows import Rows, without_target
from softmaxloss.core.summary import RowSummary, new_summary

Array = NDArray[Any]
Float64s = NDArray[np.float64]


def summarize(logits: Array, rows: Rows | None = None) -> RowSummary:
    """Return the RowSummary of each row of logits (N, V)."""
    rows = rows or without_target(len(logits))
    summary = new_summary(len(logits))

    def work(part: slice, block: Array) -> None:
        row_kernels.summarize(block, rows_of(rows, part), *room_for(block), summary.part(part))

    map_row_blocks(work, logits)
    return summary


def losses(logits: Array, rows: Rows) -> Float64s:
    """Return the weighted loss of each row of logits (N, V)."""
    loss = np.empty(len(logits))

    def work(part: slice, block: Array) -> None:
        row_kernels.losses(block, rows_of(rows, part), *room_for(block), loss[part])

    map_row_blocks(work, logits)
    return loss


def losses_and_gradients(logits: Array, rows: Rows, d_loss: Float64s, out: Array) -> Float64s:
    """Return the losses and write d_loss * (mass * softmax - q) to `out` (N, V), which may be `logits`."""
    loss = np.empty(len(logits))

    def work(part: slice, block: Array) -> None:
        parts = row_kernels.room_for_blocks(block)
        described = rows_of(rows, part)
        with _writable(out[part]) as d_logits:
            row_kernels.losses_and_gradients(block, described, d_loss[part], parts, loss[part], d_logits)

    map_row_blocks(work, logits)
    return loss


def softmax(logits: Array, out: Array) -> None:
    """Write the softmax of each row to `out`: it is the gradient of logsumexp."""
    rows = without_target(len(logits))
    losses_and_gradients(logits, rows, rows.weight, out)


def log_softmax(logits: Array, out: Array) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    rows = without_target(len(logits))

    def work(part: slice, block: Array) -> None:
        with _writable(out[part]) as result:
            row_kernels.log_softmax(block, rows.part(part), *room_for(block), result)

    map_row_blocks(work, logits)


@contextmanager
def _writable(block: Array) -> Iterator[Array]:
    """Give a kernel the block to write to, or a contiguous stand-in that is copied there afterwards."""
    place = np.require(block, requirements=["C_CONTIGUOUS", "ALIGNED"])
    yield place
    if place is not block:
        block[...] = place


def room_for(logits: Array) -> tuple[RowSummary, Array]:
    """Return what a kernel that only reads logits needs to work in."""
    return row_kernels.room_for_blocks(logits), row_kernels.room_for_a_block(logits)


def rows_of(rows: Rows, part: slice) -> Rows:
    """Return the descriptor of a part of the rows, its dense targets as kernels read them."""
    selected = rows.part(part)
    if selected.dense is None:
        return selected
    return selected._replace(dense=readable(selected.dense))
