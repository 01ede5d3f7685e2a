# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""Learning from a stream: what a batch adds, and how near to the optimum of all samples the result is."""

import pickle
import warnings

import numpy as np
import pytest
from scipy import optimize, sparse
from sklearn.linear_model import LogisticRegression

from data_sets import data
from softmaxloss import SoftmaxClassifier, linear_cross_entropy, moments, reference, stream_fit, stream_past
from softmaxloss.linear_fit import Descent
from softmaxloss.moments import Moments, moments_of
from softmaxloss.objective import Objective
from softmaxloss.stream_fit import RECENCY, _Update
from softmaxloss.stream_past import Learned, Part, Past
from thorough import thorough


def drawn(features, n_classes, seed=0):
    """Return labels drawn from the softmax of a random linear layer."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(features.shape[1], n_classes))
    logits = features @ (weight - weight.mean(axis=0))
    return (np.asarray(logits) + random.gumbel(size=(features.shape[0], n_classes))).argmax(axis=1)


def dense():
    X = np.random.default_rng(0).normal(size=(10_000, 20)) / 3 + 1
    return X, drawn(X, 10)


def words():
    """Return rows of unit length with 30 of 3,000 features each, the first ones most often."""
    random = np.random.default_rng(0)
    columns = np.minimum(random.zipf(1.4, size=(6000, 30)) - 1, 2999)
    counts = sparse.csr_array((np.ones(columns.size), (np.repeat(np.arange(6000), 30), columns.ravel())), (6000, 3000))
    X = sparse.csr_array(counts.multiply(1 / np.sqrt(counts.multiply(counts).sum(axis=1))[:, None]))
    return X, drawn(5 * X, 10)


def objective(model, X, y):
    targets = np.searchsorted(model.classes_, y)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:
        coef, intercept = np.vstack([0 * coef, coef]), np.append(0, intercept)
    loss = linear_cross_entropy(X, coef, targets, intercept, reduction="sum")
    return model.C * loss + np.vdot(model.coef_, model.coef_) / 2


def shuffled(name):
    X, y = data(name)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


def streamed(model, X, y, *, size, passes=1):
    for _ in range(passes):
        for start in range(0, len(y), size):
            part = slice(start, start + size)
            model.partial_fit(X[part], y[part], classes=np.unique(y), sample_weight=1 / passes)
    return model


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


def known(random, n_features, n_rows, moments, **changes):
    """Return coefficients of some rows, and a past to them."""
    slopes = random.normal(size=(n_rows, n_features)), random.normal(size=n_rows) / 10
    past = Past(20.0, 1.5, 0.1, *slopes, moments, fit_intercept=True)._replace(**changes)
    return Learned(random.normal(size=(n_rows, n_features)), random.normal(size=n_rows), past)


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


def rare_words(n_classes=5):
    """Return 300 rows of unit length with 30 of 3,000 features each, sorted by class."""
    random = np.random.default_rng(0)
    columns = random.integers(3000, size=(300, 30))
    counts = sparse.csr_array((np.ones(columns.size), (np.repeat(np.arange(300), 30), columns.ravel())), (300, 3000))
    X = sparse.csr_array(counts.multiply(1 / np.sqrt(counts.multiply(counts).sum(axis=1))[:, None]))
    y = drawn(3 * X, n_classes)
    order = np.argsort(y, kind="stable")
    return X[order], y[order]


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


def test_an_interrupted_batch_changes_nothing(monkeypatch):
    X, y = shuffled("iris")
    model = SoftmaxClassifier().partial_fit(X, y, classes=[0, 1, 2])
    before = pickle.dumps(model)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Past, "of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X[::2], y[::2])
    assert pickle.dumps(model) == before


def without_weight(X, y):
    """Return the arguments of batches that have no weight, each in its own way."""
    nothing = np.zeros(len(y))
    return {
        "sample_weight": ({}, (X, y, None, nothing)),
        "a number": ({}, (X, y, None, 0)),
        "class_weight": ({"class_weight": {1: 0.0}}, (X[y == 1], y[y == 1])),
        "soft labels": ({}, (X, np.zeros((len(y), 3)))),
    }


@pytest.mark.parametrize("kind", without_weight(np.zeros((3, 4)), np.arange(3)))
def test_a_batch_without_weight_changes_nothing(kind):
    X, y = shuffled("iris")
    options, batch = without_weight(X, y)[kind]
    model = SoftmaxClassifier(**options).partial_fit(X[::2], y[::2], classes=[0, 1, 2])
    before = pickle.dumps(model)
    assert pickle.dumps(model.partial_fit(*batch)) == before


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_stream_may_begin_with_a_batch_without_weight(warm_start):
    X, y = shuffled("iris")
    model = SoftmaxClassifier(warm_start=warm_start).partial_fit(
        X.astype(np.float32), y, classes=[0, 1, 2], sample_weight=0
    )
    assert model.coef_.dtype == np.float32
    np.testing.assert_array_equal(model.predict_proba(X), 1 / 3)
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        model.partial_fit(X, y, classes=[0, 1, 3])
    with pytest.raises(ValueError, match="X has 3 features, but SoftmaxClassifier is expecting 4"):
        model.partial_fit(X[:, :3], y)
    model.partial_fit(X, y, sample_weight=np.zeros(150))
    for start in (0, 75):
        part = slice(start, start + 75)
        model.partial_fit(X[part], y[part])
    np.testing.assert_array_equal(model.coef_, streamed(SoftmaxClassifier(), X, y, size=75).coef_)
    assert model.n_iter_ == len(model.loss_curve_) - 1


def test_a_batch_without_weight_is_checked_as_any_other():
    X, y = shuffled("iris")
    model = SoftmaxClassifier().partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="y must hold labels among"):
        model.partial_fit(X, y + 1, sample_weight=0)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.partial_fit(np.full_like(X, np.nan), y, sample_weight=0)


@pytest.mark.parametrize("first", [False, True])
def test_an_empty_batch_is_refused_in_the_words_of_scikit_learn(first):
    X, y = shuffled("iris")
    model = SoftmaxClassifier() if first else SoftmaxClassifier().partial_fit(X, y, classes=[0, 1, 2])
    for labels in (y[:0], np.empty((0, 3))):
        with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\) .* minimum of 1 is required"):
            model.partial_fit(X[:0], labels, classes=[0, 1, 2])
    assert hasattr(model, "coef_") is not first


def test_a_batch_of_one_class_does_no_lasting_harm():
    X, y = shuffled("digits")
    model = SoftmaxClassifier().partial_fit(X[y == 0], y[y == 0], classes=np.arange(10))
    for start in range(0, 1500, 300):
        model.partial_fit(X[start : start + 300], y[start : start + 300])
    assert model.score(X[1500:], y[1500:]) > 0.93


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_did_not_converge_is_continued_by_its_slope():
    X, y = shuffled("digits")
    model = SoftmaxClassifier(C=0.1, max_iter=2).fit(X[:1500], y[:1500])
    whole = SoftmaxClassifier(C=0.1).fit(X, y)
    before = objective(model, X, y)
    for start in range(1500, 1797, 99):
        model.partial_fit(X[start : start + 99], y[start : start + 99])
    assert objective(model, X, y) - objective(whole, X, y) < 0.3 * (before - objective(whole, X, y))


WRONG_BATCHES = [
    ({}, {}, "classes must hold all labels of the stream in the first call of partial_fit, got None"),
    ({}, {"classes": [0, 1]}, r"y must hold labels among the classes \[0, 1\], got 2 at position"),
    ({"class_weight": "balanced"}, {"classes": [0, 1, 2]}, "class_weight='balanced' needs all samples at once"),
    ({"early_stopping": True}, {"classes": [0, 1, 2]}, "early_stopping=True needs all samples at once"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), WRONG_BATCHES)
def test_first_batch_says_what_is_wrong(changes, arguments, message):
    X, y = shuffled("iris")
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier(**changes).partial_fit(X, y, **arguments)


WRONG_LATER = [  # options of the first fit, changes of them, the later batch, and what the message must be
    ({}, {}, {"classes": [0, 1, 3]}, "classes must be those of the first call"),
    ({}, {}, {"y": np.full((150, 2), 0.5)}, "soft labels must have a column for each class 0, 1, .*, got 2 columns"),
    ({}, {}, {"X": np.zeros((150, 3))}, "X has 3 features, but SoftmaxClassifier is expecting 4"),
    ({}, {"fit_intercept": False}, {}, "fit_intercept must stay True in partial_fit, got False"),
    ({"early_stopping": True}, {"early_stopping": False}, {}, "partial_fit cannot continue a fit that stopped early"),
]


@pytest.mark.parametrize(("options", "changes", "batch", "message"), WRONG_LATER)
def test_later_batches_must_fit_the_first(options, changes, batch, message):
    X, y = shuffled("iris")
    model = SoftmaxClassifier(**options).fit(X, y).set_params(**changes)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(**{"X": X, "y": y} | batch)


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
