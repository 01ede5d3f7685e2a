"""What optax's documentation promises of its cross-entropies holds here, and both give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import softmaxloss.jax as slj
from agree import assert_close, assert_same_bits
from thorough import thorough

LOGITS = jnp.array([[10.0, 1.0, -2.0], [1.0, 4.0, 0.2], [-30.0, 30.0, 0.0], [2.0, 2.0, 2.0]])
LABELS = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
INDICES = jnp.array([1, 0, 1, 2])


def both(name, *arguments, **options):
    return [getattr(library, name)(*arguments, **options) for library in (slj, optax)]


def of_distributions(*arguments, **options):
    return both("softmax_cross_entropy", *arguments, **options)


def of_indices(*arguments, **options):
    return both("softmax_cross_entropy_with_integer_labels", *arguments, **options)


def test_the_examples_of_the_documentation():
    logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    for losses in (
        slj.softmax_cross_entropy(logits, jnp.eye(3)[:2]),
        slj.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])),
    ):
        assert losses.tolist() == pytest.approx([0.2761, 2.9518], abs=1e-4)
    logits = jnp.arange(24.0).reshape(1, 2, 3, 4)
    labels = jnp.ravel_multi_index((jnp.array([[1, 2]]), jnp.array([[1, 3]])), (3, 4))
    losses = slj.softmax_cross_entropy_with_integer_labels(logits, labels, axis=(2, 3))
    assert losses.tolist() == [pytest.approx([6.4587, 0.4587], abs=1e-4)]


def test_a_batch_is_its_rows_and_indices_are_one_hot_labels():
    losses, theirs = of_distributions(LOGITS, LABELS)
    assert_close(losses, theirs, 1e-6)
    assert_close([slj.softmax_cross_entropy(*row) for row in zip(LOGITS, LABELS, strict=True)], losses, 1e-6)
    assert_close(of_indices(LOGITS, INDICES)[0][:3], losses[:3], 1e-6)


def test_the_gradient_is_that_of_optax():
    for name, labels in (
        ("softmax_cross_entropy", LABELS),
        ("softmax_cross_entropy_with_integer_labels", INDICES),
    ):
        ours, theirs = (jax.vjp(getattr(library, name), LOGITS, labels)[1](jnp.ones(4)) for library in (slj, optax))
        assert_close(ours[0], theirs[0], 1e-6)


@pytest.mark.parametrize("axis", [thorough(0), (2, 0), thorough((0, 1, 2))])
def test_classes_may_lie_on_one_axis_or_several(axis):
    rng = np.random.default_rng(0)
    logits, labels = (jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32) for _ in range(2))
    labels = jax.nn.softmax(labels, axis)
    ours, theirs = slj.softmax_cross_entropy(logits, labels, axis), optax.softmax_cross_entropy(logits, labels, axis)
    assert_close(ours, theirs, 1e-6)
    indices = jnp.zeros(ours.shape, int) + 1
    ours = slj.softmax_cross_entropy_with_integer_labels(logits, indices, axis)
    assert_close(ours, optax.softmax_cross_entropy_with_integer_labels(logits, indices, axis), 1e-6)
    for name in ("softmax", "log_softmax"):
        assert_close(getattr(slj, name)(logits, axis), getattr(jax.nn, name)(logits, axis), 1e-6)


def test_no_axis_means_all():
    assert_close(*of_distributions(LOGITS, LABELS, axis=None), 1e-6)
    assert_close(slj.softmax(LOGITS, axis=None), jax.nn.softmax(LOGITS, axis=None), 1e-6)


@pytest.mark.parametrize("axis", [thorough(1), (1, 2)])
def test_where_says_which_logits_count(axis):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3, 5)), jnp.float32)
    where = jnp.asarray(rng.random(logits.shape) < 0.7).at[:, 1, 1].set(True)
    labels = jax.nn.softmax(logits[::-1], axis, where=where)
    assert_close(*of_distributions(logits, labels, axis, where), 1e-6)
    where = where.at[:, 1].set(True)
    indices = jnp.full((4, 5), 1) if axis == 1 else jnp.full(4, 6)
    assert_close(*of_indices(logits, indices, axis, where), 1e-6)
    for name in ("softmax", "log_softmax"):
        ours, theirs = (getattr(library, name)(logits, axis, where=where) for library in (slj, jax.nn))
        assert_close(ours, theirs, 1e-6)


def test_where_may_say_which_rows_count():
    rows = jnp.array([True, False, True, False])
    for ours, theirs in (of_distributions(LOGITS, LABELS, where=rows), of_indices(LOGITS, INDICES, where=rows)):
        assert_close(ours, theirs, 1e-6)
        assert_same_bits(ours[~rows], np.zeros(2, np.float32))
    hurt = LOGITS.at[1].set(jnp.nan)
    d_logits = jax.grad(lambda z: slj.softmax_cross_entropy(z, LABELS, where=rows).sum())(hurt)
    assert not d_logits[~rows].any()


def test_logits_of_minus_infinity_cost_nothing_where_labels_are_0():
    logits = LOGITS.at[:, 2].set(-jnp.inf)
    labels = jnp.eye(3)[INDICES % 2]
    ours, theirs = slj.softmax_cross_entropy(logits, labels), optax.safe_softmax_cross_entropy(logits, labels)
    assert_close(ours, theirs, 1e-6)
    assert jnp.isfinite(jax.grad(lambda z: slj.softmax_cross_entropy(z, labels).sum())(logits)).all()


def test_labels_broadcast_and_have_derivatives():
    assert_close(*of_distributions(LOGITS, jnp.array([0.2, 0.3, 0.5])), 1e-6)
    ours, theirs = (
        jax.grad(lambda q, f=library.softmax_cross_entropy: f(LOGITS, q).sum())(LABELS) for library in (slj, optax)
    )
    assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("dtype", [thorough(jnp.float16), jnp.bfloat16])
def test_losses_of_half_precision_are_computed_in_float32(dtype):
    logits = (LOGITS / 3).astype(dtype)
    losses = slj.softmax_cross_entropy_with_integer_labels(logits, INDICES)
    assert_close(losses, optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), INDICES), 1e-6)
    assert losses.dtype == jnp.float32
