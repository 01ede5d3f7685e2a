"""On one CPU the kernels compute the losses of JAX arrays; elsewhere operations of arrays do, with the same results."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import softmaxloss as sl
import softmaxloss.jax as slj
from agree import assert_close, assert_same_bits
from jax_arrays import in_jax
from scripts import run
from softmaxloss import reference
from softmaxloss.jax import by_kernels
from thorough import thorough

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(8, 300)).astype(np.float32)
LABELS = RNG.integers(0, 299, 8)
SOFT = RNG.dirichlet(np.ones(300), 8).astype(np.float32)
SIGNED = RNG.normal(size=(8, 300)).astype(np.float32)
EXISTS = np.arange(300) != 299
OPTIONS = {
    "plain": {},
    "rows": {"ignore_index": int(LABELS[0]), "sample_weight": np.array([1, 0, 2, 3, 1, 1, 0, 5], np.float32)},
    "smoothing": {"label_smoothing": 0.1, "z_loss": 0.01, "temperature": 0.7},
    "classes": {"class_weight": RNG.random(300).astype(np.float32), "class_mask": EXISTS, "label_smoothing": 0.1},
}


def loss_and_gradient(logits, targets, **options):
    """Return the losses of rows, and their gradient for the gradient 1 from above."""
    loss, back = jax.vjp(lambda z: slj.cross_entropy(z, targets, reduction="none", **options), logits)
    return loss, *back(jnp.ones_like(loss))


def n_calls(function, *arguments):
    """Return how often XLA would call Python."""
    return jax.jit(function).lower(*arguments).as_text().count("xla_buffer_python_cpu_callback")


@pytest.mark.parametrize("targets", ["index", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_results_are_those_of_numpy_to_the_bit(options, targets):
    t = LABELS if targets == "index" else SOFT * EXISTS
    options = {name: value for name, value in options.items() if targets == "index" or name != "ignore_index"}
    got = jax.jit(partial(loss_and_gradient, **in_jax(options)))(LOGITS, t)
    right = sl.cross_entropy_and_grad(LOGITS, t, reduction="none", **options)
    for mine, theirs in zip(got, right, strict=True):
        assert_same_bits(mine, theirs)


def test_so_they_are_in_float64_with_classes_on_another_axis():
    logits, labels = RNG.normal(size=(2, 200, 3, 4)), RNG.integers(0, 200, (2, 3, 4))
    with jax.enable_x64(True):
        got = jax.jit(partial(loss_and_gradient, axis=1))(logits, labels)
    for mine, theirs in zip(got, sl.cross_entropy_and_grad(logits, labels, axis=1, reduction="none"), strict=True):
        assert_same_bits(mine, theirs)


def test_loss_and_gradient_take_one_call():
    for function in (slj.cross_entropy, jax.grad(slj.cross_entropy), jax.value_and_grad(slj.cross_entropy)):
        assert n_calls(function, LOGITS, LABELS) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda z, t: slj.cross_entropy(z, t, softcap=5.0),
        lambda z, t: slj.cross_entropy(z.astype(jnp.bfloat16), t),
        lambda z, t: slj.softmax_cross_entropy_with_integer_labels(z, t, where=z > -9),
        lambda z, t: slj.cross_entropy(z[:0], t[:0]),
        slj.log_probs,
    ],
    ids=["softcap", "bfloat16", "classes of each row", "no rows", "log_probs"],
)
def test_what_the_kernels_do_not_take_calls_nothing(function):
    assert n_calls(function, LOGITS, LABELS) == 0


def test_an_export_calls_nothing_and_has_the_same_results():
    right = jax.jit(loss_and_gradient)(LOGITS, LABELS)
    for platforms in (["cpu"], ["cpu", "cuda"]):
        exported = export.export(jax.jit(loss_and_gradient), platforms=platforms)(LOGITS, LABELS)
        assert "callback" not in exported.mlir_module()
        for got, want in zip(exported.call(LOGITS, LABELS), right, strict=True):
            assert_close(got, want, 1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_jax_that_cannot_call_python_gives_the_same_results(monkeypatch, options):
    monkeypatch.setattr(by_kernels, "_XLA_CALLS_PYTHON", False)
    compute = jax.jit(lambda z, t: loss_and_gradient(z, t, **in_jax(options)))
    assert "callback" not in compute.lower(LOGITS, LABELS).as_text()
    right = reference.cross_entropy_and_grad(LOGITS, LABELS, reduction="none", **options)
    for got, want in zip(compute(LOGITS, LABELS), right, strict=True):
        assert_close(got, want, 1e-6)


NO_SENSE = {
    "class weights below 0": (LABELS, {"class_weight": SIGNED[0]}),
    "row weights below 0": (LABELS, {"sample_weight": SIGNED[:, 0]}),
    "shares below 0": (SIGNED, {}),
    "no class": (LABELS, {"class_mask": EXISTS & False}),
}


@pytest.mark.parametrize(("targets", "options"), NO_SENSE.values(), ids=NO_SENSE)
def test_values_that_numpy_functions_refuse_follow_the_formula(targets, options):
    def traced(z, t, arrays):
        return loss_and_gradient(z, t, **arrays)

    assert n_calls(traced, LOGITS, targets, options) == 1
    got = jax.jit(traced)(LOGITS, targets, options)
    if "class_mask" in options:
        assert np.isnan(got[0]).all()
        return
    right = reference.cross_entropy_and_grad(LOGITS, targets, reduction="none", **options)
    for mine, theirs in zip(got, right, strict=True):
        assert_close(mine, theirs, 2e-6)


def test_the_gradient_of_a_label_that_is_no_class_is_nan_in_its_row_alone():
    right = jax.jit(loss_and_gradient)(LOGITS, LABELS)
    for got, want in zip(jax.jit(loss_and_gradient)(LOGITS, jnp.asarray(LABELS).at[3].set(300)), right, strict=True):
        assert np.isnan(got[3]).all()
        assert_same_bits(np.delete(got, 3, 0), np.delete(want, 3, 0))


ONE_OR_MANY = {
    "both": (0, 0),
    "logits": (0, None),
    "targets": (None, 0),
    "logits, along another axis": (1, None),
}


@pytest.mark.parametrize("axes", ONE_OR_MANY.values(), ids=ONE_OR_MANY)
def test_a_mapped_loss_is_one_call(axes):
    logits, labels = LOGITS.reshape(2, 4, 300), LABELS.reshape(2, 4)
    given = [of if axis is not None else of[0] for of, axis in zip((logits, labels), axes, strict=True)]
    given[0] = np.moveaxis(given[0], 0, axes[0] or 0)
    mapped = jax.vmap(partial(jax.value_and_grad(slj.cross_entropy), label_smoothing=0.1), axes)
    assert n_calls(mapped, *given) == 1
    got = jax.jit(mapped)(*given)
    for k in range(2):
        one = [of[k] if axis is not None else of[0] for of, axis in zip((logits, labels), axes, strict=True)]
        right = jax.value_and_grad(slj.cross_entropy)(*one, label_smoothing=0.1)
        assert_close(got[0][k], right[0], 1e-7)
        assert_same_bits(got[1][k], right[1])


def test_an_ignored_row_may_have_a_label_that_does_not_exist_without_a_loss_of_speed(monkeypatch):
    monkeypatch.setattr(by_kernels, "_by_arrays", None)
    exists, labels = EXISTS & (np.arange(300) != 0), np.where(LABELS == 0, 1, LABELS)
    labels[2] = -100
    got = jax.jit(partial(loss_and_gradient, ignore_index=-100, class_mask=jnp.asarray(exists)))(LOGITS, labels)
    right = reference.cross_entropy_and_grad(LOGITS, labels, ignore_index=-100, class_mask=exists, reduction="none")
    for mine, theirs in zip(got, right, strict=True):
        assert_close(mine, theirs, 1e-6)


def test_class_weights_may_be_mapped():
    weights = RNG.random((3, 300)).astype(np.float32)
    got = jax.vmap(lambda r: slj.cross_entropy(LOGITS, LABELS, class_weight=r))(weights)
    right = [reference.cross_entropy(LOGITS, LABELS, class_weight=of) for of in weights]
    assert_close(got, right, 1e-6)


BUSY = """
import jax, jax.numpy as jnp
import softmaxloss.jax as slj

z, t = jnp.asarray(logits[:256]), jnp.asarray(labels[:256])  # float32, 700 classes
compute = jax.jit(jax.value_and_grad(slj.cross_entropy))
right = sl.cross_entropy_and_grad(logits[:256], labels[:256])[1]
steps = jax.jit(lambda z: jax.lax.scan(lambda z, _: (z - compute(z, t)[1], compute(z, t)[0]), z, length=30)[1])
many = jax.jit(lambda z: [compute(z + k, t)[1] for k in range(8)])

def work(found):
    for _ in range(20):
        found.append(np.array_equal(compute(z, t)[1], right))
    found.append(bool(jnp.all(jnp.diff(steps(z)) < 0)))
    found.append(len(many(z)) == 8)

found = [[] for _ in range(6)]
threads = [threading.Thread(target=work, args=[of]) for of in found]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print({len(of) for of in found}, all(map(all, found)))
"""


@pytest.mark.parametrize("xla", ["--xla_cpu_multi_thread_eigen=false", thorough("")])
def test_calls_from_loops_and_threads_at_once_do_not_wait_for_each_other(xla):
    assert run(BUSY, JAX_PLATFORMS="cpu", XLA_FLAGS=xla) == "{22} True"


DEVICES = """
import jax, jax.numpy as jnp
import softmaxloss.jax as slj
from jax.sharding import NamedSharding, PartitionSpec as P

devices, automatic = jax.devices(), (jax.sharding.AxisType.Auto,)
z, t = jnp.asarray(logits[:64]), jnp.asarray(labels[:64])
compute = jax.jit(jax.value_and_grad(lambda z, t: slj.cross_entropy(z, t, reduction="sum")))
right = sl.cross_entropy_and_grad(logits[:64], labels[:64], reduction="sum")

def tell(name, compute, z, t):
    calls = compute.lower(z, t).as_text().count("xla_buffer_python_cpu_callback")
    print(name, calls, all(np.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(compute(z, t), right)))

mesh = jax.make_mesh((4,), ("of",), axis_types=automatic)
for name, spec in (("rows", P("of", None)), ("classes", P(None, "of"))):
    split = NamedSharding(mesh, spec), NamedSharding(mesh, P(spec[0]))
    tell(name, compute, *jax.device_put((z, t), split))

@jax.jit
def of_shards(z, t):
    loss, d_logits = compute(z, t)
    return jax.lax.psum(loss, "of"), d_logits

specs = {"mesh": mesh, "in_specs": (P("of", None), P("of")), "out_specs": (P(), P("of", None))}
for name, targets in (("labels", t), ("shares", jax.nn.one_hot(t, 700))):
    tell(f"shard_map, {name}", jax.jit(jax.shard_map(of_shards, **specs)), z, targets)
one = NamedSharding(jax.make_mesh((1,), ("of",), automatic, devices=devices[:1]), P("of"))
tell("a mesh of one", compute, *jax.device_put((z, t), one))
tell("the last", compute, *jax.device_put((z, t), devices[3]))

found = []

def work(device):
    here = jax.device_put((z, t), device)
    found.extend(np.array_equal(compute(*here)[1], right[1]) for _ in range(20))

threads = [threading.Thread(target=work, args=[device]) for device in devices]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), all(found))
"""


def test_one_device_calls_the_kernels_and_several_do_not():
    lines = run(DEVICES, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=4").splitlines()
    assert lines == [
        *("rows 0 True", "classes 0 True", "shard_map, labels 0 True", "shard_map, shares 0 True"),
        *("a mesh of one 1 True", "the last 1 True", "80 True"),
    ]


FORK = """
import warnings
import jax, jax.numpy as jnp
import softmaxloss.jax as slj

warnings.simplefilter("ignore")  # JAX warns of any fork
compute = jax.jit(jax.value_and_grad(lambda z, t: slj.cross_entropy(z, t, reduction="sum")))
d_logits = np.asarray(compute(logits, labels)[1])
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(sl.cross_entropy_and_grad(logits, labels, reduction="sum")[1], d_logits) else 1)
print(os.waitpid(child, 0)[1], np.array_equal(compute(logits, labels)[1], d_logits))
running = [compute(logits + k, labels) for k in range(4)]  # when the process ends
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork")
def test_a_forked_child_computes_by_numpy_and_a_process_may_end_during_a_call():
    assert run(FORK, JAX_PLATFORMS="cpu") == "0 True"
