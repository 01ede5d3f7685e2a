"""Log-probabilities, entropies and their gradients against exact arithmetic, the reference and finite differences."""

from itertools import product

import numpy as np
import pytest
from ml_dtypes import bfloat16

import exact
import softmaxloss as sl
from agree import assert_close, assert_same_bits
from hard_rows import ROWS, row_of
from softmaxloss import reference
from thorough import parametrize

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
MASK = np.array([True, False, True, True, False, True, True])
DERIVATIVES = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.3), (-2.5, 1.0), (1e-3, -40.0)]
KINDS = list(product((1.0, 0.7), (np.float32, np.float64)))
# Each row with each pair of derivatives, and with each temperature and dtype.
PROBLEMS = [
    (name, derivatives, *KINDS[(n + m) % len(KINDS)])
    for n, name in enumerate(ROWS)
    for m, derivatives in enumerate(DERIVATIVES)
]


@parametrize(
    ["name", "derivatives", "temperature", "dtype"],
    PROBLEMS,
    [f"{name}-{d}-{t}-{dtype.__name__}" for name, d, t, dtype in PROBLEMS],
    [t == 1 for *_, t, _ in PROBLEMS],
)
def test_both_numbers_and_each_gradient_are_exact_to_4_ulp_of_the_largest_term(name, derivatives, temperature, dtype):
    row, (d_log_prob, d_entropy) = row_of(name, dtype), derivatives
    for label in {int(np.argmax(row)), len(row) - 1}:
        right = exact.row(row, label, temperature=temperature, d_log_prob=d_log_prob, d_entropy=d_entropy)
        (log_prob, entropy), d_logits = sl.log_probs_and_grad(
            row, label, d_log_prob=d_log_prob, d_entropy=d_entropy, temperature=temperature
        )
        assert exact.ulps(dtype(log_prob), right.log_probability) <= 4
        assert exact.ulps(dtype(entropy), right.entropy) <= 4
        assert exact.ulps(d_logits, right.d_log_probs, scale=right.d_log_probs_scale) <= 4


LAYOUTS = {
    "matrix": ((60, 7), -1),
    "one row": ((7,), 0),
    "images": ((2, 7, 3, 5), 1),
    "classes first": ((7, 9), 0),
    "long rows": ((5, 5005), -1),
    "no rows": ((0, 7), -1),
}
OPTIONS = {
    "plain": {},
    "ignored": {"ignore_index": 3},
    "masked": {"class_mask": MASK},
    "capped": {"softcap": 4.0, "temperature": 0.7},
    "everything": {"ignore_index": 3, "class_mask": MASK, "softcap": 4.0, "temperature": 0.7},
}
PRECISION = {np.float64: 1e-13, np.float32: 2e-6, np.float16: 2e-3, bfloat16: 1e-2}


def problem(layout, option, dtype):
    """Return logits, labels, and the arguments beside them, with one derivative for each row."""
    (shape, axis), rng = LAYOUTS[layout], np.random.default_rng(1)
    batch, n_classes = tuple(np.delete(shape, axis)), shape[axis]
    options = {**OPTIONS[option], "axis": axis}
    if "class_mask" in options:
        options["class_mask"] = np.resize(MASK, n_classes)
    labels = rng.choice(np.flatnonzero(options.get("class_mask", np.ones(n_classes))), batch)
    derivatives = {"d_log_prob": rng.normal(size=batch), "d_entropy": rng.normal(size=batch)}
    return (4 * rng.normal(size=shape)).astype(dtype), labels, options, derivatives


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_those_of_the_reference(layout, option, dtype):
    logits, labels, options, derivatives = problem(layout, option, dtype)
    got, d_logits = sl.log_probs_and_grad(logits, labels, **derivatives, **options)
    right, d_right = reference.log_probs_and_grad(logits, labels, **derivatives, **options)
    computed = np.float64 if dtype is np.float64 else np.float32
    for values, expected in zip(got, right, strict=True):
        assert values.dtype == computed
        assert_close(values, expected, 10 * np.finfo(computed).eps)
    assert d_logits.dtype == dtype
    assert_close(d_logits, d_right, PRECISION[dtype])
    assert_same_bits(sl.log_probs(logits, labels, **options), got)
    in_place = logits.copy()
    sl.log_probs_and_grad(in_place, labels, **derivatives, **options, out=in_place)
    assert_same_bits(in_place, d_logits)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_reference_has_the_gradient_that_finite_differences_have(option):
    logits, labels, options, derivatives = problem("matrix", option, np.float64)
    step = 1e-5 * RNG.normal(size=logits.shape)

    def function(z):
        log_prob, entropy = reference.log_probs(z, labels, **options)
        return np.sum(derivatives["d_log_prob"] * log_prob + derivatives["d_entropy"] * entropy)

    _, d_logits = reference.log_probs_and_grad(logits, labels, **derivatives, **options)
    difference = (function(logits + step) - function(logits - step)) / 2
    assert difference == pytest.approx(np.sum(d_logits * step), rel=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_without_a_softmax_is_nan_and_leaves_the_others_alone(dtype):
    for bad_row in ([NAN, 0, 1], [0, INF, 1], [-INF] * 3):
        logits = np.array([[2, 0, 1], bad_row, [0, -INF, 1]], dtype)
        got, d_logits = sl.log_probs_and_grad(logits, [0, 1, 2], d_entropy=0.5)
        right, d_right = sl.log_probs_and_grad(logits[::2], [0, 2], d_entropy=0.5)
        assert np.isnan([got.log_prob[1], got.entropy[1], *d_logits[1]]).all()
        assert_same_bits([values[::2] for values in got], right)
        assert_same_bits(d_logits[::2], d_right)


def test_ignored_rows_are_never_read_and_count_as_zero():
    logits = np.array([[2, 0, 1], [NAN, INF, 0], [0, -INF, 1.0]])
    got, d_logits = sl.log_probs_and_grad(logits, [0, -100, 2], d_log_prob=[1, NAN, 2], ignore_index=-100)
    assert (got.log_prob[1], got.entropy[1], *d_logits[1]) == (0,) * 5
    assert np.isfinite([got.log_prob[::2], got.entropy[::2]]).all()
    assert np.isfinite(d_logits).all()


def test_classes_that_do_not_exist_have_no_part():
    logits, labels, options, derivatives = problem("matrix", "masked", np.float32)
    logits[:, ~MASK] = NAN
    got, d_logits = sl.log_probs_and_grad(logits, labels, **derivatives, **options)
    without, d_without = sl.log_probs_and_grad(logits[:, MASK], np.cumsum(MASK)[labels] - 1, **derivatives)
    assert_close(got, without, 1e-6)
    assert_close(d_logits[:, MASK], d_without, 1e-6)
    assert not d_logits[:, ~MASK].any()


def test_a_label_at_minus_infinity_has_log_probability_minus_infinity_and_a_finite_gradient():
    (log_prob, entropy), d_logits = sl.log_probs_and_grad([-INF, 0.0, 0.0], 0, d_entropy=1.0)
    assert log_prob == -INF
    assert entropy == pytest.approx(np.log(2), rel=1e-15)
    assert d_logits.tolist() == [1, -0.5, -0.5]


def test_a_sure_prediction_has_an_entropy_and_a_gradient():
    """The usual formulas give 0 for the log-probability, and an entropy that is 2 % too small."""
    (log_prob, entropy), d_logits = sl.log_probs_and_grad([0.0, -40.0], 0, d_log_prob=0.0, d_entropy=1.0)
    assert log_prob == pytest.approx(-4.2483542552915889e-18, rel=1e-15)
    assert entropy == pytest.approx(41 * 4.2483542552915889e-18, rel=1e-15)
    assert d_logits == pytest.approx([-40 * 4.2483542552915889e-18, 40 * 4.2483542552915889e-18], rel=1e-15)


def test_one_hot_rows_are_labels():
    logits, labels, _, derivatives = problem("matrix", "plain", np.float64)
    right = sl.log_probs_and_grad(logits, labels, **derivatives)
    got = sl.log_probs_and_grad(logits, np.eye(7)[labels], **derivatives)
    assert_same_bits(got[0], right[0])
    assert_same_bits(got[1], right[1])


@pytest.mark.parametrize("function", [sl.log_probs, sl.linear_log_probs])
@pytest.mark.parametrize(
    "name", ["class_weight", "label_smoothing", "z_loss", "reduction", "normalizer", "sample_weight"]
)
def test_options_of_the_loss_alone_are_refused_with_the_reason(function, name):
    arguments = [np.zeros((2, 3)), np.zeros((3, 3))][: 1 + (function is sl.linear_log_probs)]
    with pytest.raises(TypeError, match=f"{name} is not an option of this function: "):
        function(*arguments, [0, 1], **{name: 1})
