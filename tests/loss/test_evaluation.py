"""Metrics against scikit-learn, SciPy and a stable sort, and against exact arithmetic on hard rows.

The file has over 300 lines, as all figures of `metrics` share its rows and helpers.
"""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from ml_dtypes import bfloat16

import exact
import softmaxloss as sl
from agree import assert_close, assert_same_bits

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
MASK = np.array([True, False, True, True, False, True, True])

LAYOUTS = {  # shape of the logits and axis of the classes
    "matrix": ((60, 7), -1),
    "one row": ((7,), 0),
    "images": ((2, 7, 3, 5), 1),
    "classes first": ((7, 9), 0),
    "long rows": ((5, 5000), -1),
}
EVERYTHING = {
    "sample_weight": "some 0",
    "ignore_index": 3,
    "class_mask": MASK,
    "softcap": 4.0,
    "temperature": 0.7,
}
OPTIONS = {
    "plain": {},
    **{name: {name: value} for name, value in EVERYTHING.items()},
    "everything": EVERYTHING,
}
PRECISION = {np.float64: 1e-14, np.float32: 1e-6, np.float16: 1e-6, bfloat16: 1e-6}  # half is computed in single
PROBLEMS = [
    *[(layout, option, np.float64) for layout in ("matrix", "images") for option in OPTIONS],
    *[
        (layout, option, np.float32)
        for layout in ("one row", "classes first", "long rows")
        for option in ("plain", "everything")
    ],
    *[("matrix", "everything", dtype) for dtype in (np.float32, np.float16, bfloat16)],
]
over_problems = pytest.mark.parametrize(("layout", "option", "dtype"), PROBLEMS)
over_dtypes = pytest.mark.parametrize("dtype", PRECISION)


def problem(layout, option, dtype):
    """Return logits, labels and options; ranks are far from ties in every dtype."""
    shape, axis = LAYOUTS[layout]
    rng = np.random.default_rng(1)
    batch, n_classes = tuple(np.delete(shape, axis)), shape[axis]
    order = rng.permuted(np.broadcast_to(np.linspace(-3, 3, n_classes), (*batch, n_classes)), axis=-1)
    options = {**OPTIONS[option], "axis": axis}
    if "class_mask" in options:
        options["class_mask"] = np.resize(MASK, n_classes)
    if "sample_weight" in options:
        options["sample_weight"] = np.resize([1.5, 0.0, 0.3, 2.0], batch)
    labels = rng.choice(np.flatnonzero(options.get("class_mask", np.ones(n_classes))), batch)
    return np.moveaxis(order, -1, axis).astype(dtype), labels, options


@over_problems
def test_metrics_equal_scikit_learn_and_scipy(layout, option, dtype):
    logits, labels, options = problem(layout, option, dtype)
    axis, n_classes = options["axis"], logits.shape[options["axis"]]
    exists = options.get("class_mask", np.ones(n_classes, bool))
    live = (labels != options.get("ignore_index")) & (options.get("sample_weight", np.ones(labels.shape)) > 0)
    got = sl.metrics(logits, labels, topk=(1, 2, 4), **options)

    z = np.moveaxis(logits, axis, -1)[live][:, exists].astype(np.float64)
    if "softcap" in options:
        z = 4 * np.tanh(z / 4)
    z = z / options.get("temperature", 1)
    classes = np.flatnonzero(exists)
    right, weight = labels[live], options.get("sample_weight", np.ones(labels.shape))[live]
    weighted = {"labels": classes, "sample_weight": weight}
    p, log_p = scipy.special.softmax(z, axis=-1), scipy.special.log_softmax(z, axis=-1)
    precision = PRECISION[dtype]
    assert got.rows == live.sum()
    assert got.loss == pytest.approx(sklearn.metrics.log_loss(right, p, **weighted), rel=precision)
    assert got.perplexity == pytest.approx(np.exp(got.loss), rel=1e-15)
    assert got.entropy == pytest.approx(np.average(scipy.stats.entropy(p, axis=-1), weights=weight), rel=precision)
    assert got.accuracy == pytest.approx(
        sklearn.metrics.accuracy_score(right, classes[z.argmax(-1)], sample_weight=weight), rel=1e-15
    )
    for k in (1, 2, 4):
        share = sklearn.metrics.top_k_accuracy_score(right, z, k=k, **weighted)
        assert got.top_k[k] == pytest.approx(share, rel=1e-15)

    column = np.searchsorted(classes, right)[:, None]
    np.testing.assert_array_equal(got.argmax[live], classes[z.argmax(-1)])
    np.testing.assert_array_equal(got.rank[live], 1 + np.sum(z > np.take_along_axis(z, column, -1), -1))
    assert_close(got.log_probability[live], np.take_along_axis(log_p, column, -1)[:, 0], precision)
    assert np.all(got.argmax[~live] == -1)
    assert np.all(got.rank[~live] == 0)
    assert np.all(got.log_probability[~live] == 0)


def ranks_of_all_classes(row, classes, **options):
    """Return the rank of each of the classes as the target of the same row."""
    return sl.metrics(np.broadcast_to(row, (len(classes), len(row))), classes, **options).rank


@over_dtypes
@pytest.mark.parametrize("n_classes", [1, 6, 5000])
def test_equal_logits_rank_by_index_and_every_class_has_a_rank_of_its_own(n_classes, dtype):
    values = [-INF, -2.0, 0.0, 3.0]
    row = RNG.choice(values, n_classes).astype(dtype)
    row[-1] = 3
    classes = np.arange(n_classes)
    order = np.argsort(-row.astype(np.float64), kind="stable")
    ranks = ranks_of_all_classes(row, classes)
    np.testing.assert_array_equal(ranks[order], classes + 1)
    assert sl.metrics(row, 0).argmax == order[0]


def test_logits_far_beyond_a_soft_cap_keep_their_ranks():
    row = [500.0, -INF, 1000.0, INF, -800.0]
    assert ranks_of_all_classes(row, np.arange(5), softcap=2.0).tolist() == [3, 5, 2, 1, 4]
    got = sl.metrics(row, 0, softcap=2.0)
    assert got.argmax == 3
    assert got.log_probability == pytest.approx(-np.log(3 + 2 * np.exp(-4)), rel=1e-15)


def test_a_masked_class_has_no_rank_even_among_classes_at_minus_infinity():
    mask = np.array([True, False, True, True, False, True])
    row = np.array([-INF, NAN, 1.0, -INF, INF, -INF])
    assert ranks_of_all_classes(row, np.flatnonzero(mask), class_mask=mask).tolist() == [2, 1, 3, 4]
    assert sl.metrics(row, 2, class_mask=mask).argmax == 2


@pytest.mark.parametrize("one_hot", [bool, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_one_hot_row_is_its_index_to_the_last_bit(layout, one_hot):
    logits, labels, options = problem(layout, "everything", np.float32)
    axis = options["axis"]
    dead = labels == options.pop("ignore_index")
    targets = np.moveaxis(labels[..., None] == np.arange(logits.shape[axis]), -1, axis).astype(one_hot)
    options["sample_weight"] = np.where(dead, 0, options["sample_weight"])
    assert_same_metrics(sl.metrics(logits, targets, **options), sl.metrics(logits, labels, **options))


def assert_same_metrics(got, right):
    for name in vars(right):
        if name == "top_k":
            assert got.top_k == right.top_k
        else:
            assert_same_bits(getattr(got, name), getattr(right, name))


def test_a_soft_row_that_counts_is_refused_with_its_position():
    targets = np.array([[1.0, 0.0], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"targets.*soft.*position 1"):
        sl.metrics(np.zeros((2, 2)), targets)
    assert sl.metrics(np.zeros((2, 2)), targets, sample_weight=[1, 0]).accuracy == 1


BAD_ROWS = ([NAN, 0, 1], [0, INF, 1], [-INF] * 3)
GOOD_ROWS = ([2, 0, 1], [0, -INF, 1])


@over_dtypes
@pytest.mark.parametrize("bad_row", BAD_ROWS, ids=str)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_row_without_a_softmax_is_never_right_and_leaves_the_others_alone(bad_row, label, dtype):
    logits = np.array([GOOD_ROWS[0], bad_row, GOOD_ROWS[1]], dtype)
    labels = np.array([0, label, 0])
    got, good = sl.metrics(logits, labels, topk=(1, 2, 3, 4, 9)), sl.metrics(logits[::2], labels[::2])
    assert np.isnan([got.loss, got.perplexity, got.entropy, got.log_probability[1]]).all()
    assert (got.argmax[1], got.rank[1]) == (-1, 4)
    assert got.accuracy == pytest.approx(1 / 3, rel=1e-15)
    assert got.top_k == pytest.approx({1: 1 / 3, **dict.fromkeys((2, 3, 4, 9), 2 / 3)}, rel=1e-15)
    for name in ("argmax", "rank", "log_probability"):
        assert_same_bits(getattr(got, name)[::2], getattr(good, name))


def test_a_row_without_a_softmax_ranks_behind_all_classes_even_masked_ones():
    got = sl.metrics([[NAN, 0, 1], [2, NAN, 1]], [2, 2], class_mask=[True, False, True], topk=(2, 3, 9))
    assert got.rank.tolist() == [4, 2]
    assert got.top_k == {2: 0.5, 3: 0.5, 9: 0.5}


@pytest.mark.parametrize("bad_row", BAD_ROWS, ids=str)
@pytest.mark.parametrize("how", ["sample_weight", "ignore_index", "one-hot"])
def test_rows_that_take_no_part_are_never_read(bad_row, how):
    logits = np.array([GOOD_ROWS[0], bad_row, GOOD_ROWS[1]])
    targets, options = {
        "sample_weight": ([0, 77_777, 2], {"sample_weight": [1, 0, 1]}),
        "ignore_index": ([0, -100, 2], {"ignore_index": -100}),
        "one-hot": ([[1, 0, 0], [NAN, -1, INF], [0, 0, 1.0]], {"sample_weight": [1, 0, 1]}),
    }[how]
    got, right = sl.metrics(logits, targets, **options), sl.metrics(logits[::2], [0, 2])
    for name in ("rows", "loss", "perplexity", "accuracy", "top_k", "entropy"):
        assert getattr(got, name) == getattr(right, name)
    assert (got.argmax[1], got.rank[1], got.log_probability[1]) == (-1, 0, 0)


@pytest.mark.parametrize("n_rows", [0, 2])
def test_means_over_nothing_are_zero(n_rows):
    got = sl.metrics(np.full((n_rows, 3), NAN), np.full(n_rows, 255, np.uint8), ignore_index=255)
    assert (got.rows, got.loss, got.perplexity, got.accuracy, got.entropy) == (0, 0, 1, 0, 0)
    assert got.top_k == {1: 0, 5: 0}
    assert got.argmax.shape == got.rank.shape == got.log_probability.shape == (n_rows,)


def test_every_target_is_among_more_classes_than_there_are():
    got = sl.metrics(RNG.normal(size=(20, 3)), RNG.integers(0, 3, 20), topk=[9, 3, 2])
    assert list(got.top_k) == [9, 3, 2]
    assert got.top_k[9] == got.top_k[3] == 1 > got.top_k[2]


@pytest.mark.parametrize(
    ("topk", "error"),
    [((0,), ValueError), ((1, -5), ValueError), ((1.5,), TypeError), (5, TypeError), ("15", TypeError)],
)
def test_topk_must_hold_positive_integers(topk, error):
    with pytest.raises(error, match="topk"):
        sl.metrics(np.zeros((2, 3)), [0, 1], topk=topk)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_loss_is_the_cross_entropy(option):
    logits, labels, options = problem("matrix", option, np.float32)
    got = sl.metrics(logits, labels, **options)
    assert got.loss == pytest.approx(sl.cross_entropy(logits, labels, **options), rel=1e-15)
    options["sample_weight"] = 1.0 * (options.get("sample_weight", np.ones(labels.shape)) > 0)
    assert_same_bits(0 - got.log_probability, sl.cross_entropy(logits, labels, **options, reduction="none"))


def test_half_precision_is_computed_in_single_and_integers_in_double():
    numbers, labels = RNG.integers(-9, 9, (4, 50)), RNG.integers(0, 50, 4)
    of_dtype = {dtype: sl.metrics(numbers.astype(dtype), labels) for dtype in (np.int8, *PRECISION)}
    assert_same_metrics(of_dtype[np.float16], of_dtype[np.float32])
    assert_same_metrics(of_dtype[bfloat16], of_dtype[np.float32])
    assert_same_metrics(of_dtype[np.int8], of_dtype[np.float64])
    assert of_dtype[np.float16].log_probability.dtype == np.float32
    assert of_dtype[np.float64].log_probability.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "row",
    [
        [0, -40],
        [-40] * 50 + [0] + [-80] * 49,
        [0, 0, -1, 0, 0],
        [1e6 + 2, 1e6 - 1, 1e6 - 60],
        [-INF, 3, -INF, 2.5, -30, -INF],
        [-INF, 5, -INF],
        np.linspace(-64, 0, 33),
        [0] + [-20.25] * 9_999,
    ],
    ids=lambda row: f"{len(row)} classes from {row[0]:g}",
)
@pytest.mark.parametrize(("temperature", "limit"), [(1.0, 4), (0.7, 8)])
def test_log_probability_and_entropy_are_exact(row, dtype, temperature, limit):
    """To 4 ulp; a temperature that is no power of two rounds the gap g to the winner, by up to g / 2 ulp in exp(g)."""
    row = np.array(row, dtype)
    for label in (int(np.argmax(row)), len(row) - 1):
        right = exact.row(row, label, temperature=temperature)
        got = sl.metrics(row, label, temperature=temperature)
        assert exact.ulps(got.log_probability, right.log_probability) <= limit
        assert exact.ulps(dtype(got.entropy), right.entropy) <= limit


def test_a_sure_prediction_has_a_loss_and_an_entropy():
    got = sl.metrics([0.0, -40.0], 0)
    assert got.log_probability == -got.loss == pytest.approx(-4.2483542552915889e-18, rel=1e-15)
    assert got.entropy == pytest.approx(41 * 4.2483542552915889e-18, rel=1e-15)


def test_a_target_at_minus_infinity_costs_infinity():
    got = sl.metrics([[-INF, 0.0, 0.0]], [0])
    assert (got.loss, got.perplexity, got.rank.tolist()) == (INF, INF, [3])
    assert got.log_probability.tolist() == [-INF]
    assert got.entropy == pytest.approx(np.log(2), rel=1e-15)


def test_a_perplexity_beyond_the_largest_number_is_infinite():
    got = sl.metrics([[0.0, 1000.0]], [0])
    assert (got.loss, got.perplexity) == (1000, INF)


def test_the_result_cannot_be_changed_and_prints_well():
    got = sl.metrics(RNG.normal(size=(1000, 30)), RNG.integers(0, 30, 1000), topk=(1, 5))
    with pytest.raises(FrozenInstanceError):
        got.loss = 0.0
    assert repr(got).startswith("Metrics(rows=1000, loss=")
    assert "array" not in repr(got)
    assert len(repr(got)) < 250
    names = [line.split("  ")[0] for line in str(got).splitlines()]
    assert names == ["rows", "loss", "perplexity", "accuracy", "top-5 accuracy", "entropy"]
    assert f"{got.accuracy:.2%}" in str(got)


def test_accuracies_that_cannot_be_wrong_are_not_printed():
    """Among five classes every target is one of the first five."""
    for n_classes, mask, printed in ((5, None, False), (6, None, True), (6, [True] * 5 + [False], False)):
        got = sl.metrics(np.zeros((2, n_classes)), [0, 1], class_mask=mask)
        assert ("top-5 accuracy" in str(got)) is printed
        assert got.n_classes == (n_classes if mask is None else 5)
        assert list(got.top_k) == [1, 5]
    assert "top" not in str(sl.linear_metrics(np.zeros((2, 4)), np.zeros((5, 4)), [0, 1]))


def test_no_argument_is_changed():
    logits, labels, options = problem("images", "everything", np.float32)
    arguments = {"logits": logits, "targets": labels, **options}
    before = {name: np.copy(value) for name, value in arguments.items()}
    sl.metrics(**arguments)
    for name, value in arguments.items():
        assert_same_bits(value, before[name])
