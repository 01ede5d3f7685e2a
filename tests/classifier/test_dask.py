# ruff: noqa: N803, N806  X is scikit-learn's name
"""The classifier on Dask collections finds what it finds on the same data in one piece."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_info

import softmaxloss
from softmaxloss.core.threads import alone, share
from thorough import covering, pairs, parametrize

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")

from softmaxloss.dask import SoftmaxClassifier  # noqa: E402
from softmaxloss.dask.partitions import one_thread  # noqa: E402

N, D, V = 600, 4, 3
ENDS = (0, 150, 150, 151, 600)  # one partition is empty, one has a single row
NAMES = ["a", "b", "c", "d"]


def rows(n_classes=V, seed=0):
    """Correlated, offset features, and labels drawn from a softmax of them."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(N, D)) @ random.normal(size=(D, D)) + 3
    logits = X @ random.normal(size=(D, n_classes))
    return X, (logits + random.gumbel(size=(N, n_classes))).argmax(1)


def lengths():
    return tuple(np.diff(ENDS).tolist())


def in_arrays(X, *columns):
    """Dask arrays that do not know how long their partitions are."""
    known = [da.from_array(X, chunks=(lengths(), 2))]
    known += [da.from_array(c, chunks=(lengths(), *c.shape[1:])) for c in columns]
    for array in known:
        array._chunks = ((np.nan,) * len(array.chunks[0]), *array.chunks[1:])
    return known


def in_frames(X, *columns):
    """Dataframes of one kind of number in each column, and series; there they must be of one dimension."""
    frame = pd.DataFrame(X, columns=NAMES).assign(**{f"column{i}": c for i, c in enumerate(columns)})
    whole = dd.from_map(lambda start, stop: frame[start:stop], ENDS[:-1], ENDS[1:], meta=frame[:0])
    return [whole[NAMES], *(whole[f"column{i}"] for i in range(len(columns)))]


def in_sparse_blocks(X, *columns):
    arrays = in_arrays(X, *columns)
    return [arrays[0].rechunk({1: -1}).map_blocks(sparse.csr_matrix), *arrays[1:]]


def assert_same(model, other, rtol=1e-8):
    np.testing.assert_array_equal(model.classes_, other.classes_)
    assert model.coef_.dtype == other.coef_.dtype
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(model, name), getattr(other, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


OPTIONS = [
    {},
    {"fit_intercept": False, "C": 0.1},
    {"class_weight": "balanced"},
    {"label_smoothing": 0.1, "C": np.inf},
]
CASES = list(product([in_arrays, in_frames, in_sparse_blocks], range(len(OPTIONS)), [False, True], [2, V]))


@parametrize(
    "split, option, weigh, n_classes", CASES, [str(i) for i in range(len(CASES))], covering([*map(pairs, CASES)])
)
def test_coefficients_are_those_of_a_single_machine(split, option, weigh, n_classes):
    options = OPTIONS[option]
    X, y = rows(n_classes)
    y = np.array(["one", "two", "three"], object)[y]
    w = [np.random.default_rng(1).integers(0, 3, N) * 1.0] if weigh else []
    single = softmaxloss.SoftmaxClassifier(tol=1e-12, **options)
    single.fit(sparse.csr_matrix(X) if split is in_sparse_blocks else X, y, *w)
    model = SoftmaxClassifier(tol=1e-12, **options).fit(*split(X, y, *w))
    assert_same(model, single)
    assert model.loss_curve_ == pytest.approx(single.loss_curve_, rel=1e-9)


def test_float32_stays_float32():
    X, y = rows()
    single = softmaxloss.SoftmaxClassifier().fit(X.astype(np.float32), y)
    model = SoftmaxClassifier().fit(*in_frames(X.astype(np.float32), y))
    assert_same(model, single, rtol=0.02)
    assert model.loss_curve_[-1] == pytest.approx(single.loss_curve_[-1], rel=1e-6)


def test_soft_labels_on_partitions():
    X, _ = rows()
    y = np.random.default_rng(1).dirichlet(np.ones(V), N)
    assert_same(SoftmaxClassifier(tol=1e-12).fit(*in_arrays(X, y)), softmaxloss.SoftmaxClassifier(tol=1e-12).fit(X, y))


def test_more_features_than_are_whitened(monkeypatch):
    monkeypatch.setattr(softmaxloss.moments, "MAX_WHITENED", 0)
    X, y = rows()
    assert_same(SoftmaxClassifier().fit(*in_arrays(X, y)), softmaxloss.SoftmaxClassifier().fit(X, y))


def test_labels_in_memory_are_split_as_the_features():
    X, y = rows()
    blocks, weight = da.from_array(X, chunks=(250, 2)), np.arange(N) % 3
    single = softmaxloss.SoftmaxClassifier(tol=1e-12).fit(X, y, weight)
    for labels in (y, pd.Series(y), da.from_array(y, chunks=99)):
        assert_same(SoftmaxClassifier(tol=1e-12).fit(blocks, labels, weight), single)


def test_warm_start_goes_on_from_the_previous_fit():
    model = SoftmaxClassifier(warm_start=True)
    collections = in_arrays(*rows())
    assert model.fit(*collections).n_iter_ > model.fit(*collections).n_iter_


METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


@pytest.mark.parametrize("n_classes", [2, V])
@pytest.mark.parametrize("split", [in_arrays, in_frames, in_sparse_blocks])
def test_predictions_are_lazy_and_those_of_a_single_machine(split, n_classes):
    X, y = rows(n_classes)
    blocks, labels = split(X, np.array(["one", "two", "three"], object)[y])
    model = SoftmaxClassifier().fit(blocks, labels)
    for method in METHODS:
        found = getattr(model, method)(blocks)
        assert isinstance(found, da.Array)
        same = getattr(model, method)(pd.DataFrame(X, columns=NAMES) if split is in_frames else X)
        assert (found.ndim, found.dtype, found.shape[1:]) == (same.ndim, same.dtype, same.shape[1:])
        if method == "predict":
            np.testing.assert_array_equal(found.compute(), same)
        else:
            np.testing.assert_allclose(found.compute(), same, rtol=1e-10)


def test_the_score_is_lazy():
    X, y = rows()
    w = np.arange(N) % 5
    blocks, labels, weight = in_arrays(X, y, w)
    model = SoftmaxClassifier().fit(blocks, labels)
    score = model.score(blocks, labels, weight)
    assert isinstance(score, da.Array)
    assert float(score) == pytest.approx(model.score(X, y, w))
    assert float(model.score(blocks, labels)) == pytest.approx(model.score(X, y))


def test_every_evaluation_is_one_pass_over_the_partitions():
    """A partition that is not persisted is made anew in each pass, as if read from a file."""
    X, y = rows()
    read = []

    def block(start, stop):
        read.append(start)
        return X[start:stop]

    made = [da.from_delayed(dask.delayed(block)(start, start + 200), (200, D), X.dtype) for start in range(0, N, 200)]
    model = SoftmaxClassifier()
    evaluations = []
    model.fit(da.concatenate(made), y, callback=lambda *_: evaluations.append(len(read)))
    assert read.count(0) == read.count(400) == len(read) / 3
    passes = np.diff(evaluations) / 3
    assert np.median(passes) == 1
    assert len(read) / 3 <= 1.3 * model.n_iter_ + 4  # one look at the labels, then the rounds and line searches


def test_parquet_is_read_in_passes(tmp_path):
    pytest.importorskip("pyarrow")
    X, y = rows()
    names = np.array(["one", "two", "three"], object)[y]
    pd.DataFrame(X, columns=NAMES).assign(label=names).to_parquet(tmp_path / "rows.parquet", row_group_size=100)
    frame = dd.read_parquet(tmp_path, split_row_groups=True, aggregate_files=False)
    assert frame.npartitions > 1
    model = SoftmaxClassifier(tol=1e-12).fit(frame[NAMES], frame["label"])
    assert_same(model, softmaxloss.SoftmaxClassifier(tol=1e-12).fit(X, names))
    assert model.feature_names_in_.tolist() == NAMES


SAME = "y must have one entry per row of X"
WRONG = {
    "X must": (lambda X, y: (X.rechunk(100)[:, 0], y), "Expected 2D array"),
    "NaN": (lambda X, y: (da.where(X > 3, np.nan, X), y), "X contains NaN"),
    "too large": (lambda X, y: (X * 1e300, y), "small enough to square"),
    "words": (
        lambda X, y: (X.map_blocks(np.full_like, "word", dtype=object), y),
        "could not convert string to float",
    ),
    "a list": (lambda X, y: (X, np.ones(2, y.dtype)), f"{SAME}, got 2 for 600 rows"),
    "other rows": (lambda X, y: (X, y[:500]), f"{SAME}, got 500 for 600 rows"),
    "other partitions": (
        lambda X, y: (dd.from_dask_array(X), y.rechunk(50)),
        r"y must have the partitions of X, 4 of them, got 12",
    ),
    "in memory": (lambda X, y: (dd.from_dask_array(X), y.compute()), "y must be a Dask collection"),
    "other lengths": (
        lambda X, y: (dd.from_dask_array(X), y.rechunk(((100, 200, 150, 150),))),
        "inconsistent numbers of samples",
    ),
    "another collection": (
        lambda X, y: (dask.delayed(X), y),
        "X must be a Dask array, dataframe or series, got Delayed",
    ),
    "one class": (lambda X, y: (X, y * 0), "y must hold at least two classes, got one class"),
    "no weight": (lambda X, y: (X, y, 0.0), "sample_weight times class_weight must be above 0"),
    "negative weight": (lambda X, y: (X, y, y - 5), "sample_weight must be finite and not negative"),
    "numbers": (lambda X, y: (X, y + 0.5), "Unknown label type"),
    "columns": (lambda X, y: (X[:, X[0] > 0], y), "X must have a known number of columns, got shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_refused_and_leave_the_model_as_it_was(case):
    X, y = rows()
    blocks, labels = da.from_array(X, chunks=(150, -1)), da.from_array(y, chunks=150)
    model = SoftmaxClassifier()
    make, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(*make(blocks, labels))
    assert not hasattr(model, "coef_")


WRONG_CALLS = [  # of collections
    (
        lambda X, y: SoftmaxClassifier(early_stopping=True).fit(X, y),
        ValueError,
        "early_stopping must be False for Dask collections, got True; set it",
    ),
    (lambda X, y: SoftmaxClassifier().partial_fit(X, y), TypeError, "X must be in memory in partial_fit, got a Dask"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG_CALLS)
def test_what_needs_arrays_in_memory_says_so(call, error, message):
    with pytest.raises(error, match=message):
        call(*in_arrays(*rows()))


def test_other_columns_are_refused_before_anything_is_computed():
    X, labels = in_frames(*rows())
    model = SoftmaxClassifier().fit(X, labels)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match="expecting 4 features"):
        SoftmaxClassifier().fit(*in_arrays(*rows())).predict(da.ones((10, 3)))


def test_blas_has_one_thread_within_and_as_many_as_before_after():
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()

    def compute(_):
        with one_thread():
            return set(threads())

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(compute, range(40))) == {1}
    assert threads() == before


def test_a_thread_alone_asks_no_helper():
    def count():
        calls = []
        share(lambda: calls.append(1), 2)
        return len(calls)

    with alone():
        assert [count() for _ in range(50)] == [1] * 50


def test_without_dask_the_error_says_what_to_install():
    program = "import sys; sys.modules['dask'] = None; import softmaxloss.dask"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert 'needs dask.array: pip install "softmaxloss[dask]"' in done.stderr
