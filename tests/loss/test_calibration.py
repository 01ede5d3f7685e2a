"""The temperature that calibrates, against a minimiser of the reference that knows no derivatives."""

import re
import tracemalloc

import numpy as np
import pytest
import scipy.optimize
from ml_dtypes import bfloat16

import softmaxloss as sl
from softmaxloss import reference

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 6, (40, 3))
LOGITS = np.moveaxis(RNG.normal(size=(40, 3, 6)) + 2 * np.eye(6)[LABELS], -1, 1) * 3
SOFT = np.moveaxis(0.8 * np.eye(6)[LABELS] + 0.2 / 6, -1, 1)
SEEN = np.array([True, True, False, True, True, True])

OPTIONS = {
    "plain": {},
    "class_weight": {"class_weight": np.arange(6) + 0.5},
    "sample_weight": {"sample_weight": RNG.integers(0, 3, LABELS.shape)},
    "ignore_index": {"ignore_index": 2},
    "class_mask": {"class_mask": SEEN, "ignore_index": 2},
    "label_smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 8.0},
    "everything": {
        "class_weight": np.arange(6) + 0.5,
        "sample_weight": RNG.integers(0, 3, LABELS.shape),
        "ignore_index": 2,
        "class_mask": SEEN,
        "label_smoothing": 0.1,
        "softcap": 8.0,
    },
}


def best_temperature(logits, targets, **options):
    """Return where the reference is smallest, searched over ln T."""

    def loss(log_temperature):
        return reference.cross_entropy(logits, targets, temperature=np.exp(log_temperature), **options)

    return np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-9, 9), method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_where_the_reference_is_smallest(name):
    options = {"axis": 1, **OPTIONS[name]}
    right = best_temperature(LOGITS, LABELS, **options)
    assert 0.2 < right < 5
    assert sl.fit_temperature(LOGITS, LABELS, **options) == pytest.approx(right, rel=1e-6)


def test_soft_targets_and_one_hot_rows_are_taken():
    assert sl.fit_temperature(LOGITS, SOFT, axis=1) == pytest.approx(best_temperature(LOGITS, SOFT, axis=1), rel=1e-6)
    one_hot = np.moveaxis(np.eye(6, dtype=bool)[LABELS], -1, 1)
    assert sl.fit_temperature(LOGITS, one_hot, axis=1) == sl.fit_temperature(LOGITS, LABELS, axis=1)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_has_no_slope_there(name):
    options = {"axis": 1, **OPTIONS[name]}
    temperature = sl.fit_temperature(LOGITS, LABELS, **options)
    capped = LOGITS if "softcap" not in options else 8 * np.tanh(LOGITS / 8)
    plain = {name: value for name, value in options.items() if name != "softcap"}
    _, slope = sl.jvp(capped, LABELS, capped, temperature=temperature, **plain)
    assert abs(slope) < 1e-15


@pytest.mark.parametrize("c", [2.0**-40, 0.5, 2.0, 2.0**40])
def test_logits_times_a_power_of_two_have_that_temperature_to_the_bit(c):
    assert sl.fit_temperature(LOGITS * c, LABELS, axis=1) == c * sl.fit_temperature(LOGITS, LABELS, axis=1)


@pytest.mark.parametrize("c", [1e-20, 1e-3, 3.0, 1e9, 1e20])
def test_logits_times_c_have_c_times_the_temperature(c):
    fitted = sl.fit_temperature(LOGITS, LABELS, axis=1)
    assert sl.fit_temperature(LOGITS * c, LABELS, axis=1) == pytest.approx(c * fitted, rel=1e-13)


def test_calibrated_logits_have_temperature_1():
    fitted = sl.fit_temperature(LOGITS, LABELS, axis=1)
    assert sl.fit_temperature(LOGITS / fitted, LABELS, axis=1) == pytest.approx(1, rel=1e-14)


def test_a_share_of_right_answers_becomes_the_probability():
    """With two classes and gaps of d, the share s of right rows is the probability where d / T = ln(s / (1 - s))."""
    for right, d in ((3, 4.0), (9, 0.01), (999, 1e5)):
        logits = np.tile([d, 0.0], (right + 1, 1))
        labels = np.append(np.zeros(right, int), 1)
        assert sl.fit_temperature(logits, labels) == pytest.approx(d / np.log(right), rel=1e-13)


def test_one_wrong_row_among_many_sure_ones_is_enough():
    gap, slightly_wrong = 50.0, 1e-9
    logits = np.vstack([np.tile([gap, 0.0], (1000, 1)), [[0.0, slightly_wrong]]])
    temperature = sl.fit_temperature(logits, np.zeros(1001, int))
    miss = 1 / (1 + np.exp(gap / temperature))
    assert 1000 * gap * miss == pytest.approx(slightly_wrong / 2, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_narrow_logits_are_computed_in_double_precision(dtype):
    narrow = LOGITS.astype(dtype)
    right = sl.fit_temperature(narrow.astype(np.float64), LABELS, axis=1)
    assert sl.fit_temperature(narrow, LABELS, axis=1) == right


def test_the_order_of_axes_and_the_number_of_threads_change_no_bit():
    logits, labels = np.tile(LOGITS, (500, 1, 1)), np.tile(LABELS, (500, 1))
    before, seen = sl.get_num_threads(), set()
    for threads in (1, 3):
        sl.set_num_threads(threads)
        seen.add(sl.fit_temperature(logits, labels, axis=1))
        seen.add(sl.fit_temperature(np.moveaxis(logits, 1, -1), labels))
    sl.set_num_threads(before)
    assert len(seen) == 1


def test_impossible_classes_and_rows_that_do_not_count_change_nothing():
    right = sl.fit_temperature(LOGITS, LABELS, axis=1)
    impossible = np.concatenate([LOGITS, np.full((40, 1, 3), -INF)], axis=1)
    assert sl.fit_temperature(impossible, LABELS, axis=1) == pytest.approx(right, rel=1e-14)
    dead = np.concatenate([LOGITS, np.full((1, 6, 3), NAN)])
    labels = np.concatenate([LABELS, np.full((1, 3), -100)])
    assert sl.fit_temperature(dead, labels, axis=1, ignore_index=-100) == pytest.approx(right, rel=1e-14)


@pytest.mark.parametrize(
    ("logits", "targets", "options"),
    [
        (np.full((2, 3), 7.0), [0, 2], {}),
        (np.ones((4, 1)), [0] * 4, {}),
        (LOGITS[:, :, 0], np.full(40, -1), {"ignore_index": -1}),
        (np.zeros((0, 3)), np.zeros(0, int), {}),
    ],
    ids=["equal logits", "one class", "all ignored", "no rows"],
)
def test_where_the_temperature_changes_nothing_it_is_1(logits, targets, options):
    assert sl.fit_temperature(logits, targets, **options) == 1.0


WRONG_LOGITS = [
    (
        [[2.0, 1.0, 0.0], [0.0, 1.0, 5.0]],
        [0, 2],
        ["logits", "highest logit at the target", "temperature is 0", "pass rows"],
    ),
    ([[1.0, 1.0, 0.0]], [0], ["logits", "highest logit at the target", "temperature is 0"]),
    ([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0]], [2, 0], ["logits", "better than chance", "temperature is infinite"]),
    ([[0.3, -0.1], [0.3, -0.1]], [0, 1], ["logits", "better than chance", "temperature is infinite"]),
    (np.repeat([[0.1, 0.2, 0.7]], 3, 0), [0, 1, 2], ["logits", "better than chance", "temperature is infinite"]),
    ([[2.0, 1.0], [NAN, 1.0]], [0, 1], ["logits", "finite loss", "position 1", "1 of 2"]),
    ([[2.0, 1.0], [1.0, -INF]], [0, 1], ["logits", "finite loss", "position 1", "1 of 2"]),
    ([[INF, 1.0], [1.0, -INF]], [0, 1], ["logits", "finite loss", "position 0", "2 of 2"]),
]


@pytest.mark.parametrize(("logits", "targets", "fragments"), WRONG_LOGITS)
def test_where_no_temperature_is_the_best_the_message_says_why(logits, targets, fragments):
    with pytest.raises(ValueError, match=r"^logits ") as caught:
        sl.fit_temperature(logits, targets)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("name", ["temperature", "z_loss", "reduction", "normalizer"])
def test_options_that_make_no_sense_are_refused_with_the_reason(name):
    with pytest.raises(TypeError, match=re.escape(f"{name} is not an option of this function: ")):
        sl.fit_temperature(LOGITS, LABELS, axis=1, **{name: 1.0})


def test_no_array_of_the_size_of_the_logits_is_allocated():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 200)).astype(np.float32)
    labels = np.where(rng.random(40_000) < 0.5, logits.argmax(-1), 0)
    before = sl.get_num_threads()
    sl.set_num_threads(1)
    tracemalloc.start()
    sl.fit_temperature(logits, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sl.set_num_threads(before)
    assert peak < logits.nbytes
