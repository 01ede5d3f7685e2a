"""The mathematics in array operations on JAX arrays, traced and not."""

from functools import partial

import numpy as np
import pytest

from agree import assert_close
from cases import CASES, over
from scripts import run
from softmaxloss import array, reference

jax = pytest.importorskip("jax")
BOTH = {"index", "soft"}
over_single = over([c for c in CASES if c.values[0] == "3-d" and c.values[1] in BOTH and c.logits.dtype == np.float32])


@over_single
def test_traced_arrays_get_the_loss_and_gradient_of_the_reference(case):
    arrays = {name: jax.numpy.asarray(v) for name, v in case.options.items() if isinstance(v, np.ndarray)}
    others = {name: v for name, v in case.options.items() if name not in arrays}

    @jax.jit
    def traced(z, t, arrays):
        return array.losses_and_gradients(z, t, **arrays, **others)

    loss, d_logits = traced(jax.numpy.asarray(case.logits), jax.numpy.asarray(case.targets), arrays)
    right_loss, right = reference.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert loss.dtype == d_logits.dtype == np.float32
    assert_close(loss, right_loss, case.precision)
    assert_close(d_logits, right, case.precision)


def test_the_compiler_keeps_the_digits_of_tiny_losses():
    logits, labels = jax.numpy.asarray([[0.0, -40.0], [0.1, 40.3]]), jax.numpy.asarray([0, 1])
    for temperature, right in ((1.0, [4.248354255e-18, 3.478260938e-18]), (0.7, [1.524658091e-25, 1.145747186e-25])):
        loss = jax.jit(partial(array.losses, temperature=temperature, reduction="none"))(logits, labels)
        assert loss.tolist() == pytest.approx(right, rel=3e-7)


def test_jax_differentiates_the_loss_once_and_twice():
    logits, labels = jax.numpy.asarray([[1.0, 1.0, -2.0], [0.5, 3.0, 0.0]]), jax.numpy.asarray([0, 2])
    loss, d_logits = partial(array.losses, targets=labels), partial(array.gradients, targets=labels)
    assert_close(jax.jit(jax.grad(loss))(logits), d_logits(logits), 1e-6)
    assert_close(jax.jit(jax.hessian(loss))(logits), jax.jacfwd(d_logits)(logits), 1e-6)


def test_logits_may_be_sharded():
    script = """
        import jax
        from softmaxloss import array

        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows", None))
        logits = jax.device_put(jax.numpy.ones((8, 3)), rows)
        print(len(jax.devices()), array.losses(logits, jax.numpy.zeros(8, int)))
    """
    two = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    assert run(script, **two) == "2 1.0986123"
