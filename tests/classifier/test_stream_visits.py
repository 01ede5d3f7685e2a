# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""Learning from a stream with very many features, where rows are visited one after the other."""

import pickle
import warnings

import numpy as np
import pytest
from scipy import optimize, sparse

from softmaxloss import SoftmaxClassifier, moments, reference, stream_fit
from softmaxloss.kernels import dual_ascent
from softmaxloss.moments import Moments
from softmaxloss.objective import Objective
from softmaxloss.stream_past import Learned, Past
from streams import known, objective, rare_words, words


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_visits_of_rows_lead_to_the_minimum_of_batch_quadratic_and_penalty(monkeypatch, n_classes, soft, fit_intercept):
    monkeypatch.setattr(stream_fit, "VISITS", 1000)
    random = np.random.default_rng(0)
    X, labels = random.normal(size=(12, 5)), random.integers(n_classes, size=12)
    X[:, 2] = 0  # no row has this feature
    y = random.dirichlet(np.ones(n_classes), 12) if soft else labels
    options = {"class_weight": random.uniform(0.5, 2, n_classes), "sample_weight": random.uniform(size=12)}
    options["sample_weight"][3] = 0
    batch = Objective(sparse.csr_array(X), y, label_smoothing=0.1, C=0.5, **options)
    curvature = Moments(0.7, np.zeros(5), random.uniform(size=5))
    n_rows = n_classes if n_classes > 2 else 1
    learned = known(random, 5, n_rows, curvature, fit_intercept=fit_intercept)
    past, recency = learned.past, stream_fit.RECENCY_OF_MANY
    share = recency * batch.weight / (past.weight + recency * batch.weight)
    penalty = 1 / (0.5 * (past.weight + batch.weight))
    slope = past.d_coef - past.penalty * learned.coef

    def value(point):
        coef, intercept = point[: 5 * n_rows].reshape(n_rows, 5), point[5 * n_rows :]
        intercept = intercept if fit_intercept else learned.intercept
        step, intercept_step = coef - learned.coef, intercept - learned.intercept
        past_loss = np.vdot(slope, step) + past.d_intercept @ intercept_step
        past_loss += (curvature.covariance * step**2).sum() / 2 + curvature.total * (intercept_step**2).sum() / 2
        logits = X @ coef.T + intercept
        logits = logits if n_classes > 2 else np.hstack([np.zeros((12, 1)), logits])
        loss = reference.cross_entropy(logits, y, label_smoothing=0.1, **options)
        return share * loss + (1 - share) * past_loss + penalty / 2 * (coef**2).sum()

    report = []
    result = stream_fit.learn(learned, batch, C=0.5, fit_intercept=fit_intercept, report=lambda *a: report.append(a))
    found = np.append(result.coef, result.intercept)
    least = optimize.minimize(value, found + 0.1 * random.normal(size=found.size), tol=1e-9)
    np.testing.assert_allclose(found[: 5 * n_rows], least.x[: 5 * n_rows], atol=1e-5)
    if fit_intercept:
        np.testing.assert_allclose(result.intercept, least.x[5 * n_rows :], atol=1e-5)
    else:
        np.testing.assert_array_equal(result.intercept, learned.intercept)
    np.testing.assert_array_equal(result.past.d_coef, 0)  # as the next batch is told
    assert len(report) == 1


@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_visits_nearly_learn_a_first_batch_with_more_features_than_rows(C, fit_intercept, n_classes):
    X, y = rare_words(n_classes=n_classes)
    best = SoftmaxClassifier(C=C, fit_intercept=fit_intercept, tol=1e-9).fit(X, y)
    model = SoftmaxClassifier(C=C, fit_intercept=fit_intercept).partial_fit(X, y, classes=np.arange(n_classes))
    assert objective(model, X, y) < 1.0005 * objective(best, X, y)
    assert model.n_iter_ < 5
    assert fit_intercept or not model.intercept_.any()
    assert model.loss_curve_[0] == pytest.approx(np.log(n_classes))
    assert model.loss_curve_[-1] == pytest.approx(objective(best, X, y) / (C * len(y)), rel=0.02)


@pytest.mark.parametrize("C", [0.01, 0.1, 10.0])
def test_the_loss_curve_of_a_first_batch_is_its_objective(C):
    X, y = rare_words()
    model = SoftmaxClassifier(C=C).partial_fit(X, y, classes=np.arange(5))
    assert model.loss_curve_[-1] == pytest.approx(objective(model, X, y) / (C * len(y)), rel=1e-9)
    assert (np.diff(model.loss_curve_) < 0).all()
    assert len(model.loss_curve_) == model.n_iter_ + 1


def test_visits_that_raise_the_objective_are_not_used():
    random = np.random.default_rng(0)
    X, y = sparse.csr_array(random.random((300, 3)) @ random.random((3, 1100))), random.integers(5, size=300)
    model = SoftmaxClassifier().partial_fit(X, y, classes=np.arange(5))
    best = SoftmaxClassifier(tol=1e-9).fit(X, y)
    assert (np.diff(model.loss_curve_) < 0).all()
    assert objective(model, X, y) < 1.001 * objective(best, X, y)


def test_a_first_batch_that_visits_do_not_learn_is_left_to_iterations():
    X, y = words()
    X = sparse.csr_array(np.round(8 * X.toarray()[:1200]))
    y, options = y[:1200], {"C": 10.0, "max_iter": 5000}
    best = SoftmaxClassifier(tol=1e-8, **options).fit(X, y)
    model = SoftmaxClassifier(**options).partial_fit(X, y, classes=np.arange(10))
    assert model.n_iter_ > 1
    assert objective(model, X, y) < 1.002 * objective(best, X, y)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_visits_to_a_first_batch_lead_to_its_minimum(monkeypatch, soft, fit_intercept):
    monkeypatch.setattr(stream_fit, "VISITS_OF_FIRST", 300)
    monkeypatch.setattr(stream_fit, "TOLERANCE_OF_FIRST", 1e-8)
    X, y = rare_words()
    random = np.random.default_rng(0)
    targets = random.dirichlet(np.ones(5), len(y)) if soft else y
    weight = random.integers(3, size=len(y))
    options = {"label_smoothing": 0.1, "class_weight": {1: 2.0, 3: 0.5}, "fit_intercept": fit_intercept}
    best = SoftmaxClassifier(tol=1e-10, **options).fit(X, targets, weight)
    model = SoftmaxClassifier(**options).partial_fit(X, targets, np.arange(5), weight)
    assert model.n_iter_ == 1
    np.testing.assert_allclose(model.predict_proba(X), best.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(model.loss_curve_, [best.loss_curve_[0], best.loss_curve_[-1]], rtol=1e-5)


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda y: np.broadcast_to(y, y.shape), lambda y: y[:, ::-1][:, ::-1]]
)
def test_soft_labels_in_any_order_of_memory_need_the_same_machine_code(change):
    X, y = rare_words()
    soft = np.eye(5)[y] * 0.9 + 0.02
    right = SoftmaxClassifier().partial_fit(X, soft, classes=range(5))
    known = len(dual_ascent.ascend.signatures)
    model = SoftmaxClassifier().partial_fit(X, change(soft), classes=range(5))
    np.testing.assert_array_equal(model.coef_, right.coef_)
    assert len(dual_ascent.ascend.signatures) == known


def test_the_order_of_rows_in_a_batch_of_very_many_features_hardly_matters():
    X, y = rare_words()
    streams = []
    for reverse in (1, -1):
        model = SoftmaxClassifier()
        for batch in (slice(0, None, 2), slice(1, None, 2)):
            model.partial_fit(X[batch][::reverse], y[batch][::reverse], classes=np.arange(5))
        streams.append(model)
    first, second = (objective(model, X, y) for model in streams)
    assert first == pytest.approx(second, rel=0.01)
    assert first < 1.1 * objective(SoftmaxClassifier().fit(X, y), X, y)


def test_coefficients_of_very_many_features_have_the_order_of_all_others():
    X, y = rare_words()
    model = SoftmaxClassifier()
    for part in (slice(0, None, 2), slice(1, None, 2)):
        model.partial_fit(X[part], y[part], classes=np.arange(5))
        assert model.coef_.flags.c_contiguous


@pytest.mark.parametrize(("n_large", "precision"), [(10, 0.05), (100, 1.0)])
def test_a_stream_learns_from_features_whose_squares_nearly_overflow(n_large, precision):
    X, y = rare_words()

    def loss_of_all(scale):
        """Return the loss of a stream with some features multiplied by a scale, at which the penalty hardly counts."""
        scaled = sparse.csr_array(X.multiply(np.where(np.arange(3000) < n_large, scale, 1.0)))
        model = SoftmaxClassifier()
        for start in range(3):
            model.partial_fit(scaled[start::3], y[start::3], classes=np.arange(5))
        return -model.predict_log_proba(scaled)[np.arange(len(y)), y].mean()

    assert loss_of_all(1e152) == pytest.approx(loss_of_all(1e5), rel=precision)


@pytest.mark.parametrize("first", [True, False])
def test_visits_to_rows_can_be_interrupted(monkeypatch, first):
    X, y = rare_words()
    model = SoftmaxClassifier()
    if not first:
        model.partial_fit(X, y, classes=np.arange(5))
    before, calls = pickle.dumps(model), []

    def interrupted(*arguments):
        calls.append(arguments[0])
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(moments, "CHUNK", 30 * 5 * 100)
    monkeypatch.setattr(stream_fit, "ascend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y, classes=np.arange(5))
    assert len(calls[0]) < 150  # of 300 rows
    assert pickle.dumps(model) == before


def test_a_row_that_is_far_from_its_class_does_not_throw_coefficients_too_far():
    coef, curvature = np.array([[50.0], [0.0], [0.0]]), Moments(1e-4, np.zeros(1), np.full(1, 1e-4))
    past = Past(1.0, 0.1, 1e-9, np.zeros(()), np.zeros(()), curvature, fit_intercept=True)
    row = {"sample_weight": np.ones(1), "class_weight": np.ones(3), "label_smoothing": 0.0, "C": 1e9}
    batch = Objective(sparse.csr_array([[1.0]]), np.array([1]), **row)
    learned = Learned(coef, np.zeros(3), past)
    result = stream_fit.learn(learned, batch, C=1e9, fit_intercept=True, report=lambda *_: None)
    before, after = (batch.mean_loss(of.coef, of.intercept)[0] for of in (learned, result))
    assert after < 0.1 * before
    assert np.abs(result.coef).max() < 100


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_very_many_features_are_learned_where_numpy_raises_floating_point_errors(monkeypatch, C):
    monkeypatch.setattr(moments, "MAX_WHITENED", 3)
    random, model = np.random.default_rng(0), SoftmaxClassifier(C=C, max_iter=20)
    y = random.integers(3, size=60)
    X = random.normal(size=(60, 5)) * [1, 1, 1, 1e-200, 1]
    X[:30, 4] = 0  # new to the stream in the second batch
    with np.errstate(all="raise"), warnings.catch_warnings(action="ignore"):
        for rows in (slice(30), slice(30, 60)):
            model.partial_fit(sparse.csr_array(X[rows]), y[rows], classes=[0, 1, 2])
    assert np.isfinite(model.coef_).all()
    assert (model.coef_[:, 4] != 0).all()
