"""A layer of sparse features is that of the same features as a dense array, and never makes them dense."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

import softmaxloss as sl

KINDS = {
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "coo matrix": sparse.coo_matrix,
    "of integers": lambda x: sparse.csr_array(np.rint(4 * x).astype(int)),
    "without entries": lambda x: sparse.csr_array(0 * x),
}
over_kinds = pytest.mark.parametrize("kind", KINDS)
over_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def problem(kind, dtype, n=300):
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((n, 40)) < 0.1, rng.normal(size=(n, 40)), 0).astype(dtype)
    weight, bias = rng.normal(size=(7, 40)).astype(dtype), rng.normal(size=7).astype(dtype)
    features = KINDS[kind](dense)
    return features, features.toarray(), weight, bias, rng.integers(-1, 7, n)


def assert_close(got, right, dtype):
    assert got.dtype == right.dtype
    precision = 1e-13 if right.dtype == np.float64 and dtype == np.float64 else 1e-5
    np.testing.assert_allclose(got, right, rtol=precision, atol=precision * np.abs(right).max(initial=0.0))


@over_kinds
@over_dtypes
@pytest.mark.parametrize("memory", [None, 1])
def test_loss_and_gradients_are_those_of_dense_features(kind, dtype, memory):
    features, dense, weight, bias, targets = problem(kind, dtype)
    options = {"ignore_index": -1, "label_smoothing": 0.1, "softcap": 3.0, "wrt": ("weight", "bias")}
    loss, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, bias, max_memory=memory, **options)
    right, of_dense = sl.linear_cross_entropy_and_grad(dense, weight, targets, bias, **options)
    assert loss == pytest.approx(right, rel=1e-13 if dtype == np.float64 else 1e-6)
    assert gradients.features is None
    assert_close(gradients.weight, of_dense.weight, dtype)
    assert_close(gradients.bias, of_dense.bias, dtype)


@over_kinds
def test_other_functions_are_those_of_dense_features(kind):
    features, dense, weight, bias, targets = problem(kind, np.float64)
    vector = None, weight[::-1], bias[::-1]
    for function, more in (
        (lambda x, **o: [sl.linear_cross_entropy(x, weight, targets, bias, reduction="none", **o)], {}),
        (lambda x, **o: [sl.linear_metrics(x, weight, targets, bias, **o).log_probability], {}),
        (lambda x, **o: sl.linear_log_probs(x, weight, targets, bias, **o), {}),
        (
            lambda x, **o: sl.linear_log_probs_and_grad(x, weight, targets, bias, **o)[1][1:],
            {"wrt": ["weight", "bias"]},
        ),
        (lambda x, **o: sl.linear_hvp(x, weight, targets, vector, bias, **o)[1:], {"wrt": ["weight", "bias"]}),
    ):
        for got, right in zip(*(function(x, ignore_index=-1, **more) for x in (features, dense)), strict=True):
            assert_close(got, right, np.float64)


@pytest.mark.usefixtures("threads_as_before")
def test_the_number_of_threads_changes_no_bit():
    features, _, weight, bias, targets = problem("csr", np.float32)
    found = []
    for n in (1, 2, 5):
        sl.set_num_threads(n)
        arguments = {"ignore_index": -1, "wrt": ("weight", "bias")}
        loss, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, bias, **arguments)
        found.append((loss, gradients.weight.tobytes(), gradients.bias.tobytes()))
    assert found[0] == found[1] == found[2]


def test_memory_is_bounded():
    rng = np.random.default_rng(0)
    features = sparse.random_array((4000, 2000), density=0.01, dtype=np.float32, format="csr", rng=rng)
    weight, targets = rng.normal(size=(3000, 2000)).astype(np.float32), rng.integers(0, 3000, 4000)
    options = {"max_memory": "16MiB", "wrt": ["weight"]}
    sl.linear_cross_entropy_and_grad(features[:50], weight, targets[:50], **options)  # compiles
    tracemalloc.start()
    _, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - gradients.weight.nbytes < 32 * 2**20  # all logits would take 48 MB, and SciPy's copies twice 24


def test_what_sparse_features_cannot_do_is_refused():
    features, _, weight, bias, targets = problem("csr", np.float64)
    targets = np.maximum(targets, 0)
    with pytest.raises(ValueError, match=r"wrt must not hold 'features' where they are sparse, got .*; pass wrt="):
        sl.linear_cross_entropy_and_grad(features, weight, targets, bias)
    with pytest.raises(ValueError, match=r'backward must be "exact" where features are sparse, got Sampled'):
        sl.linear_cross_entropy_and_grad(features, weight, targets, wrt=["weight"], backward=sl.Sampled(0.1))
    with pytest.raises(ValueError, match=r"sparse features must have two dimensions, got shape \(40,\)"):
        sl.linear_cross_entropy(sparse.coo_array(np.ones(40)), weight, 3)
    with pytest.raises(ValueError, match=r"features must have shape \(..., 40\) to fit weight, got shape \(300, 39\)"):
        sl.linear_cross_entropy(features[:, :39], weight, targets)
    with pytest.raises(TypeError, match=r"features must be .* or integers, got dtype complex128"):
        sl.linear_cross_entropy(features * 1j, weight, targets)
