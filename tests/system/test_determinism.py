"""The same bits from all public functions: for every number of threads, chunking of the rows, and neighbour row."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from everything import everything, make_problem
from softmaxloss import reference
from softmaxloss.core import layout, staging
from thorough import over_pairs, over_values

CLASSES_LAST, CLASSES_IN_AXIS_1 = -1, 1
AXES = (CLASSES_LAST, CLASSES_IN_AXIS_1)
over_axes = pytest.mark.parametrize("axis", AXES)
over_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
KINDS = {"single": (np.float32, None), "double": (np.float64, None), "capped": (np.float32, 6.0)}


@pytest.fixture(autouse=True)
def _threads():
    before = sl.get_num_threads()
    yield
    sl.set_num_threads(before)


def assert_everything_same(got, want, where=...):
    for name, result in want.items():
        assert_same_bits(got[name], result[where])


@over_pairs(
    reduction=["none", "mean"],
    dtype={"float32": np.float32, "float64": np.float64},
    axis={"last": CLASSES_LAST, "second": CLASSES_IN_AXIS_1},
)
def test_every_number_of_threads_gives_the_same_bits(dtype, axis, reduction):
    problem = make_problem(dtype, axis)
    sl.set_num_threads(1)
    right = everything(problem, reduction)
    for n in (2, 3, 8):
        sl.set_num_threads(n)
        assert_everything_same(everything(problem, reduction), right)


@over_values(kind=KINDS, axis=AXES)
def test_every_chunking_of_the_rows_gives_the_same_bits(kind, axis):
    """Chunks of axis 1 hold at least 8 rows: fewer are not computed side by side, but row by row."""
    dtype, softcap = kind
    problem = make_problem(dtype, axis, softcap=softcap)
    right = everything(problem)
    chunks = [(slice(0, 1), slice(None)), (slice(1, 4), slice(None)), (1, slice(None))]
    chunks += [(slice(None), slice(*ends)) for ends in pairwise([0, 8, 17, 80, 160])]
    chunks += [(slice(2, 3), slice(5, 5 + size)) for size in (8, 9, 33, 101, 128, 129)]
    if axis == CLASSES_LAST:
        chunks += [(0, 0), (slice(2, 3), slice(99, 102)), (slice(None), 159)]
    for chunk in chunks:
        part = problem.part(*chunk)
        if axis == CLASSES_IN_AXIS_1 and part.logits.ndim < problem.logits.ndim:
            part = part._replace(axis=0)
        assert_everything_same(everything(part), right, chunk)


@over_axes
@over_dtypes
@pytest.mark.parametrize("elements", [1, 40_000, 1 << 30], ids=["smallest", "small", "one"])
def test_pieces_of_every_size_give_the_same_bits(dtype, axis, elements, monkeypatch):
    problem = make_problem(dtype, axis, batch=(2, 160))
    right = everything(problem)
    swapped = problem.logits.astype(problem.logits.dtype.newbyteorder("S"))  # kernels cannot read it directly
    monkeypatch.setattr(layout, "PIECE_ELEMENTS", elements)
    assert_everything_same(everything(problem._replace(logits=swapped)), right)


def beginning_at(offset, array):
    """Return a copy of an array, so many numbers after the begin of one of zeros that reaches beyond it, and this."""
    room = np.zeros(array.size + 2 * offset, array.dtype)
    copy = room[offset : room.size - offset].reshape(array.shape)
    copy[...] = array
    return copy, room


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1, 13])
@pytest.mark.parametrize("shape", [(5, 4999), (300, 21), (2, 21, 1600), (2, 21, 999), (3, 180, 256), (2, 600, 64)])
@pytest.mark.parametrize(("private", "around"), [(1 << 17, 1), (0, 1), (0, 1 << 62)])
def test_it_does_not_matter_where_arrays_begin_exponentials_wait_and_how_gradients_are_written(
    dtype, offset, shape, *, private, around, monkeypatch
):
    rng = np.random.default_rng(0)
    logits, labels = (3 * rng.normal(size=shape)).astype(dtype), rng.integers(0, shape[1], (shape[0], *shape[2:]))
    classes = np.moveaxis(logits, 1, 0)
    classes[7][..., 1], classes[8][..., 2] = np.nan, np.inf
    options = {"axis": 1, "reduction": "none"}
    right_loss, right = sl.cross_entropy_and_grad(logits, labels, **options)
    monkeypatch.setattr(staging, "PRIVATE_CLASSES", private)
    monkeypatch.setattr(staging, "STREAMED_BYTES", around)
    sl.set_num_threads(1 + offset % 2)
    out, room = beginning_at(offset, np.zeros_like(logits))
    moved, _ = beginning_at(16 - offset, logits)
    for z in (moved, out):
        out[...] = logits
        loss, _ = sl.cross_entropy_and_grad(z, labels, out=out, **options)
        assert_same_bits(loss, right_loss)
        assert_same_bits(out, right)
    assert_same_bits(sl.cross_entropy(moved, labels, **options), right_loss)
    assert not room[:offset].any()
    assert not room[room.size - offset :].any()


@over_dtypes
@pytest.mark.parametrize("targets", ["labels", "soft"])
@pytest.mark.parametrize("option", [{}, {"label_smoothing": 0.1}, {"class_mask": np.arange(4500) != 5}])
@pytest.mark.parametrize("factor", [0, 1e-40, 1, 1e35])
def test_gradients_around_the_caches_are_those_in_them(dtype, targets, option, factor, monkeypatch):
    """Winners and labels at the ends of blocks, and both in one; one row of another weight."""
    n_classes = 4500
    logits = np.random.default_rng(0).normal(size=(8, n_classes)).astype(dtype)
    winners, labels = [0, 2047, 2048, 4095, 4096, 4499, 7, 9], np.array([4499, 2048, 2047, 4096, 4095, 0, 7, 2100])
    logits[np.arange(8), winners] += 20
    upstream = np.ones(8)
    upstream[3] = factor
    wanted = labels if targets == "labels" else np.eye(n_classes)[labels] * [[0.5]]
    options = {"reduction": "none", "upstream": upstream, **option}
    _, right = sl.cross_entropy_and_grad(logits, wanted, **options)
    monkeypatch.setattr(staging, "STREAMED_BYTES", 1)
    assert_same_bits(sl.cross_entropy_and_grad(logits, wanted, **options)[1], right)
    alone = options | {"upstream": upstream[3:4]}
    assert_same_bits(sl.cross_entropy_and_grad(logits[3:4], wanted[3:4], **alone)[1], right[3:4])


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("factor", [0, 1e-40, 1e35, np.nan])
def test_a_row_of_extreme_weight_leaves_its_neighbours_alone(axis, factor):
    rng = np.random.default_rng(0)
    logits, labels, upstream = rng.normal(size=(50, 10)).astype(np.float32), rng.integers(0, 10, 50), np.ones(50)
    upstream[7] = factor
    options = {"axis": axis, "reduction": "none"}

    def gradient(rows):
        z = np.ascontiguousarray(np.moveaxis(logits[rows], -1, axis))
        _, d_logits = sl.cross_entropy_and_grad(z, labels[rows], upstream=upstream[rows], **options)
        return np.moveaxis(d_logits, axis, -1)

    everything = gradient(slice(None))
    for rows in (slice(0, 7), slice(7, 8), slice(8, 50)):
        assert_same_bits(everything[rows], gradient(rows))


@over_dtypes
@pytest.mark.parametrize("threads", [1, 8])
def test_a_late_rise_of_more_classes_than_a_private_row_holds_is_right_in_place(dtype, threads):
    """The row is read twice: by then its exponentials must not have taken the place of its logits."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 131_100)).astype(dtype), [5, 18_927]
    logits[:, 18_927] += 100
    right_loss, right = reference.cross_entropy_and_grad(logits, labels)
    weight = np.ascontiguousarray(logits.T)  # so that the linear layer has these logits
    sl.set_num_threads(threads)
    loss, _ = sl.linear_cross_entropy_and_grad(np.eye(2, dtype=dtype), weight, labels)
    assert_close(loss, right_loss, 1e-6)
    apart_loss, apart = sl.cross_entropy_and_grad(logits, labels)
    loss, d_logits = sl.cross_entropy_and_grad(logits, labels, out=logits)
    assert_same_bits(loss, apart_loss)
    assert_same_bits(d_logits, apart)
    assert_close(loss, right_loss, 1e-6)
    assert_close(d_logits, right, 1e-6)


@over_axes
@over_dtypes
def test_neighbour_rows_do_not_change_a_row(dtype, axis):
    problem = make_problem(dtype, axis, batch=(2, 160))
    right = everything(problem)
    others = np.arange(320).reshape(2, 160) % 3 != 0
    for value in (np.nan, np.inf, -np.inf, np.finfo(dtype).max, 0.0):
        problem.by_row(problem.logits)[others] = value
        problem.by_row(problem.vector)[others] = value
        got = everything(problem)
        assert_everything_same({name: result[~others] for name, result in got.items()}, right, ~others)


@over_values(kind=KINDS, axis=AXES)
def test_the_same_call_gives_the_same_bits_wherever_the_arrays_lie(kind, axis):
    """Vector code starts at other elements where arrays start at other places of a cache line."""
    dtype, softcap = kind
    problem = make_problem(dtype, axis, batch=(2, 20), softcap=softcap)
    right = everything(problem)
    for shift in range(1, 64 // problem.logits.itemsize):
        memory = np.empty(problem.logits.size + shift, dtype)[shift:].reshape(problem.logits.shape)
        memory[...] = problem.logits
        assert_everything_same(everything(problem._replace(logits=memory)), right)
