"""Arguments that make no sense raise errors that say why; labels under jit make NaN, and checkify reports them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import softmaxloss
import softmaxloss.jax as slj
from calls import LOGITS, ONE_HOT
from softmaxloss.jax import by_kernels
from thorough import thorough
from wrong_arguments import WRONG

STATIC = ("axis", "ignore_index", "label_smoothing", "z_loss", "softcap", "temperature", "reduction")
ARRAYS = ("class_weight", "sample_weight", "class_mask", "normalizer")
SEEN_BY_VALUE = {
    *("a negative share", "a share of NaN", "an infinite share", "a soft row", "a share for a masked class"),
    *("zero where rows count", "a large label"),
}
ROWS = [
    pytest.param(name, row, id=f"{name}: {kind}")
    for name in (*STATIC, *ARRAYS, "targets")
    for kind, row in WRONG[name].items()
    if kind not in SEEN_BY_VALUE
]
LABELS = np.array([0, 2])


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_each_wrong_argument_gets_an_error_that_names_it(name, row):
    arguments = {"targets": LABELS, **row.beside, name: row.value}
    with pytest.raises(row.error) as raised:
        slj.cross_entropy(jnp.asarray(LOGITS), **arguments)
    assert name in str(raised.value)
    for fragment in row.fragments:
        assert fragment in str(raised.value)


@pytest.mark.parametrize("name", ["label_smoothing", "temperature", "softcap", "z_loss", "ignore_index", "axis"])
def test_traced_numbers_are_refused_in_words(name):
    traced = jax.jit(lambda value: slj.cross_entropy(LOGITS, LABELS, **{name: value}))
    with pytest.raises(TypeError, match=rf"{name} must be known when the function is traced.*static_argnames"):
        traced(1)


TRACED = jax.jit(slj.cross_entropy)  # knows shapes and dtypes only
INTEGER_LABELS, MASK = slj.softmax_cross_entropy_with_integer_labels, np.array([True, True, False])
OTHERS = [  # a call, the error, and what the message must be
    (
        lambda: TRACED(LOGITS, jnp.array([0, 1, 2])),
        ValueError,
        r"targets: class indices must have shape \(2,\), got .*3",
    ),
    (lambda: TRACED(LOGITS == 0, LABELS), TypeError, "logits must be float16"),
    (
        lambda: TRACED(LOGITS, LABELS, class_weight=jnp.ones(4)),
        ValueError,
        "class_weight must have one entry per class",
    ),
    (lambda: slj.linear_cross_entropy(jnp.ones((2, 3)), jnp.ones(3), LABELS), ValueError, "weight must have shape"),
    (lambda: slj.linear_cross_entropy(LOGITS, jnp.ones((5, 4)), LABELS), ValueError, "features must have shape"),
    (
        lambda: slj.linear_cross_entropy(LOGITS, jnp.ones((5, 3)), LABELS, max_memory=0),
        ValueError,
        "max_memory must be at least 1",
    ),
    (lambda: slj.cross_entropy(LOGITS, LABELS, dim=1), TypeError, "'dim'.*pass it as axis"),
    (lambda: slj.log_probs(LOGITS, LABELS, label_smoothing=0.1), TypeError, "label_smoothing is not an option of this"),
    (lambda: slj.log_probs(LOGITS, ONE_HOT), TypeError, "targets must be class indices, .*; for one-hot rows pass"),
    (lambda: INTEGER_LABELS(LOGITS, ONE_HOT), TypeError, "labels must be class indices, .* use softmax_cross_entropy"),
    (
        lambda: slj.softmax_cross_entropy(LOGITS, ONE_HOT.astype(int)),
        TypeError,
        "labels must be distributions.* use softmax_cross_entropy_with_integer_labels",
    ),
    (lambda: slj.softmax_cross_entropy(LOGITS, ONE_HOT, where=jnp.ones(2)), TypeError, "where must be bool"),
    (
        lambda: slj.softmax(LOGITS, where=jnp.ones((3, 3), bool)),
        ValueError,
        r"where must have the shape of logits \(2, 3\), .* got shape \(3, 3\)",
    ),
    (lambda: INTEGER_LABELS(LOGITS, LABELS, where=MASK), ValueError, r"where must have .* got shape \(3,\)"),
    (lambda: slj.softmax(LOGITS, axis=(0, 0)), ValueError, r"axis must be an axis, or several .* got \(0, 0\)"),
    (lambda: slj.softmax_cross_entropy(LOGITS, ONE_HOT, axis=(0, 2)), ValueError, "axis must lie between -2 and 1"),
    (lambda: jax.jit(slj.softmax)(LOGITS, axis=1), TypeError, "axis must be known when the function is traced"),
    (
        lambda: slj.cross_entropy(LOGITS, LABELS, class_mask=MASK),
        ValueError,
        "targets must be classes whose class_mask is True, got label 2 at position 1;",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), OTHERS)
def test_other_wrong_calls_are_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_that_is_no_class_makes_its_row_nan_under_jit(label):
    loss_of = jax.jit(lambda z, t: jax.vjp(lambda z: slj.cross_entropy(z, t, reduction="none"), z)[0])
    assert np.isnan(loss_of(LOGITS, jnp.array([0, label]))).tolist() == [False, True]


def test_a_label_whose_class_is_masked_makes_its_row_nan_under_jit():
    def loss(mask):
        return slj.cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 2]), class_mask=mask, reduction="none")

    losses = jax.jit(loss)(jnp.array([True, True, False]))
    assert np.isnan(losses).tolist() == [False, True]


def test_integer_logits_have_probabilities():
    np.testing.assert_allclose(slj.softmax(jnp.arange(3)), softmaxloss.softmax(np.arange(3.0)), rtol=1e-6)


def test_the_derivative_by_a_weight_of_0_is_0_as_its_row_is_not_read():
    logits, labels = jnp.array([[1.0, 2.0], [0.5, 0.0]]), jnp.array([0, 1])

    def loss(weight):
        return slj.cross_entropy(logits, labels, sample_weight=weight, reduction="sum")

    slopes = jax.grad(loss)(jnp.array([0.0, 1.0]))
    assert slopes[0] == 0
    assert slopes[1] == pytest.approx(float(slj.cross_entropy(logits[1:], labels[1:])))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-100, 7], r"targets must be classes from 0 to 2, got label 7 at position 1 "),
        ([1, 0], "targets must be classes whose class_mask is True, got label 1 at position 0 "),
        ([[2, 0], [-100, 3]], r"targets must be classes from 0 to 2, got label 3 at position \(1, 1\) "),
        (7, "targets must be classes from 0 to 2, got label 7 "),
        ([-100, 2], None),
    ],
)
def test_checkify_reports_labels_that_are_no_classes(labels, message):
    def loss_of(logits, labels):
        return slj.cross_entropy(logits, labels, ignore_index=-100, class_mask=jnp.array([True, False, True]))

    logits = jnp.zeros((*np.shape(labels), 3))
    error, (loss, _) = checkify.checkify(jax.jit(jax.value_and_grad(loss_of)))(logits, jnp.array(labels))
    assert np.isnan(loss) == (message is not None)
    assert error.get() is None if message is None else re.match(message, error.get())


BEYOND = [("int32", 2**63), ("uint8", 300)]
BEYOND += [thorough(*more) for more in [("int8", 2**31), ("uint32", -1), ("int32", -(2**40)), ("uint8", -100)]]


@pytest.fixture(params=[True, False], ids=["kernels", "arrays"])
def _both_ways(request, monkeypatch):
    monkeypatch.setattr(by_kernels, "_XLA_CALLS_PYTHON", request.param)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("transform", [jax.jit, thorough(lambda function: function)], ids=["compiled", "at once"])
@pytest.mark.parametrize(("dtype", "ignore_index"), BEYOND)
def test_an_ignored_label_beyond_the_dtype_of_labels_ignores_nothing(dtype, ignore_index, transform):
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    labels = np.array([0, 44, 7], dtype)  # 44 is 300 in uint8
    right = softmaxloss.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    assert right.all()

    def loss(labels):
        return slj.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")

    def loss_of_layer(labels):
        return slj.linear_cross_entropy(logits, np.eye(50, dtype="f"), labels, ignore_index=ignore_index)

    def log_prob(labels):
        return slj.log_probs(logits, labels, ignore_index=ignore_index).log_prob

    for function, wanted in ((loss, right), (log_prob, -right), (loss_of_layer, right.mean())):
        np.testing.assert_allclose(transform(function)(jnp.asarray(labels)), wanted, rtol=1e-6)


@pytest.mark.usefixtures("_both_ways")
def test_the_largest_label_of_a_dtype_may_be_ignored_and_is_not_minus_one():
    labels = jnp.array([2**32 - 1, 2], jnp.uint32)
    for ignore_index, lost in ((2**32 - 1, 0.0), (-1, np.nan)):
        loss = jax.jit(
            lambda labels, k=ignore_index: slj.cross_entropy(LOGITS, labels, ignore_index=k, reduction="none")
        )
        np.testing.assert_array_equal(loss(labels)[0], lost)


@pytest.mark.parametrize(
    ("label", "n_classes", "options", "is_class"),
    [
        (200, 400, {}, True),  # 400 is 144 in uint8
        (200, 400, {"class_mask": np.arange(400) != 143}, True),
        (44, 5, {"ignore_index": 300}, False),  # 300 is 44 in uint8
    ],
)
def test_checkify_compares_labels_with_numbers_beyond_their_dtype(label, n_classes, options, is_class):
    checked = checkify.checkify(jax.jit(lambda labels: slj.cross_entropy(jnp.zeros((1, n_classes)), labels, **options)))
    error, loss = checked(jnp.array([label], jnp.uint8))
    assert (error.get() is None) == np.isfinite(loss) == is_class
