"""A linear layer and its loss, some classes at a time: the numbers of all logits at once, in little memory."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softmaxloss.jax as slj
from agree import assert_close, assert_same_bits
from jax_arrays import layer_problem
from scripts import run
from thorough import parametrize, thorough

EXISTS = np.arange(11) != 3
OPTIONS = {
    "mean": {},
    "none": {"reduction": "none"},
    "all": {
        "class_weight": np.linspace(0.1, 30, 11, dtype=np.float32),
        "sample_weight": np.array([0.5, 0, 1, 2, 1, 3], np.float32),
        "class_mask": EXISTS,
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 4.0,
        "temperature": 0.8,
        "normalizer": 3.0,
    },
    "ignored": {"ignore_index": 4, "label_smoothing": 0.1},
}
BLOCK = 16 * 6  # bytes for one class of six rows


def results(loss_of, layer, *others):
    """Return the loss and the gradients of a layer, for a gradient per row from above."""

    @jax.jit
    def loss_and_gradients(layer, *others):
        loss, back = jax.vjp(lambda layer: loss_of(layer, *others), layer)
        return loss, back(jnp.linspace(0.5, 1.5, loss.size).reshape(loss.shape))[0]

    return jax.tree.leaves(loss_and_gradients(layer, *others))


COMBINATIONS = list(product(OPTIONS, [False, True], [1, 4, 6, 11]))  # 4 and 6 do not divide 11
DEFAULT = [("all", False, 4), ("none", True, 6)]


@parametrize(
    ["option", "soft", "classes"],
    COMBINATIONS,
    ["-".join(map(str, of)) for of in COMBINATIONS],
    [of in DEFAULT for of in COMBINATIONS],
)
def test_blocks_of_classes_give_the_loss_of_the_logits(option, soft, classes):
    x, w, b, labels = layer_problem()
    options = {name: value for name, value in OPTIONS[option].items() if not (soft and name == "ignore_index")}
    targets = jnp.where(labels == 3, 2, labels)
    targets = jax.nn.softmax(x @ w[::-1].T) * EXISTS if soft else targets

    def of_blocks(layer, targets):
        x, w, b = layer
        return slj.linear_cross_entropy(x, w, targets, b, max_memory=classes * BLOCK, **options)

    def of_logits(layer, targets):
        x, w, b = layer
        return slj.cross_entropy(x @ w.T + b, targets, **options)

    for got, right in zip(*(results(f, (x, w, b), targets) for f in (of_blocks, of_logits)), strict=True):
        assert_close(got, right, 3e-6)


def test_log_probabilities_of_a_layer_are_those_of_its_logits():
    x, w, b, labels = layer_problem()
    x, labels = x.reshape(2, 3, 4), labels.reshape(2, 3)
    options = {"ignore_index": int(labels[0, 0]), "softcap": 4.0, "temperature": 0.8}

    def of_blocks(layer):
        log_prob, entropy = slj.linear_log_probs(layer[0], layer[1], labels, layer[2], max_memory=3 * BLOCK, **options)
        return log_prob + 0.3 * entropy

    def of_logits(layer):
        log_prob, entropy = slj.log_probs(layer[0] @ layer[1].T + layer[2], labels, **options)
        return log_prob + 0.3 * entropy

    for got, right in zip(*(results(f, (x, w, b)) for f in (of_blocks, of_logits)), strict=True):
        assert_close(got, right, 3e-6)


def test_second_derivatives_are_those_of_the_logits():
    with jax.enable_x64(True):
        x, w, b, labels = layer_problem(dtype=np.float64)

        def of_blocks(w):
            return slj.linear_cross_entropy(x, w, labels, b, max_memory=4 * BLOCK, z_loss=0.1)

        def of_logits(w):
            return slj.cross_entropy(x @ w.T + b, labels, z_loss=0.1)

        assert_close(*(jax.jit(jax.hessian(f))(w) for f in (of_blocks, of_logits)), 1e-12)


def test_mapping_over_a_batch_is_a_loop():
    x, w, b, labels = layer_problem()
    x, labels = x.reshape(3, 2, 4), labels.reshape(3, 2)
    of_part = jax.jit(jax.value_and_grad(lambda x, t: slj.linear_cross_entropy(x, w, t, b, max_memory=64)))
    mapped = jax.vmap(of_part)(x, labels)
    for got, right in zip(mapped, zip(*map(of_part, x, labels), strict=True), strict=True):
        assert_close(got, np.stack(right), 1e-6)


def test_rows_that_take_no_part_are_never_read():
    x, w, b, labels = layer_problem()
    options = {"sample_weight": np.array([0, 1, 0, 1, 1, 2], np.float32), "reduction": "none"}

    def loss_of(layer):
        return slj.linear_cross_entropy(layer[0], layer[1], labels, layer[2], max_memory=4 * BLOCK, **options)

    clean, hurt = (results(loss_of, (of, w, b)) for of in (x, x.at[jnp.array([0, 2])].set(jnp.nan)))
    for got, right in zip(hurt, clean, strict=True):
        assert_same_bits(got, right)


@pytest.mark.parametrize("dtype", [thorough(jnp.float16), jnp.bfloat16])
def test_products_of_half_precision_are_added_in_float32(dtype):
    x, w, b, labels = layer_problem(dtype=dtype)
    single = [of.astype(jnp.float32) for of in (x, w, b)]

    def loss_of(layer):
        return slj.linear_cross_entropy(layer[0], layer[1], labels, layer[2])

    got, right = results(loss_of, (x, w, b)), results(loss_of, tuple(single))
    assert got[0].dtype == jnp.float32
    assert_close(got[0], right[0], 1e-6)
    for d, want in zip(got[1:], right[1:], strict=True):
        assert d.dtype == dtype
        assert_close(d.astype(np.float32), want, float(jnp.finfo(dtype).eps))


MEMORY = """
import re
import jax, jax.numpy as jnp
from softmaxloss.jax import linear_cross_entropy

def mebibytes(name):
    with open("/proc/self/status") as status:
        return int(re.search(name + r":\\s*(\\d+) kB", status.read())[1]) / 1024

n_rows, n_classes, n_features = 1024, 49152, 576  # the output layer of SmolLM2
x, w = (jnp.asarray(rng.standard_normal((n, n_features), np.float32)) / 24 for n in (n_rows, n_classes))
labels = jnp.asarray(rng.integers(0, n_classes, n_rows))
loss_and_gradients = jax.jit(jax.value_and_grad(linear_cross_entropy, (0, 1)))
run = loss_and_gradients.lower(x, w, labels).compile()
jax.block_until_ready(loss_and_gradients(x[:64], w[:64], labels[:64] % 64))  # starts threads
with open("/proc/self/clear_refs", "w") as forget:
    forget.write("5")
before = mebibytes("VmRSS")
results = jax.block_until_ready(run(x, w, labels))
of_results = 4 * (x.size + w.size) / 2**20
print(mebibytes("VmHWM") - before - of_results, 4 * n_rows * n_classes / 2**20, float(results[0]))
"""


@pytest.mark.thorough
def test_the_output_layer_of_a_language_model_takes_an_eighth_of_its_logits(record_property):
    extra, of_logits, loss = map(float, run(MEMORY, JAX_PLATFORMS="cpu", MALLOC_MMAP_THRESHOLD_="65536").split())
    record_property(
        "found", f"linear_cross_entropy of JAX: {extra:.0f} MiB besides results, logits take {of_logits:.0f}"
    )
    assert extra < of_logits / 8
    assert loss == pytest.approx(np.log(49152), rel=0.1)


def test_the_memory_that_the_compiler_plans_is_a_fraction_of_the_logits():
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1024, 576), (49152, 576))]
    labels = jax.ShapeDtypeStruct((1024,), np.int32)
    for reduction in ("mean", "none"):

        def loss_of(x, w, t, reduction=reduction):
            return slj.linear_cross_entropy(x, w, t, reduction=reduction).sum()

        compiled = jax.jit(jax.value_and_grad(loss_of, (0, 1))).lower(*shapes, labels).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 1024 * 49152 * 4 / 8


def test_a_block_is_within_memory_and_divides_the_classes_if_it_can():
    from softmaxloss.jax.linear import _block

    assert [_block(49152, most) for most in (1024, 1000, 10**9)] == [1024, 768, 49152]
    assert [_block(50257, most) for most in (2000, 1000)] == [1733, 986]  # 29 blocks; 51, of which the last is filled
    assert _block(7, 0) == 1
