"""The row functions over whole arrays: n-d logits in, pieces of rows over threads, one number or row out for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from softmaxloss.core import elementwise
from softmaxloss.core.elementwise import result_dtype
from softmaxloss.core.kernels import class_major, row_kernels, slices
from softmaxloss.core.kernels import scores as scores_kernels
from softmaxloss.core.parallel import for_each, get_num_threads, share, wait_until
from softmaxloss.core.rows import ONE, Rows
from softmaxloss.core.summary import RowSummary, new_summary, row_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from softmaxloss.core.layout import Arranged, Layout, Piece

Array = NDArray[Any]
Float64s = NDArray[np.float64]

# Exponentials wait for their sum in a row of their own: up to so many, half a second-level cache of float32, or where
# there are so many times more rows than threads that these rows hardly count.
PRIVATE_CLASSES = 1 << 17
MANY_ROWS = 4
# Rows from so many bytes on, as they are computed, are shared by threads, one after the other, where there are fewer
# rows than that: the threads meet twice for each, and shorter rows take longer by two threads than by one.
SHARED_BYTES = 1 << 21
# Bytes from which a result is written around the caches, which would keep only the end of it: twice as fast.
# What is copied to its place afterwards is not.
PAST_CACHES = 1 << 24


_SINGLE, _DOUBLE, _INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
Counter = NDArray[np.int64]  # of the rows that are taken, in its only entry


def none_taken() -> Counter:
    """Return a counter that kernels take rows from."""
    return np.zeros(1, _INTEGER)


class Scores(NamedTuple):
    """What `metrics` needs of each row, shape (N,); of rows without a softmax argmax is -1, rank 0, the others NaN."""

    argmax: NDArray[np.int64]
    rank: NDArray[np.int64]
    log_probability: Float64s
    entropy: Float64s

    def part(self, rows: slice) -> Scores:
        """Return the scores of some of the rows."""
        return Scores(self.argmax[rows], self.rank[rows], self.log_probability[rows], self.entropy[rows])


def summarize(logits: Array, rows: Rows, layout: Layout) -> RowSummary:
    """Return the RowSummary of each row of logits; that of rows of weight 0 means nothing."""
    summary = new_summary(layout.n_rows)

    def arrange(piece: Piece) -> tuple[Any, Rows, RowSummary]:
        return (*_readable(logits, rows, layout, piece), summary.part(piece.rows))

    def run(taken: Counter, step: int, arranged: tuple[Any, Rows, RowSummary]) -> None:
        _summarize(layout, taken, step, arranged)

    _share_out(run, arrange, layout, whole=_lies_as_read(layout, logits, rows))
    return summary


def losses(logits: Array, rows: Rows, layout: Layout) -> Float64s:
    """Return the weighted loss of each row of logits."""
    return _losses_and_gradients(logits, rows, ONE, None, layout, softcap=rows.softcap)


def losses_and_gradients(logits: Array, rows: Rows, d_loss: Float64s, out: Array, layout: Layout) -> Float64s:
    """Return the losses and write their gradients, times d_loss, to `out`, which may be `logits`."""
    return _losses_and_gradients(logits, rows, d_loss, out, layout, softcap=rows.softcap)


def softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the softmax of z of each row to `out`: it is the gradient of logsumexp by z."""
    alone, d_loss = rows.without_targets(), np.array([rows.temperature.value])
    _losses_and_gradients(logits, alone, d_loss, out, layout, softcap=0.0)


def _losses_and_gradients(
    logits: Array, rows: Rows, d_loss: Float64s, out: Array | None, layout: Layout, *, softcap: float
) -> Float64s:
    """Do so, with gradients by the logits under a soft cap, or by the capped logits for a `softcap` of 0."""
    loss, shared = np.empty(layout.n_rows), _shares_rows(layout, logits.dtype)
    past_caches = out is not None and out.nbytes >= PAST_CACHES
    if not shared and _lies_as_read(layout, logits, rows) and (out is None or _lies_in_order(out)):
        z, described = _readable(logits, rows, layout, layout.whole)
        to = _nowhere(z) if out is None else layout.whole_of(elementwise.as_bits(out))
        taken, batch = none_taken(), (z, described, d_loss, loss, to, past_caches)
        share(lambda: _run(layout, taken, batch), layout.n_steps, begun=taken)
        return loss

    def work(piece: Piece) -> None:
        z, described = _readable(logits, rows, layout, piece)
        d = d_loss if len(d_loss) == 1 else d_loss[piece.rows]
        # under a soft cap the logits are needed once more
        result = None if out is None else _Output(out, z, layout, piece, apart=softcap != 0.0)
        to = _nowhere(z) if result is None else result.arranged
        around = past_caches and result is not None and result.array is result.place
        batch = z, described, d, loss[piece.rows], to, around
        if shared and described.weight[0] != 0:  # of its only row; one of weight 0 is not read
            _share_row(layout, batch)
        else:
            _run(layout, none_taken(), batch)
        if result is not None:
            if softcap != 0.0:
                elementwise.multiply_by_cap_slope(result.array, layout.part(logits, piece), softcap)
            result.put_in_place()

    if shared:
        for piece in layout.single_rows():
            work(piece)
    else:
        for_each(work, layout.pieces())
    return loss


# Rows as kernels take them, their d_loss, and where losses and gradients go, and whether past the caches.
_Batch = tuple[Any, Rows, Float64s, Float64s, Any, bool]


def _run(layout: Layout, taken: Counter, batch: _Batch) -> None:
    """Let a kernel take rows until none are left."""
    z, rows, d_loss, loss, out, past_caches = batch
    if layout.class_major:
        kernel, room = class_major.losses_and_gradients, _room_for_lines(z, layout)
    else:
        kernel, room = row_kernels.losses_and_gradients, _room_for_rows(z, out, layout)
    kernel(z, rows.fields(), d_loss, taken, layout.step, room, loss, out, past_caches)


def _shares_rows(layout: Layout, dtype: np.dtype[Any]) -> bool:
    """Return whether threads share each row."""
    if layout.class_major or layout.n_classes * elementwise.kernel_dtype(dtype).itemsize < SHARED_BYTES:
        return False
    threads = get_num_threads()
    return threads > 1 and layout.n_rows < MANY_ROWS * threads


def _share_row(layout: Layout, batch: _Batch) -> None:
    """Fill the loss and the gradients of one row; all its slices are swept before the first one is finished."""
    z, described, d_loss, loss, out, past_caches = batch
    n_slices, rows, room = slices.count(z.shape[1]), described.fields(), _room_for_rows(z, out, layout)
    sweeps = [(none_taken(), none_taken(), slices.room(n_slices), of_peak) for of_peak in (False, True)]
    taken = none_taken()

    def work() -> None:
        for begun, swept, sums, of_peak in sweeps:
            slices.sweep_slices(z, rows, begun, swept, room, sums, of_peak)
            wait_until(swept, n_slices)
            if not sums[:, slices.ROSE].any():
                break
        slices.finish_slices(rows, d_loss, taken, room, sums, loss, out, past_caches)

    share(work, n_slices, begun=sweeps[0][0])


def log_softmax(logits: Array, rows: Rows, out: Array, layout: Layout) -> None:
    """Write the log-softmax of each row to `out`, which may be `logits`."""
    by_row = layout.row_by_row

    def arrange(piece: Piece) -> tuple[Any, Rows, _Output]:
        z, described = _readable(logits, rows, by_row, piece)
        return z, described, _Output(out, z, by_row, piece)

    def run(taken: Counter, step: int, arranged: tuple[Any, Rows, _Output]) -> None:
        z, described, result = arranged
        row_kernels.log_softmax(z, described.fields(), taken, step, result.arranged)

    whole = _lies_as_read(by_row, logits, rows) and _lies_in_order(out)
    _share_out(run, arrange, by_row, lambda arranged: arranged[2].put_in_place(), whole=whole)


def no_scores(n: int) -> Scores:
    """Return the scores of rows that take no part."""
    return Scores(np.full(n, -1), np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan))


def score(logits: Array, rows: Rows, layout: Layout) -> Scores:
    """Return the scores of rows that have a label; of each piece all are found while it is in the cache."""
    by_row, scores = layout.row_by_row, no_scores(layout.n_rows)
    once = rows._replace(weight=(rows.weight != 0) * 1.0)

    def work(piece: Piece) -> None:
        z, described = _readable(logits, once, layout, piece)
        n = len(described.label)
        summary, part = new_summary(n), scores.part(piece.rows)
        _summarize(layout, none_taken(), n, (z, described, summary))
        row_losses(described._replace(dense=None), summary, 0, n, part.log_probability)
        np.negative(part.log_probability, out=part.log_probability)

        if layout.class_major:
            z, described = _readable(logits, once, by_row, piece)
        uncapped = (
            by_row.arranged(by_row.part(logits, piece).astype(z.dtype, copy=False), read_only=True)
            if rows.softcap
            else z
        )
        scores_kernels.score(z, uncapped, described.fields(), 0, n, summary, part)

    for_each(work, layout.pieces())
    return scores


A = TypeVar("A")


def _share_out(
    run: Callable[[Counter, int, A], None],
    arrange: Callable[[Piece], A],
    layout: Layout,
    complete: Callable[[A], None] = lambda _: None,
    *,
    whole: bool,
) -> None:
    """Call run(taken, step, arrange(piece)), then complete(...), for pieces that cover the batch.

    Arrays that lie as kernels take them are arranged once, as a `whole`, whose rows all threads take a few at a time;
    of others one piece after the other is copied.
    """
    step = layout.step
    if whole:
        arranged = arrange(layout.whole)
        taken = none_taken()
        share(lambda: run(taken, step, arranged), layout.n_steps, begun=taken)
        complete(arranged)
    else:

        def work(piece: Piece) -> None:
            arranged = arrange(piece)
            run(none_taken(), step, arranged)
            complete(arranged)

        for_each(work, layout.pieces())


def _lies_as_read(layout: Layout, logits: Array, rows: Rows) -> bool:
    """Return whether there are rows, and kernels can take logits and target rows as they lie."""
    dense = rows.dense
    if not layout.in_order or rows.softcap != 0.0 or not _lies_in_order(logits):
        return False
    return dense is None or (dense.dtype in (np.float32, np.float64) and _lies_in_order(dense))


def _lies_in_order(array: Array) -> bool:
    flags = array.flags
    return flags.c_contiguous and flags.aligned and array.dtype.isnative and array.dtype.kind in "fV"


def _summarize(layout: Layout, taken: Counter, step: int, arranged: tuple[Any, Rows, RowSummary]) -> None:
    z, rows, summary = arranged
    if layout.class_major:
        class_major.summarize(z, rows.fields(), taken, step, _room_for_lines(z, layout), summary)
    else:
        row_kernels.summarize(z, rows.fields(), taken, step, summary)


def _nowhere(z: Arranged) -> Arranged:
    """Return room for no gradients."""
    if isinstance(z, tuple):
        return (np.empty(0, z[0].dtype), *z[1:])
    return np.empty((0, z.shape[1]), z.dtype)


def _room_for_lines(z: tuple[Any, ...], layout: Layout) -> Array:
    """Return room for the classes of rows that are computed side by side."""
    return np.empty(layout.room, _computed_dtype(z[0]))


def _room_for_rows(logits: Array, d_logits: Array, layout: Layout) -> Array:
    """Return room for the exponentials of some rows, or where the gradients will be."""
    dtype = _computed_dtype(d_logits)
    private = layout.n_classes <= PRIVATE_CLASSES or layout.n_rows >= MANY_ROWS * get_num_threads()
    # a row may be read a second time, so its exponentials must not take the place of the logits
    if not d_logits.size:
        return np.empty((row_kernels.rows_that_wait(layout.n_classes), 0), dtype)  # no exponentials wait for gradients
    if private or d_logits.dtype != dtype or np.may_share_memory(logits, d_logits):
        return np.empty((row_kernels.rows_that_wait(layout.n_classes), layout.n_classes), dtype)
    return d_logits


def _computed_dtype(stored: Array) -> np.dtype[Any]:
    return _DOUBLE if stored.dtype == _DOUBLE else _SINGLE


def _readable(logits: Array, rows: Rows, layout: Layout, piece: Piece) -> tuple[Any, Rows]:
    """Return a piece of logits and the descriptor of its rows as kernels read them; the whole of them lies so."""
    if piece is layout.whole:
        z = layout.whole_of(elementwise.as_bits(logits), read_only=True)
        if rows.dense is None:
            return z, rows
        return z, rows._replace(dense=layout.whole_of(rows.dense, read_only=True))  # type: ignore[arg-type]
    z = layout.arranged(elementwise.load(layout.part(logits, piece), rows.softcap), read_only=True)
    dense = None
    if rows.dense is not None:
        dense = layout.arranged(elementwise.computed(layout.part(rows.dense, piece)), read_only=True)
    return z, rows.part(piece.rows, dense)


class _Output:
    """A piece of `out` for a kernel that reads z to write to, or a stand-in whose content is put there afterwards.

    The whole of it lies as kernels take it, or it would come in pieces.
    """

    def __init__(self, out: Array, z: Any, layout: Layout, piece: Piece, *, apart: bool = False) -> None:
        if piece is layout.whole:
            self.place = self.array = out
            self.arranged = layout.whole_of(elementwise.as_bits(out))
            return
        self.place = self.array = layout.part(out, piece)
        dtype, stored = _computed_dtype(_values(z)), result_dtype(out.dtype)
        same = elementwise.kernel_dtype(stored) == dtype
        if same and out.dtype == stored and not apart:
            self.arranged = layout.arranged(elementwise.as_bits(self.place))
            if np.may_share_memory(_values(self.arranged), self.place):
                return
        self.array = np.empty(self.place.shape, stored if same else dtype)
        self.arranged = layout.arranged(elementwise.as_bits(self.array))

    def put_in_place(self) -> None:
        """Copy the result to where it belongs, if it is not there."""
        if self.array is not self.place:
            elementwise.store(self.array, self.place)


def _values(arranged: Arranged) -> Array:
    return arranged[0] if isinstance(arranged, tuple) else arranged
