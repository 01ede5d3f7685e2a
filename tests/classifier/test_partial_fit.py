# ruff: noqa: N806  X and C are scikit-learn's names
"""Learning from a stream: what a batch adds, and how near to the optimum of all samples the result is."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data_sets import data
from softmaxloss import SoftmaxClassifier, moments, stream_past
from softmaxloss.linear_fit import Descent
from softmaxloss.moments import moments_of
from softmaxloss.objective import Objective
from softmaxloss.stream_fit import RECENCY, _Update
from softmaxloss.stream_past import Learned, Part, Past
from streams import dense, known, objective, shuffled, streamed, words
from thorough import thorough


@pytest.mark.parametrize(
    ("size", "make", "excess"),
    [(200, dense, 0.01), (1000, words, 0.025), thorough(1000, dense, 0.01), thorough(200, words, 0.025)],
)
def test_three_passes_come_near_the_optimum(make, excess, size):
    X, y = make()
    best = LogisticRegression(tol=1e-6, max_iter=1000).fit(X, y)
    model = streamed(SoftmaxClassifier(), X, y, size=size, passes=3)
    assert objective(best, X, y) * (1 - 1e-6) < objective(model, X, y) < (1 + excess) * objective(best, X, y)
    assert model.loss_curve_[-1] == pytest.approx(objective(best, X, y) / len(y), rel=0.2)


@pytest.mark.parametrize(
    ("name", "size"),
    [("iris", 30), ("breast_cancer", 100), ("digits", 250), thorough("wine", 30), thorough("digits", 100)],
)
def test_three_passes_over_few_samples_come_within_a_percent_of_the_optimum(name, size):
    X, y = shuffled(name)
    X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)
    model = streamed(SoftmaxClassifier(), X, y, size=size, passes=3)
    best = objective(SoftmaxClassifier(tol=1e-8).fit(X, y), X, y)
    assert best * (1 - 1e-9) < objective(model, X, y) < 1.01 * best


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_one_batch_with_all_samples_is_a_fit(name):
    X, y = data(name)
    fitted, learned = SoftmaxClassifier().fit(X, y), SoftmaxClassifier().partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_array_equal(learned.coef_, fitted.coef_)
    assert learned.loss_curve_ == fitted.loss_curve_


def test_a_fit_is_a_first_batch_of_which_no_sample_is_kept(monkeypatch):
    X, y = shuffled("iris")
    assert SoftmaxClassifier().fit(X, y)._past.samples is None
    monkeypatch.setattr(stream_past, "REMEMBERED", 0)
    first, then = slice(0, None, 2), slice(1, None, 2)
    learned = SoftmaxClassifier().partial_fit(X[first], y[first], classes=[0, 1, 2]).partial_fit(X[then], y[then])
    fitted = SoftmaxClassifier().fit(X[first], y[first]).partial_fit(X[then], y[then])
    np.testing.assert_array_equal(learned.coef_, fitted.coef_)


MANY = pytest.mark.parametrize("most_whitened", [1024, 2], ids=["few features", "many features"])


@MANY
def test_sparse_features_are_learned_as_dense_ones_are(monkeypatch, most_whitened):
    monkeypatch.setattr(moments, "MAX_WHITENED", most_whitened)
    X, y = shuffled("iris")
    X = X * (np.abs(X) > 0.5)
    as_dense, as_sparse = (streamed(SoftmaxClassifier(), of, y, size=40) for of in (X, sparse.csr_array(X)))
    np.testing.assert_allclose(as_sparse.coef_, as_dense.coef_, rtol=1e-6, atol=1e-6)


def test_a_first_batch_whose_samples_have_values_of_few_of_many_features_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(moments, "MAX_WHITENED", 2)
    X, y = shuffled("iris")
    X[:50, 2:] = 0
    as_dense, as_sparse = (streamed(SoftmaxClassifier(), of, y, size=50) for of in (X, sparse.csr_array(X)))
    np.testing.assert_allclose(as_sparse.coef_, as_dense.coef_, rtol=1e-4, atol=1e-4)


@MANY
def test_entries_of_sparse_features_may_be_given_in_parts(monkeypatch, most_whitened):
    monkeypatch.setattr(moments, "MAX_WHITENED", most_whitened)
    X, y = shuffled("iris")
    columns = np.indices(X.shape)[1]
    halves = (np.tile(X / 2, 2).ravel(), np.tile(columns, 2).ravel(), 8 * np.arange(len(X) + 1))
    parts = [sparse.csr_array(halves, X.shape)[rows] for rows in np.split(np.arange(150), 3)]
    model = SoftmaxClassifier()
    for part, labels in zip(parts, np.split(y, 3), strict=True):
        assert part.nnz == 8 * part.shape[0]
        model.partial_fit(part, labels, classes=[0, 1, 2])
    np.testing.assert_allclose(model.coef_, streamed(SoftmaxClassifier(), X, y, size=50).coef_, rtol=1e-6, atol=1e-6)


def test_gradient_of_batch_and_past_is_that_of_finite_differences():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(30, 5)), random.integers(3, size=30)
    batch = Objective(X, y, sample_weight=random.uniform(size=30), class_weight=np.ones(3), label_smoothing=0.1, C=0.5)
    update = _Update(batch, known(random, 5, 3, moments_of(X, random.uniform(size=30), centred=True)), 0.5)
    at, along = (random.normal(size=(3, 6)) for _ in range(2))

    def value(step):
        point = at + step * along
        return update(point[:, 1:], point[:, 0])[0]

    _, d_coef, d_intercept = update(at[:, 1:], at[:, 0])
    slope = np.vdot(d_coef, along[:, 1:]) + np.vdot(d_intercept, along[:, 0])
    assert (value(1e-5) - value(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse", "float32", "soft labels"])
def test_while_all_samples_are_kept_the_objective_is_that_of_all_batches(kind):
    X, y = shuffled("iris")
    weight = np.random.default_rng(0).uniform(size=150)
    weight[[3, 40]] = 0
    first, second, third = slice(0, 40), slice(40, 60), slice(60, 150)
    model = SoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 0.5}, label_smoothing=0.1)
    model.partial_fit(X[first], y[first], [0, 1, 2], weight[first])
    later = {"sparse": sparse.csr_array(X[second]), "float32": X[second].astype(np.float32)}.get(kind, X[second])
    labels = np.eye(3)[y[second]] if kind == "soft labels" else y[second]
    past = model.partial_fit(later, labels, sample_weight=weight[second])._past
    assert len(past.samples.X) == 58  # two have no weight

    options = {"class_weight": np.array([1.0, 2.0, 0.5]), "label_smoothing": 0.1, "C": 1.0}
    batches = [Objective(X[part], y[part], sample_weight=weight[part], **options) for part in (first, second, third)]
    total = np.array([batch.weight for batch in batches])
    new, newest = (RECENCY * total[k] / (total[:k].sum() + RECENCY * total[k]) for k in (1, 2))
    share = np.array([(1 - newest) * (1 - new), (1 - newest) * new, newest])
    each = weight * np.repeat(share / total, [40, 20, 90])
    expected = Objective(X, y, sample_weight=each, normalizer=1.0, **options)
    update = _Update(batches[2], Learned(model.coef_.astype(float), model.intercept_.astype(float), past), 1.0)
    random = np.random.default_rng(1)
    coef, intercept = random.normal(size=(3, 4)), random.normal(size=3)
    precision = 1e-5 if kind == "float32" else 1e-10
    for found, of_all in zip(update.mean_loss(coef, intercept), expected.mean_loss(coef, intercept), strict=True):
        np.testing.assert_allclose(found, of_all, rtol=precision, atol=precision)


def test_loss_and_gradient_where_a_batch_led_do_not_depend_on_which_samples_are_kept(monkeypatch):
    X, y = shuffled("iris")
    ones = {"class_weight": np.ones(3), "label_smoothing": 0.0, "C": 1.0}
    batch, then = (
        Objective(X[part], y[part], sample_weight=np.ones(75), **ones) for part in (slice(75), slice(75, 150))
    )
    descent = Descent(batch, np.zeros((3, 4)), np.zeros(3), lambda *_: None)
    descent.run(0.0, 3)
    found = []
    for n_kept in (0, 10, 75):
        monkeypatch.setattr(stream_past, "REMEMBERED", n_kept)
        monkeypatch.setattr(stream_past, "MOST", 0.0)
        past = Past.of(batch, descent).remembering([Part(batch, 1.0)], descent)
        assert len(past.samples.X) == n_kept
        learned = Learned(descent.coef, descent.intercept, past)
        found.append(_Update(then, learned, 1.0).mean_loss(descent.coef, descent.intercept))
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-12, atol=1e-12)


def test_samples_are_kept_only_where_few_have_most_of_the_curvature(monkeypatch):
    monkeypatch.setattr(stream_past, "REMEMBERED", 500)
    X, y = shuffled("digits")  # easy to separate: few samples are in doubt
    assert len(streamed(SoftmaxClassifier(), X, y, size=250)._past.samples.X) == 500
    X, y = dense()
    assert streamed(SoftmaxClassifier(), X[:3000], y[:3000], size=500)._past.samples is None


def test_soft_labels_stream():
    X, y = shuffled("iris")
    hard = streamed(SoftmaxClassifier(), X, y, size=50)
    soft = SoftmaxClassifier()
    for start in range(0, 150, 50):
        soft.partial_fit(X[start : start + 50], np.eye(3)[y[start : start + 50]])
    np.testing.assert_allclose(soft.coef_, hard.coef_, rtol=1e-6, atol=1e-9)


def test_a_pickled_stream_goes_on_where_it_stopped():
    X, y = shuffled("iris")
    model = streamed(SoftmaxClassifier(), X[::2], y[::2], size=25)
    copy = pickle.loads(pickle.dumps(model))
    for each in (model, copy):
        each.partial_fit(X[1::2], y[1::2])
    np.testing.assert_array_equal(copy.coef_, model.coef_)


def test_labels_of_any_kind_and_order_stream():
    X, y = shuffled("iris")
    names = np.array(["virginica", "setosa", "versicolor"])
    model = streamed(SoftmaxClassifier(), X, names[y], size=30)
    assert model.score(X, names[y]) > 0.9
    assert model.classes_.tolist() == sorted(names)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_did_not_converge_is_continued_by_its_slope():
    X, y = shuffled("digits")
    model = SoftmaxClassifier(C=0.1, max_iter=2).fit(X[:1500], y[:1500])
    whole = SoftmaxClassifier(C=0.1).fit(X, y)
    before = objective(model, X, y)
    for start in range(1500, 1797, 99):
        model.partial_fit(X[start : start + 99], y[start : start + 99])
    assert objective(model, X, y) - objective(whole, X, y) < 0.3 * (before - objective(whole, X, y))
