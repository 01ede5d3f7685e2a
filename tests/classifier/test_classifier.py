# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""The estimator: scikit-learn's own checks, LogisticRegression's optimum, and what it promises beyond.

The file has over 300 lines, as all its tests share the objective in the textbook's words.
"""

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from scipy.special import log_softmax, logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from data_sets import LOADERS, data
from softmaxloss import SoftmaxClassifier, moments
from thorough import over_pairs


def uneven(y, seed=0):
    """Sample weights between 0 and 3, some of them 0."""
    return np.random.default_rng(seed).integers(0, 4, len(y)) * 1.0


def objective(model, X, y, *, C=1.0, sample_weight=1.0, class_weight=1.0, label_smoothing=0.0):
    """C * sum_i w_i loss_i + |coef|^2 / 2, in the textbook's words."""
    X = X.astype(np.float64)
    coef, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    logits = X @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([0 * logits, logits])
    n_classes = logits.shape[1]
    q = (1 - label_smoothing) * (model.classes_ == y[:, None]) + label_smoothing / n_classes
    q = q * class_weight
    losses = (q * (logsumexp(logits, axis=1, keepdims=True) - logits)).sum(axis=1)
    return C * (sample_weight * losses).sum() + (coef**2).sum() / 2


@parametrize_with_checks([SoftmaxClassifier()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@over_pairs(name=list(LOADERS), standardised={"standardised": True, "raw": False}, C=[0.01, 1.0, 100.0])
def test_the_optimum_is_that_of_logistic_regression(name, standardised, C):
    X, y = data(name, standardised=standardised)
    ours = SoftmaxClassifier(C=C, tol=1e-12).fit(X, y)
    theirs = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(X, y)
    assert objective(ours, X, y, C=C) == pytest.approx(objective(theirs, X, y, C=C), rel=1e-6)
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-3, atol=1e-3)


@over_pairs(
    name=list(LOADERS),
    weigh={"": None, "sample_weight": uneven},
    class_weight={None: None, "balanced": "balanced", "by class": {0: 5.0, 1: 0.5}},
)
def test_weights_mean_what_they_do_in_logistic_regression(name, weigh, class_weight):
    X, y = data(name)
    w = np.ones(len(y)) if weigh is None else weigh(y)
    by_class = np.ones(y.max() + 1)
    if class_weight == "balanced":
        by_class = w.sum() / (len(by_class) * np.bincount(y, w))
    elif class_weight:
        by_class[:2] = [5.0, 0.5]
    ours = SoftmaxClassifier(C=0.5, tol=1e-12, class_weight=class_weight).fit(X, y, None if weigh is None else w)
    theirs = LogisticRegression(C=0.5, tol=1e-8, max_iter=10_000).fit(X, y, w * by_class[y])
    scale = {"C": 0.5, "sample_weight": w, "class_weight": by_class}
    assert objective(ours, X, y, **scale) == pytest.approx(objective(theirs, X, y, **scale), rel=1e-6)


@pytest.mark.parametrize("name", LOADERS)
def test_the_default_tolerance_costs_nothing_that_held_out_samples_show(name):
    X, y = data(name)
    train, test = np.arange(len(y)) % 4 > 0, np.arange(len(y)) % 4 == 0
    quick, exact = (SoftmaxClassifier(tol=tol).fit(X[train], y[train]) for tol in (SoftmaxClassifier().tol, 1e-12))
    assert objective(quick, X[train], y[train]) == pytest.approx(objective(exact, X[train], y[train]), rel=1e-4)
    losses = [log_loss(y[test], model.predict_proba(X[test])) for model in (quick, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


SPARSE = {kind.__name__: kind for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.coo_array)}


@over_pairs(name=["digits", "breast_cancer"], dtype={"float32": np.float32, "float64": np.float64}, kind=SPARSE)
def test_sparse_features_give_the_coefficients_of_dense_ones(name, dtype, kind):
    X, y = data(name, standardised=False)
    X = np.where(np.median(X, axis=0) < X, X, 0).astype(dtype)
    dense, ours = (SoftmaxClassifier(C=0.1, tol=1e-10).fit(kept, y) for kept in (X, kind(X)))
    assert ours.coef_.dtype == dtype
    assert objective(ours, X, y, C=0.1) == pytest.approx(objective(dense, X, y, C=0.1), rel=1e-5)
    np.testing.assert_allclose(ours.predict_proba(kind(X)), dense.predict_proba(X), atol=1e-2)
    np.testing.assert_array_equal(ours.predict(kind(X)), ours.predict(X))
    np.testing.assert_allclose(ours.decision_function(kind(X)), ours.decision_function(X), rtol=1e-3, atol=1e-3)


OFFSETS = {
    "constant": (np.float32, 1e4, np.ones),
    "years": (np.float32, 100, lambda n: np.full(n, 2015.0)),
    "times": (np.float64, 1, lambda n: 1e8 + np.arange(n) % 3),
    "two times": (np.float64, 1, lambda n: 1.7e9 + np.stack([np.arange(n), np.arange(n) + 60.0], 1)),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", OFFSETS)
def test_sparse_features_may_have_columns_far_from_zero(name):
    dtype, C, column = OFFSETS[name]
    rng = np.random.default_rng(0)
    X = sparse.random_array((2000, 50), density=0.05, rng=rng).toarray()
    X = np.column_stack([X, column(2000)]).astype(dtype)
    y = rng.integers(3, size=2000)
    dense, ours = SoftmaxClassifier(C=C).fit(X, y), SoftmaxClassifier(C=C).fit(sparse.csr_array(X), y)
    assert objective(ours, X, y, C=C) == pytest.approx(objective(dense, X, y, C=C), rel=1e-4)


def test_sparse_features_are_never_made_dense():
    rng = np.random.default_rng(0)
    X = sparse.random_array((3000, 20_000), density=1e-3, format="csr", rng=rng)
    y = rng.integers(4, size=3000)
    SoftmaxClassifier(max_iter=1, tol=1e3).fit(X[:100], y[:100])
    tracemalloc.start()
    SoftmaxClassifier(tol=1e-3).fit(X, y).predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * 8 * X.shape[0] * X.shape[1]


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_without_intercepts_the_optimum_is_that_of_logistic_regression(name, kind):
    X, y = data(name)
    ours = SoftmaxClassifier(fit_intercept=False, tol=1e-12).fit(kind(X), y)
    theirs = LogisticRegression(fit_intercept=False, tol=1e-10, max_iter=10_000).fit(X, y)
    assert not ours.intercept_.any()
    assert objective(ours, X, y) == pytest.approx(objective(theirs, X, y), rel=1e-6)


def test_an_infinite_c_means_no_penalty():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(500, 3)), np.ones(500)])  # a feature that never varies
    y = rng.integers(3, size=500)  # there is a minimum, as the classes overlap
    ours, theirs = SoftmaxClassifier(C=np.inf, tol=1e-12).fit(X, y), LogisticRegression(C=np.inf, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0}])
def test_soft_labels_are_what_label_smoothing_makes_of_labels(class_weight):
    X, y = data("iris")
    soft = 0.9 * np.eye(3)[y] + 0.1 / 3
    ours = SoftmaxClassifier(class_weight=class_weight).fit(X, soft)
    right = SoftmaxClassifier(class_weight=class_weight, label_smoothing=0.1).fit(X, y)
    np.testing.assert_allclose(ours.coef_, right.coef_, rtol=1e-5, atol=1e-6)
    assert ours.classes_.tolist() == [0, 1, 2]


def test_many_classes_reach_the_optimum_by_way_of_single_precision():
    """The features have offsets that single precision could not hold."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(100), 8)
    X = rng.normal(size=(100, 20))[y] + rng.normal(size=(800, 20)) + 1e6
    ours = SoftmaxClassifier().fit(X, y)
    theirs = LogisticRegression(solver="lbfgs", tol=1e-9, max_iter=10_000).fit(X - 1e6, y)
    theirs.intercept_ -= theirs.coef_.sum(1) * 1e6
    assert objective(ours, X, y) == pytest.approx(objective(theirs, X, y), rel=1e-5)


@pytest.mark.parametrize("name", LOADERS)
def test_loss_curve_ends_at_the_objective_per_unit_of_weight(name):
    X, y = data(name)
    w = uneven(y)
    model = SoftmaxClassifier(C=0.5).fit(X, y, w)
    assert len(model.loss_curve_) == model.n_iter_ + 1
    assert all(np.diff(model.loss_curve_) <= 0)
    assert model.loss_curve_[0] == pytest.approx(np.log(len(model.classes_)))
    expected = objective(model, X, y, C=0.5, sample_weight=w) / (0.5 * w.sum())
    assert model.loss_curve_[-1] == pytest.approx(expected)


def test_only_scales_matched_reaches_the_same_optimum(monkeypatch):
    X, y = data("breast_cancer", standardised=False)
    whitened = SoftmaxClassifier(tol=1e-12).fit(X, y)
    monkeypatch.setattr(moments, "MAX_WHITENED", 0)
    scaled = SoftmaxClassifier(tol=1e-12).fit(X, y)
    assert scaled.n_iter_ != whitened.n_iter_
    assert objective(scaled, X, y) == pytest.approx(objective(whitened, X, y), rel=1e-6)


@pytest.mark.parametrize("change", ["units", "offsets", "copies"])
def test_optimum_is_reached_whatever_the_features_look_like(change):
    X, y = data("breast_cancer")
    X = {
        "units": X * 10.0 ** np.linspace(-6, 6, X.shape[1]),
        "offsets": X + 1e5,
        "copies": np.hstack([X, X[:, :5], X[:, :5] + X[:, 5:10], np.full((len(X), 1), 7.0)]),
    }[change]
    ours = SoftmaxClassifier(tol=1e-12).fit(X, y)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X - X.mean(axis=0), y)
    theirs.intercept_ -= theirs.coef_ @ X.mean(axis=0)
    assert objective(ours, X, y) == pytest.approx(objective(theirs, X, y), rel=1e-6)


@pytest.mark.parametrize("name", LOADERS)
def test_float32_stays_float32(name):
    X, y = data(name)
    X32 = X.astype(np.float32)
    model = SoftmaxClassifier().fit(X32, y)
    results = [model.coef_, model.intercept_, model.decision_function(X32)]
    results += [model.predict_proba(X32), model.predict_log_proba(X32)]
    assert {r.dtype for r in results} == {np.dtype(np.float32)}
    assert objective(model, X, y) == pytest.approx(objective(SoftmaxClassifier().fit(X, y), X, y), rel=1e-5)


@pytest.mark.parametrize("name", LOADERS)
def test_label_smoothing_reaches_the_optimum_of_the_smoothed_objective(name):
    X, y = data(name)
    model = SoftmaxClassifier(label_smoothing=0.1, tol=1e-12).fit(X, y)
    n_classes = len(model.classes_)
    # the same optimum written as weighted samples: each sample once with its own label and once with every label
    w = np.concatenate([np.full(len(y), 0.9), np.full(len(y) * n_classes, 0.1 / n_classes)])
    labels = np.concatenate([y, np.repeat(np.arange(n_classes), len(y))])
    spread = LogisticRegression(tol=1e-8, max_iter=10_000).fit(np.vstack([X] * (n_classes + 1)), labels, w)
    ours, theirs = (objective(m, X, y, label_smoothing=0.1) for m in (model, spread))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_label_smoothing_pulls_probabilities_towards_uniform():
    X, y = data("digits")
    confidence = [
        SoftmaxClassifier(label_smoothing=eps).fit(X, y).predict_proba(X).max(1).mean() for eps in (0, 0.2, 1)
    ]
    assert confidence[0] > confidence[1] + 0.05 > confidence[2]
    assert confidence[2] == pytest.approx(0.1)


def test_class_weights_multiply_after_label_smoothing():
    X, y = data("iris")
    model = SoftmaxClassifier(label_smoothing=0.2, tol=1e-12, class_weight={0: 4.0, 2: 0.5}).fit(X, y)
    best = objective(model, X, y, label_smoothing=0.2, class_weight=[4.0, 1.0, 0.5])
    for seed in range(5):
        other = clone(model).fit(X, y)
        other.coef_ = model.coef_ + 1e-2 * np.random.default_rng(seed).normal(size=model.coef_.shape)
        assert objective(other, X, y, label_smoothing=0.2, class_weight=[4.0, 1.0, 0.5]) > best


def test_fit_and_predict_never_hold_samples_x_classes():
    n_samples, n_classes = 40_000, 500
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 8)).astype(np.float32)
    y = rng.integers(n_classes, size=n_samples)
    logits_size = n_samples * n_classes * X.itemsize
    model = SoftmaxClassifier(max_iter=2)
    clone(model).set_params(tol=1e3).fit(X[:2000], y[:2000]).predict(X)  # load all code first
    tracemalloc.start()
    try:
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
        fit_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        model.predict(X)
        predict_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fit_peak < 0.6 * logits_size
    assert predict_peak < 0.3 * logits_size


def test_samples_all_of_one_class_by_weight_end_without_a_warning():
    X, y = data("iris")
    model = SoftmaxClassifier().fit(X, y, (y == 1) * 1.0)
    assert set(model.predict(X)) == {1}


def test_balanced_leaves_out_a_class_without_weight():
    X, y = data("iris")
    weighted = SoftmaxClassifier(class_weight="balanced").fit(X, y, (y != 1) * 1.0)
    assert set(weighted.predict(X)) == {0, 2}


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [-1, 7], [3.0, 5.0]])
def test_two_classes_of_any_kind(labels):
    X, y = data("breast_cancer")
    model = SoftmaxClassifier().fit(X, np.array(labels)[y])
    assert model.coef_.shape == (1, X.shape[1])
    assert model.decision_function(X).shape == (len(X),)
    assert model.classes_.tolist() == labels
    assert model.score(X, np.array(labels)[y]) > 0.98
    np.testing.assert_array_equal(model.predict(X) == labels[1], model.decision_function(X) > 0)


def test_probabilities_are_the_softmax_of_the_logits():
    for name in ("iris", "breast_cancer"):
        X, y = data(name)
        model = SoftmaxClassifier(C=1e6).fit(X, y)
        logits = model.decision_function(X)
        logits = np.column_stack([0 * logits, logits]) if logits.ndim == 1 else logits
        np.testing.assert_allclose(model.predict_log_proba(X), log_softmax(logits, axis=1), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-14)
        np.testing.assert_array_equal(model.predict(X), model.predict_proba(X).argmax(axis=1))


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_four_attributes_restore_an_estimator(name):
    X, y = data(name)
    fitted = SoftmaxClassifier().fit(X, y)
    restored = SoftmaxClassifier()
    for attribute in ("coef_", "intercept_", "classes_", "n_features_in_"):
        setattr(restored, attribute, getattr(fitted, attribute))
    for copy in (restored, pickle.loads(pickle.dumps(fitted))):
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            np.testing.assert_array_equal(getattr(copy, method)(X), getattr(fitted, method)(X))


def test_clone_keeps_the_parameters_alone():
    X, y = data("iris")
    model = SoftmaxClassifier(C=0.1, class_weight={0: 2.0}, label_smoothing=0.1, tol=1e-6).fit(X, y)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "coef_")


def test_random_state_changes_nothing():
    X, y = data("iris")
    a, b = (SoftmaxClassifier(random_state=seed).fit(X, y) for seed in (0, 1))
    np.testing.assert_array_equal(a.coef_, b.coef_)
