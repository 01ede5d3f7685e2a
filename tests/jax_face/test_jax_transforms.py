"""The losses of JAX arrays under what JAX does to functions: map, compile, differentiate, shard."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import softmaxloss.jax as slj
from agree import assert_close
from jax_arrays import layer_problem
from scripts import run
from softmaxloss import reference
from thorough import parametrize, thorough

OPTIONS = {
    "plain": {},
    "all": {
        "class_weight": np.array([0.5, 2.0, 1.0, 3.0, 0.7], np.float32),
        "label_smoothing": 0.4,
        "z_loss": 0.1,
        "softcap": 5.0,
        "temperature": 0.7,
    },
}
over_options = parametrize(["options"], [(of,) for of in OPTIONS.values()], list(OPTIONS), [False, True])


def problem(shape=(4, 5)):
    """Return logits with ties, and labels."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=shape)
    logits[..., 1, 2] = logits[..., 1, 3] = 4.0
    logits[..., 2, :4] = 0.0
    return jnp.asarray(logits, jnp.float32), jnp.asarray(rng.integers(0, 5, shape[:-1]))


@over_options
def test_second_derivatives_are_those_of_the_reference(options):
    logits, labels = problem()
    vector = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    loss_of = partial(slj.cross_entropy, targets=labels, reduction="sum", **options)
    given = np.asarray(logits, np.float64), np.asarray(labels)
    right = reference.hvp(*given, vector, reduction="sum", **options)

    @jax.jit
    def products(z):
        full = jnp.einsum("ijkl,kl->ij", jax.hessian(loss_of)(z), vector)
        forward = jax.jvp(jax.grad(loss_of), [z], [jnp.asarray(vector)])[1]
        return full, forward, jax.grad(lambda z: jnp.vdot(jax.grad(loss_of)(z), vector))(z)

    for product in products(logits):
        assert_close(product, right, 2e-6)


@over_options
def test_the_change_along_a_direction_is_the_gradient_times_it(options):
    logits, labels = problem()
    loss_of = partial(slj.cross_entropy, targets=labels, **options)
    value, change = jax.jvp(loss_of, [logits], [jnp.cos(logits)])
    assert_close(change, jnp.vdot(jax.grad(loss_of)(logits), jnp.cos(logits)), 1e-6)
    assert value == loss_of(logits)


def test_the_derivative_of_a_tiny_derivative_keeps_its_digits():
    hessian = jax.hessian(lambda z: slj.cross_entropy(z, jnp.array([0])))(jnp.array([[0.0, -40.0]]))
    assert hessian[0, :, 0].tolist() == [pytest.approx([4.248354e-18, -4.248354e-18])] * 2


def test_mapping_over_a_batch_is_a_loop():
    logits, labels = problem((3, 4, 5))
    loss_of = jax.value_and_grad(partial(slj.cross_entropy, label_smoothing=0.1))
    mapped = jax.jit(jax.vmap(loss_of))(logits, labels)
    looped = [loss_of(z, t) for z, t in zip(logits, labels, strict=True)]
    for got, right in zip(mapped, zip(*looped, strict=True), strict=True):
        assert_close(got, np.stack(right), 1e-6)


def test_losses_in_scans_and_checkpoints_have_the_same_gradient():
    logits, labels = problem((3, 4, 5))

    def total(z):
        def add(sum_of, of):
            return sum_of + jax.checkpoint(slj.cross_entropy)(*of), None

        return jax.lax.scan(add, 0.0, (z, labels))[0]

    right = jax.vmap(jax.grad(slj.cross_entropy))(logits, labels)
    assert_close(jax.jit(jax.grad(total))(logits), right, 1e-6)


@pytest.mark.parametrize("linear", [False, thorough(True)])
def test_finite_differences_in_targets_and_weights_agree(linear):
    with jax.enable_x64(True):
        x, w, b, _ = layer_problem(4, 3, 5, np.float64)
        rng = np.random.default_rng(0)
        others = [jnp.asarray(rng.uniform(0.5, 2, shape)) for shape in ((4, 5), 5, 4)]

        def loss_of(q, r, s):
            options = {"class_weight": r, "sample_weight": s, "label_smoothing": 0.1, "z_loss": 0.1}
            if linear:
                return slj.linear_cross_entropy(x, w, q, b, max_memory=200, **options)
            return slj.cross_entropy(x @ w.T + b, q, **options)

        check_grads(jax.jit(loss_of), others, order=1)


def test_log_probabilities_and_entropies_have_right_derivatives():
    with jax.enable_x64(True):
        logits, labels = problem()
        logits = logits.astype(float)
        exists = jnp.array([True] * 4 + [False])
        of = partial(slj.log_probs, targets=labels % 4, class_mask=exists, softcap=5.0, temperature=0.7)
        check_grads(jax.jit(of), [logits], order=1)
        log_p = slj.log_softmax(5 * jnp.tanh(logits / 5), where=exists, temperature=0.7)
        log_prob, entropy = of(logits)
        assert_close(log_prob, jnp.take_along_axis(log_p, (labels % 4)[:, None], 1)[:, 0], 1e-14)
        assert_close(entropy, -jnp.sum(jnp.where(exists, jnp.exp(log_p) * log_p, 0), 1), 1e-14)


@pytest.mark.parametrize("function", [thorough(slj.softmax), slj.log_softmax])
def test_softmax_functions_have_right_derivatives(function):
    with jax.enable_x64(True):
        check_grads(jax.jit(partial(function, temperature=0.7)), [problem()[0].astype(float)], order=1)


SHARDED = """
import jax, jax.numpy as jnp
import softmaxloss.jax as slj
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_arrays import layer_problem

mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
x, w, b, labels = layer_problem(8, 4, 12)

def of_logits(x, w, b, labels):
    logits = jax.lax.with_sharding_constraint(x @ w.T + b, P(*spec)) if spec else x @ w.T + b
    return slj.cross_entropy(logits, labels)

def of_layer(x, w, b, labels):
    return slj.linear_cross_entropy(x, w, labels, b, max_memory=256)

def close(a, b):
    return all(bool(jnp.allclose(x, y, rtol=1e-5, atol=1e-6)) for x, y in zip(*map(jax.tree.leaves, (a, b))))

for loss in (of_logits, of_layer):
    spec, found = (), []
    right = jax.value_and_grad(loss, (0, 1))(x, w, b, labels)
    for spec in (("devices", None), (None, "devices")):
        rows, classes = P(spec[0]), P(spec[1])
        shardings = [NamedSharding(mesh, of) for of in (rows, classes, classes, rows)]
        given = jax.device_put([x, w, b, labels], shardings)
        with jax.set_mesh(mesh):
            got = jax.jit(jax.value_and_grad(loss, (0, 1)))(*given)
        found.append((close(got, right), got[1][0].sharding.spec == rows))
    print(loss.__name__, len(jax.devices()), found)
"""


def test_rows_and_classes_may_be_sharded_over_devices():
    four = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    found = "4 [(True, True), (True, True)]"
    assert run(SHARDED, **four).splitlines() == [f"of_logits {found}", f"of_layer {found}"]
