"""The losses of JAX arrays: what the reference says on the table of cases, exact where float32 usually is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exact
import softmaxloss.jax as slj
from agree import assert_close, assert_same_bits
from cases import CASES, over, without
from jax_arrays import in_jax, of_case
from softmaxloss import reference
from thorough import parametrize


def are_new(rows):
    """Tell of each row whether it has a value that no earlier row has."""
    seen = set()
    return [not set(row) <= seen and not seen.update(row) for row in map(set, rows)]


# XLA compiles each case for itself, which takes long. By default each option, kind of target and dtype of the table is
# tried once, with a few of the shapes, and labels and soft targets with all options.
SOME = {
    *(("3-d", target, "all options", "float32") for target in ("index", "soft")),
    *((shape, "index", "none", "float32") for shape in ("no rows, 3-d", "one class", "images")),
}
DEFAULT = [new or c.values in SOME for c, new in zip(CASES, are_new([c.values[1:] for c in CASES]), strict=True)]
over_cases = parametrize(["case"], [(c,) for c in CASES], [c.name for c in CASES], DEFAULT)
over_images = over(
    [c for c in CASES if c.values[0] == "images" and c.values[1:] == ("index", "all options", "float32")]
)
LOGITS = [c for c in CASES if ", index, none" in c.name]
over_logits = parametrize(
    ["case"], [(c,) for c in LOGITS], [c.name for c in LOGITS], [c.values[0] == "images" for c in LOGITS]
)
NAN, INF = float("nan"), float("inf")


@over_cases
def test_losses_and_gradients_equal_the_reference(case):
    loss, d_logits = of_case(case)
    right_loss, right = reference.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert loss.dtype == (np.float32 if case.is_half else case.logits.dtype)
    assert d_logits.dtype == case.logits.dtype
    assert_close(loss, right_loss, case.precision)
    assert_close(d_logits, right, case.rounding)


@over_logits
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_equals_the_reference(case, name):
    with jax.enable_x64(case.logits.dtype == np.float64):
        got = getattr(slj, name)(jnp.asarray(case.logits), case.axis, temperature=0.7)
        assert got.dtype == case.logits.dtype
        right = getattr(reference, name)(case.logits.astype(np.float64), axis=case.axis, temperature=0.7)
        assert_close(got, right, case.precision)


@over_images
def test_rows_that_take_no_part_are_never_read(case):
    options = {**in_jax(without(case.options, "upstream", "normalizer")), "reduction": "none"}
    weight = np.ones(case.batch_shape, np.float32)
    weight.reshape(-1)[::2] = 0
    options["sample_weight"] = jnp.asarray(weight)
    hurt = case.with_nan(np.expand_dims(weight == 0, case.axis))
    arriving = jnp.where(weight == 0, NAN, 1.0)  # even from above

    @jax.jit
    def loss_and_gradient(logits, targets):
        loss, back = jax.vjp(lambda z: slj.cross_entropy(z, targets, **options), logits)
        return loss, *back(arriving)

    results = [loss_and_gradient(jnp.asarray(z), jnp.asarray(case.targets)) for z in (case.logits, hurt)]
    for clean, got in zip(*results, strict=True):
        assert_same_bits(got, clean)
    assert not np.moveaxis(np.asarray(results[1][1]), case.axis, -1)[weight == 0].any()


@over_images
def test_indices_are_one_hot_rows(case):
    options = in_jax(without(case.options, "upstream", "ignore_index"))
    labels = np.where(case.dead, np.argmax(case.exists), case.targets)
    one_hot = case.by_axis(labels[..., None] == np.arange(case.n_classes))
    loss_of = jax.jit(jax.value_and_grad(lambda z, t: slj.cross_entropy(z, t, **options).sum()))
    results = [loss_of(jnp.asarray(case.logits), jnp.asarray(targets)) for targets in (labels, one_hot)]
    assert_close(results[1][0], results[0][0], 1e-6)
    assert_close(results[1][1], results[0][1], 1e-6)


# Accuracy


@pytest.mark.parametrize("jit", [False, True])
def test_a_margin_of_40_is_exact_in_single_precision(jit):
    compiled = jax.jit if jit else lambda function: function
    logits, labels = jnp.array([[0.0, -40.0], [0.1, 40.3], [-85.0, 0.0]]), jnp.array([0, 1, 1])
    loss_of = compiled(lambda z: slj.cross_entropy(z, labels, reduction="none"))
    loss, back = jax.vjp(loss_of, logits)
    d_logits = np.asarray(back(jnp.ones(3))[0])
    assert loss.tolist() == pytest.approx([4.248354255e-18, 3.478260938e-18, 1.216099299e-37], rel=3e-7)
    assert_same_bits(d_logits[:, 1], np.asarray(loss) * np.float32([1, -1, -1]))
    assert_same_bits(d_logits[:, 0], -d_logits[:, 1])
    assert slj.log_softmax(logits)[0, 0] == -loss[0]
    assert slj.log_probs(logits, labels).log_prob.tolist() == (-loss).tolist()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"temperature": 0.7}])
def test_an_offset_of_a_million_costs_no_accuracy(options):
    logits, labels = jnp.arange(-6.0, 6.0).reshape(3, 4) * 2, jnp.array([3, 0, 2])
    loss = jax.jit(jax.value_and_grad(lambda z: slj.cross_entropy(z, labels, **options)))
    for here, there in zip(loss(logits), loss(logits + 1e6), strict=True):
        np.testing.assert_allclose(there, here, rtol=4 * np.finfo(np.float32).eps)


def test_compiled_losses_and_gradients_are_right_to_4_ulp():
    rng = np.random.default_rng(0)
    logits = (rng.uniform(0.1, 15, (40, 1)) * rng.normal(size=(40, 5))).astype(np.float32)
    labels = np.where(np.arange(40) % 2, logits.argmax(-1), rng.integers(0, 5, 40))
    loss_of = jax.jit(lambda z: slj.cross_entropy(z, jnp.asarray(labels), reduction="none"))
    loss, back = jax.vjp(loss_of, jnp.asarray(logits))
    d_logits = np.asarray(back(jnp.ones(40))[0])
    for i, t in enumerate(labels):
        right = exact.row(logits[i], t)
        at_label = exact.Exact(right.d_logits.high[t], right.d_logits.low[t])
        assert exact.ulps(np.asarray(loss)[i], right.loss) <= 4
        assert exact.ulps(d_logits[i, t], at_label, scale=right.d_scale[t]) <= 4


@pytest.mark.parametrize("bad", [[NAN, 0, 0], [0, INF, 0], [-INF] * 3])
def test_a_row_without_a_softmax_is_nan_and_alone(bad):
    logits, labels = jnp.array([[1.0, 2.0, 3.0], bad, [0.0, 0.0, -INF]]), jnp.array([0, 0, 1])
    loss, back = jax.vjp(lambda z: slj.cross_entropy(z, labels, reduction="none"), logits)
    d_logits = back(jnp.ones(3))[0]
    right = reference.cross_entropy_and_grad(np.asarray(logits), np.asarray(labels), reduction="none")
    assert np.isnan(loss).tolist() == [False, True, False]
    assert_close(loss, right[0], 1e-6)
    assert_close(d_logits, right[1], 1e-6)


def test_a_target_at_minus_infinity_costs_infinity_and_has_a_finite_gradient():
    logits = jnp.array([[-INF, 2.0, 1.0]])
    loss, d_logits = jax.value_and_grad(slj.cross_entropy)(logits, jnp.array([0]))
    assert loss == INF
    assert d_logits.tolist() == [pytest.approx([-1, 0.7310586, 0.2689414])]


def test_the_mean_over_nothing_is_0():
    logits = jnp.full((2, 3), NAN)
    loss, d_logits = jax.value_and_grad(slj.cross_entropy)(logits, jnp.array([-1, -1]), ignore_index=-1)
    assert loss == 0
    assert not d_logits.any()
