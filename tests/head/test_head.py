"""The fused linear layer and loss: the same numbers as three products around the loss, in slices of any size."""

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over, without
from softmaxloss import reference
from softmaxloss.head import layer, products
from thorough import over_values

over_cases = over([case for case in CASES if case.axis == -1])

WRONG = {
    "features of a wrong width": ({"features": np.zeros((2, 4))}, ValueError, ["features", "(2, 4)", "5"]),
    "features of strings": ({"features": [["a"] * 5] * 2}, TypeError, ["features"]),
    "one weight row": ({"weight": np.zeros(5)}, ValueError, ["weight", "(5,)"]),
    "a bias too few": ({"bias": np.zeros(2)}, ValueError, ["bias", "(2,)", "(3,)"]),
    "a label too large": ({"targets": [0, 3]}, ValueError, ["targets", "3", "position 1"]),
    "no memory": ({"max_memory": 0}, ValueError, ["max_memory", "0"]),
}


def layer_of(case):
    """Return features, weight and bias of a linear layer that suits the targets of a case."""
    rng = np.random.default_rng(0)
    n_classes, dtype = case.logits.shape[-1], case.logits.dtype
    features = rng.normal(size=(*case.logits.shape[:-1], 6)).astype(dtype)
    return features, rng.normal(size=(n_classes, 6)).astype(dtype), rng.normal(size=n_classes).astype(dtype)


@over_cases
def test_the_linear_loss_equals_the_reference(case):
    features, weight, bias = layer_of(case)
    arguments = (features, weight, case.targets, bias)
    loss, gradients = sl.linear_cross_entropy_and_grad(*arguments, **case.options)
    right_loss, right_gradients = reference.linear_cross_entropy_and_grad(*arguments, **case.options)
    assert_close(loss, right_loss, case.precision)
    for name, got, right in zip(gradients._fields, gradients, right_gradients, strict=True):
        assert got.dtype == case.logits.dtype, name
        assert_close(got, right, 5 * case.rounding)
    assert_same_bits(sl.linear_cross_entropy(*arguments, **case.loss_options), loss)


@pytest.fixture
def few_rows(monkeypatch):
    """Chunks of two rows, or one."""
    monkeypatch.setattr(layer.Layer, "_rows_at_once", lambda _, n_live, *__, **___: min(2, n_live))


@over_cases
@pytest.mark.usefixtures("few_rows")
def test_slices_of_the_rows_give_the_whole(case):
    features, weight, bias = layer_of(case)
    arguments = (features, weight, case.targets, bias)
    loss, gradients = reference.linear_cross_entropy_and_grad(*arguments, **case.options)
    sliced_loss, sliced = sl.linear_cross_entropy_and_grad(*arguments, **case.options)
    assert_close(sliced_loss, loss, case.precision)
    for got, right in zip(sliced, gradients, strict=True):
        assert_close(got, right, 5 * case.rounding)


@over_cases
@pytest.mark.usefixtures("few_rows")
def test_the_product_with_the_hessian_equals_the_reference(case):
    features, weight, bias = layer_of(case)
    options = without(case.options, "upstream")
    rng = np.random.default_rng(1)
    vector = [rng.normal(size=array.shape).astype(array.dtype) for array in (features, weight, bias)]
    arguments = (features, weight, case.targets)
    got = sl.linear_hvp(*arguments, vector, bias, **options)
    for part, right in zip(got, reference.linear_hvp(*arguments, vector, bias, **options), strict=True):
        assert part.dtype == case.logits.dtype
        assert_close(part, right, 20 * case.rounding)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_product_with_the_hessian_is_a_difference_of_gradients(which):
    rng = np.random.default_rng(0)
    point, vector = ([rng.normal(size=shape) for shape in ((4, 5), (3, 5), (3,))] for _ in range(2))
    targets, options = [0, 2, 1, 2], {"label_smoothing": 0.1, "z_loss": 0.2, "softcap": 4.0, "temperature": 0.8}

    def gradients(step):
        features, weight, bias = (
            a + step * v if i == which else a for i, (a, v) in enumerate(zip(point, vector, strict=True))
        )
        return sl.linear_cross_entropy_and_grad(features, weight, targets, bias, **options)[1]

    features, weight, bias = point
    direction = [v if i == which else None for i, v in enumerate(vector)]
    product = sl.linear_hvp(features, weight, targets, direction, bias, **options)
    for got, after, before in zip(product, gradients(1e-4), gradients(-1e-4), strict=True):
        assert_close(got, (after - before) / 2e-4, 1e-7)


def test_metrics_of_a_linear_layer_are_those_of_its_logits():
    rng = np.random.default_rng(0)
    features, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 30, 5), (7, 5), (7,)))
    targets, options = (
        rng.integers(0, 7, (2, 30)),
        {"ignore_index": 3, "softcap": 5.0, "temperature": 0.7, "topk": (1, 2)},
    )
    right = sl.metrics(features @ weight.T + bias, targets, **options)
    for memory in (None, 1, 2000):
        got = sl.linear_metrics(features, weight, targets, bias, max_memory=memory, **options)
        assert (got.rows, got.accuracy, got.top_k) == (right.rows, right.accuracy, right.top_k)
        np.testing.assert_array_equal(got.argmax, right.argmax)
        np.testing.assert_array_equal(got.rank, right.rank)
        assert_close(got.log_probability, right.log_probability, 1e-5)
        assert (got.loss, got.entropy) == pytest.approx((right.loss, right.entropy), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_products_are_exact_the_loss_is_that_of_the_logits_to_the_last_bit(dtype):
    """So it is for every number of rows that share a product."""
    rng = np.random.default_rng(0)
    features, weight, bias = (rng.integers(-3, 4, shape).astype(dtype) for shape in ((500, 7), (300, 7), (300,)))
    targets, options = rng.integers(-1, 300, 500), {"ignore_index": -1, "label_smoothing": 0.1, "z_loss": 0.01}
    right = sl.cross_entropy(features @ weight.T + bias, targets, **options)
    for memory in (1, 10_000, "0.1MiB", None):
        assert_same_bits(sl.linear_cross_entropy(features, weight, targets, bias, max_memory=memory, **options), right)
        loss, _ = sl.linear_cross_entropy_and_grad(features, weight, targets, bias, max_memory=memory, **options)
        assert_same_bits(loss, right)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("most", [12, 120])
def test_products_of_all_layouts_are_exact_where_numbers_are_small_integers(dtype, most):
    """Products of both sizes, computed with and without the GIL."""
    rng, sizes = np.random.default_rng(0), set()

    def drawn(*shape):
        array = rng.integers(-9, 10, (2 * shape[0], shape[1])).astype(dtype)[:: rng.integers(1, 3)][: shape[0]]
        return np.asfortranarray(array) if rng.random() < 0.5 else array

    for _ in range(60):
        n, inner, k = rng.integers(1, most, 3)
        a, b, out, add = drawn(n, inner), drawn(inner, k), np.ascontiguousarray(drawn(n, k)), rng.random() < 0.5
        right = add * out + a @ b
        products.multiply(a, b, out, add=add)
        np.testing.assert_array_equal(out, right)
        sizes.add(n * inner * k < products._MANY)
    assert sizes == ({True} if most == 12 else {True, False})


def test_other_threads_run_during_a_large_product():
    a, last, gaps = np.ones((1200, 1200)), time.monotonic(), []
    with ThreadPoolExecutor(1) as pool:
        computed = pool.submit(products.multiply, a, a, np.empty_like(a))
        while not computed.done():
            last, before = time.monotonic(), last
            gaps.append(last - before)
    assert max(gaps) < sum(gaps) / 2


@over_values(order=["C", "F"], softcap=[None, 5.0])
def test_memory_is_bounded(order, softcap):
    """Counted by Python, which NumPy tells what it takes; kernels take none."""
    rng = np.random.default_rng(0)
    features = np.asfortranarray(rng.normal(size=(2000, 8)).astype(np.float32))
    weight = np.asarray(rng.normal(size=(3000, 8)), np.float32, order=order)
    targets, limit = rng.integers(0, 3000, 2000), 6 * 2**20  # all logits would take 24 MB
    backwards = "exact", sl.Sampled(threshold=0.01)
    for backward in backwards:  # compiles
        sl.linear_cross_entropy_and_grad(
            features, weight, targets, max_memory=limit, softcap=softcap, backward=backward
        )
    tracemalloc.start()
    for backward in backwards:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        _, gradients = sl.linear_cross_entropy_and_grad(
            features, weight, targets, max_memory=limit, softcap=softcap, backward=backward
        )
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before - sum(array.nbytes for array in gradients if array is not None) < limit
    tracemalloc.stop()


def test_log_probabilities_of_a_real_vocabulary_are_exact_in_64_mib():
    """8,192 positions of 49,152 classes have 1.6 GB of logits."""
    rng = np.random.default_rng(0)
    features, weight = (rng.normal(size=(n, 16)).astype(np.float32) / 2 for n in (8192, 49_152))
    targets = rng.integers(0, 49_152, 8192)
    some = slice(None, None, 400)
    sl.linear_log_probs_and_grad(features[some], weight, targets[some])  # compiles
    tracemalloc.start()
    found, gradients = sl.linear_log_probs_and_grad(features, weight, targets, d_entropy=0.1, max_memory="64MiB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    results = [array for array in (*found, *gradients) if array is not None]
    assert peak - sum(array.nbytes for array in results) < 64 * 2**20
    z = features[some].astype(np.float64) @ weight.T.astype(np.float64)
    for got, right in zip(found, reference.log_probs(z, targets[some]), strict=True):
        np.testing.assert_allclose(got[some], right, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 10_000, None])
def test_log_probabilities_of_a_layer_are_those_of_its_logits(chunk):
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(size=(3, 20, 8)), rng.normal(size=(300, 8)), rng.normal(size=300)
    targets, d_log_prob, d_entropy = rng.integers(-1, 300, (3, 20)), *rng.normal(size=(2, 3, 20))
    options = {"ignore_index": -1, "softcap": 3.0, "temperature": 0.7, "d_log_prob": d_log_prob, "d_entropy": d_entropy}
    found, gradients = sl.linear_log_probs_and_grad(features, weight, targets, bias, max_memory=chunk, **options)
    right, d_logits = sl.log_probs_and_grad(features @ weight.T + bias, targets, **options)
    for got, expected in zip(found, right, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    expected = d_logits @ weight, np.einsum("abv,abd->vd", d_logits, features), d_logits.sum((0, 1))
    for got, of_logits in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, of_logits, rtol=0, atol=1e-12 * np.abs(of_logits).max())
    alone = sl.linear_log_probs(features, weight, targets, bias, ignore_index=-1, softcap=3.0, temperature=0.7)
    for got, of_both in zip(alone, found, strict=True):  # whose products have other shapes, and so other last bits
        np.testing.assert_allclose(got, of_both, rtol=1e-12)
    part = sl.linear_log_probs_and_grad(features, weight, targets, bias, wrt=["bias"], **options)[1]
    assert part.features is None
    assert part.weight is None
    np.testing.assert_allclose(part.bias, gradients.bias, rtol=1e-12)


@pytest.mark.parametrize("dead", [np.nan, np.inf])
def test_features_of_rows_that_take_no_part_are_never_read(dead):
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(4, 5)), rng.normal(size=(3, 5))
    right_loss, right = sl.linear_cross_entropy_and_grad(features[[0, 2]], weight, [0, 2], np.zeros(3))
    features[[1, 3]] = dead
    loss, gradients = sl.linear_cross_entropy_and_grad(
        features, weight, [0, -100, 2, 1], np.zeros(3), ignore_index=-100, sample_weight=[1, 1, 1, 0]
    )
    assert loss == pytest.approx(right_loss, rel=1e-14)
    assert np.all(gradients.features[[1, 3]] == 0)
    assert_close(gradients.features[[0, 2]], right.features, 1e-14)
    assert_close(gradients.weight, right.weight, 1e-14)
    assert_close(gradients.bias, right.bias, 1e-14)


def test_only_the_gradients_asked_for_are_computed():
    arguments = (np.ones((2, 5)), np.ones((3, 5)), [0, 2], np.zeros(3))
    _, everything = sl.linear_cross_entropy_and_grad(*arguments)
    for name in ("features", "weight", "bias"):
        _, gradients = sl.linear_cross_entropy_and_grad(*arguments, wrt=(name,))
        assert_same_bits(getattr(gradients, name), getattr(everything, name))
        assert [other for other in gradients._fields if getattr(gradients, other) is not None] == [name]
    with pytest.raises(ValueError, match=r"wrt.*'weights'"):
        sl.linear_cross_entropy_and_grad(*arguments, wrt=("weights",))


def test_one_row_needs_no_batch_axis():
    loss, gradients = sl.linear_cross_entropy_and_grad(np.ones(5), np.zeros((3, 5)), 1)
    assert loss == pytest.approx(np.log(3), rel=1e-15)
    assert gradients.features.shape == (5,)
    assert gradients.weight.shape == (3, 5)
    assert gradients.bias is None


def test_the_arguments_are_never_changed():
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.dirichlet(np.ones(3), 4), rng.normal(size=3)]
    copies = [array.copy() for array in arguments]
    for array in arguments:
        array.flags.writeable = False
    sl.linear_cross_entropy_and_grad(*arguments)
    for array, copy in zip(arguments, copies, strict=True):
        assert_same_bits(array, copy)


@pytest.mark.parametrize(("arguments", "error", "fragments"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(arguments, error, fragments):
    right = {"features": np.zeros((2, 5)), "weight": np.zeros((3, 5)), "targets": [0, 1], "bias": np.zeros(3)}
    with pytest.raises(error) as caught:
        sl.linear_cross_entropy(**{**right, **arguments})
    for fragment in fragments:
        assert fragment in str(caught.value)


WRONG_VECTORS = {
    "an array": (np.zeros((2, 5)), TypeError, ["vector", "tuple"]),
    "two parts": ((None, None), TypeError, ["vector", "(None, None)"]),
    "weights of a wrong shape": ((None, np.zeros((2, 5)), None), ValueError, ["vector.weight", "(3, 5)", "(2, 5)"]),
    "features of words": ((np.full((2, 5), "a"), None, None), TypeError, ["vector.features"]),
    "a bias where there is none": ((None, None, np.zeros(3)), ValueError, ["vector.bias", "None"]),
}


@pytest.mark.parametrize(("vector", "error", "fragments"), WRONG_VECTORS.values(), ids=WRONG_VECTORS)
def test_wrong_vectors_are_named(vector, error, fragments):
    with pytest.raises(error) as caught:
        sl.linear_hvp(np.zeros((2, 5)), np.zeros((3, 5)), [0, 1], vector)
    for fragment in fragments:
        assert fragment in str(caught.value)
