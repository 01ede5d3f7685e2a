"""The functions as a NumPy user meets them: values, shapes, dtypes, memory layouts and `out`."""

import numpy as np
import pytest
import scipy.special

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over
from everything import everything, make_problem
from softmaxloss import reference

over_logits = over([case for case in CASES if ", index, none" in case.name])
over_arrays = over([case for case in CASES if case.name.startswith("3-d") and "per row" in case.name])

SOFTMAX_FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
over_functions = pytest.mark.parametrize("function", SOFTMAX_FUNCTIONS)


@over_logits
@over_functions
def test_softmax_functions_equal_the_reference_and_scipy(case, function):
    axis = {"axis": -1} if case.logits.size else {}
    got = getattr(sl, function)(case.logits)
    assert got.dtype == case.logits.dtype
    assert_close(got, getattr(reference, function)(case.logits), case.precision)
    if case.logits.size:
        assert_close(got, getattr(scipy.special, function)(case.logits, **axis), case.precision)


@over_logits
def test_softmax_sums_to_one(case):
    assert np.allclose(sl.softmax(case.logits).sum(-1), 1, rtol=0, atol=case.precision)


@over_logits
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_softmax_functions_write_into_out_even_in_place(case, function):
    right = getattr(sl, function)(case.logits)
    elsewhere, in_place = np.full_like(case.logits, np.nan), case.logits.copy()
    assert getattr(sl, function)(case.logits, out=elsewhere) is elsewhere
    assert getattr(sl, function)(in_place, out=in_place) is in_place
    assert_same_bits(elsewhere, right)
    assert_same_bits(in_place, right)


def test_integers_and_lists_are_computed_in_float64():
    for logits in ([[2, 1, 0]], [[2.0, 1.0, 0.0]], np.array([[2, 1, 0]], np.int8)):
        loss, d_logits = sl.cross_entropy_and_grad(logits, [2], reduction="none")
        assert (loss.dtype, d_logits.dtype) == (np.float64, np.float64)
        assert loss[0] == pytest.approx(2.4076059644443806, rel=1e-15)
        assert sl.softmax(logits).dtype == np.float64


def test_one_row_needs_no_batch_axis():
    loss, d_logits = sl.cross_entropy_and_grad(np.array([0.0, 0.0]), 1)
    assert loss == pytest.approx(np.log(2), rel=1e-15)
    assert_same_bits(d_logits, [0.5, -0.5])
    assert sl.logsumexp(np.zeros(4)) == pytest.approx(np.log(4), rel=1e-15)


@pytest.mark.parametrize("dtype", "bBhHiIlLqQ")
def test_labels_may_have_any_integer_dtype(dtype):
    logits = np.random.default_rng(0).normal(size=(3, 5))
    right = sl.cross_entropy_and_grad(logits, [4, 0, 1], ignore_index=1)
    loss, d_logits = sl.cross_entropy_and_grad(logits, np.array([4, 0, 1], dtype), ignore_index=1)
    assert_same_bits(loss, right[0])
    assert_same_bits(d_logits, right[1])


def test_an_ignore_index_beyond_the_labels_dtype_ignores_nothing():
    labels = np.array([0, 1], np.uint8)
    logits = np.array([[0.0, 1.0], [0.0, 3.0]])
    assert sl.cross_entropy(logits, labels, ignore_index=-100) == sl.cross_entropy(logits, labels)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 99, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def backwards(array):
    everywhere = (slice(None, None, -1),) * array.ndim
    return array[everywhere].copy()[everywhere]


def fortran_ordered(array):
    return np.asfortranarray(array)


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def broadcast(array):
    """Repeat the first row without copying it: stride 0."""
    return np.broadcast_to(array[:1], array.shape)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    result = raw.view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


@pytest.fixture
def memory_mapped(tmp_path):
    def memory_mapped(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return memory_mapped


LAYOUTS = (read_only, strided, backwards, fortran_ordered, big_endian, broadcast, unaligned)


@over_arrays
@pytest.mark.parametrize("layout", [*LAYOUTS, "memory_mapped"], ids=lambda x: getattr(x, "__name__", x))
def test_arrays_of_any_memory_layout_give_the_same_bits_and_stay_as_they_are(case, layout, request):
    layout = request.getfixturevalue(layout) if isinstance(layout, str) else layout
    n_classes, batch = case.logits.shape[-1], case.logits.shape[:-1]
    arrays = {
        "logits": case.logits,
        "targets": case.targets,
        "class_weight": np.linspace(1, 2, n_classes),
        "sample_weight": np.linspace(1, 2, batch[0] * batch[1]).reshape(batch),
        "upstream": case.options["upstream"],
    }
    laid_out = {name: layout(array) for name, array in arrays.items()}
    plain = {name: np.array(array, array.dtype.newbyteorder("=")) for name, array in laid_out.items()}
    before = {name: array.tobytes() for name, array in laid_out.items()}

    right_loss, right_d_logits = sl.cross_entropy_and_grad(**plain, reduction="none")
    loss, d_logits = sl.cross_entropy_and_grad(**laid_out, reduction="none")
    assert_same_bits(loss, right_loss)
    assert_same_bits(d_logits, right_d_logits)
    assert {name: array.tobytes() for name, array in laid_out.items()} == before
    for function in SOFTMAX_FUNCTIONS:
        assert_same_bits(getattr(sl, function)(laid_out["logits"]), getattr(sl, function)(plain["logits"]))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("layout", [*LAYOUTS, "memory_mapped"], ids=lambda x: getattr(x, "__name__", x))
def test_all_functions_take_arrays_of_any_memory_layout_and_leave_them_as_they_are(layout, axis, request):
    layout = request.getfixturevalue(layout) if isinstance(layout, str) else layout
    problem = make_problem(np.float32, axis, batch=(3, 12), n_classes=20)
    laid_out = problem._make(layout(value) if isinstance(value, np.ndarray) else value for value in problem)
    arrays = [value for value in laid_out if isinstance(value, np.ndarray)]
    plain = problem._make(
        value.astype(value.dtype.newbyteorder("=")) if isinstance(value, np.ndarray) else value for value in laid_out
    )
    before = [array.tobytes() for array in arrays]
    right = everything(plain)
    for name, result in everything(laid_out).items():
        assert_same_bits(result, right[name])
    assert [array.tobytes() for array in arrays] == before


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("batch", [(0, 12), (3, 0), (0, 0)])
def test_all_functions_take_no_rows(batch, axis):
    problem = make_problem(np.float32, axis, batch, n_classes=20)
    for name, result in everything(problem).items():
        with_classes = name in {"softmax", "log_softmax", "d_logits", "d_log_probs", "hessian_diagonal", "hvp"}
        assert result.shape == ((*batch, 20) if with_classes else batch)
        assert result.dtype == (np.int64 if name in {"argmax", "rank"} else np.float32)


@over_arrays
@pytest.mark.parametrize("layout", [strided, backwards, fortran_ordered, big_endian, unaligned])
def test_out_may_have_any_memory_layout_even_in_place(case, layout):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    for logits, out in [(case.logits, layout(np.zeros_like(case.logits))), [layout(case.logits.copy())] * 2]:
        out_loss, result = sl.cross_entropy_and_grad(logits, case.targets, out=out, **case.options)
        assert result is out
        assert_same_bits(out_loss, loss)
        assert_same_bits(np.ascontiguousarray(out, d_logits.dtype), d_logits)


def test_blocks_of_rows_in_place_are_each_computed_once():
    logits = np.random.default_rng(0).normal(size=(3000, 700)).astype(np.float32)
    labels = np.zeros(3000, int)
    loss, d_logits = sl.cross_entropy_and_grad(logits, labels)
    in_place_loss, _ = sl.cross_entropy_and_grad(logits, labels, out=logits)
    assert in_place_loss == loss
    assert_same_bits(logits, d_logits)


def test_out_writes_nothing_beside_itself():
    wide = np.full((4, 10), 7.0)
    sl.cross_entropy_and_grad(np.zeros((4, 5)), [0, 1, 2, 3], out=wide[:, ::2])
    assert np.all(wide[:, 1::2] == 7)


@pytest.mark.parametrize("shift", [0, 7, -7, 500])
def test_out_may_be_the_soft_targets_or_overlap_them(shift):
    rng = np.random.default_rng(0)
    logits, memory = rng.normal(size=(6, 5000)), rng.dirichlet(np.ones(40_000), 1)[0]
    targets, out = (memory[start : start + 30_000].reshape(6, 5000) for start in (1000, 1000 + shift))
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets, label_smoothing=0.1)
    out_loss, filled = sl.cross_entropy_and_grad(logits, targets, label_smoothing=0.1, out=out)
    assert filled is out
    assert_same_bits(out_loss, loss)
    assert_same_bits(out, d_logits)


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("by", ["rows", "columns"])
def test_out_that_overlaps_the_logits_gives_the_right_answer_or_is_refused(shift, by):
    base = np.random.default_rng(0).normal(size=(5, 1000))
    lower, upper = (base[:-1], base[1:]) if by == "rows" else (base[:, :-1], base[:, 1:])
    logits, out = (lower, upper) if shift == 1 else (upper, lower)
    _, right = sl.cross_entropy_and_grad(logits.copy(), np.zeros(len(logits), int))
    try:
        sl.cross_entropy_and_grad(logits, np.zeros(len(logits), int), out=out)
    except ValueError as error:
        assert "out" in str(error)  # noqa: PT017
    else:
        assert_same_bits(np.ascontiguousarray(out), right)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduced_losses_are_python_floats_summed_in_float64(reduction):
    logits = np.zeros((100_000, 2), np.float32)
    per_row = float(sl.cross_entropy(logits[0], 0, reduction="none"))
    loss = sl.cross_entropy(logits, np.zeros(100_000, int), reduction=reduction)
    assert type(loss) is float
    size = 1 if reduction == "mean" else 100_000
    assert loss == pytest.approx(np.log(2) * size, rel=1e-7)
    assert loss == pytest.approx(per_row * size, rel=1e-7)
