# ruff: noqa: ARG002, N806  X is scikit-learn's name, and so are the arguments of callbacks
"""Early stopping, and what scikit-learn's callbacks and metadata routing see of a fit."""

import tracemalloc

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_sets import data
from softmaxloss import SoftmaxClassifier, cross_entropy

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")


class Watcher:
    """A callback that remembers what it is told, and asks to stop after some iterations."""

    def __init__(self, stop_after=None):
        self.told, self.models, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.told.append(("end", context.task_name))
        if fitted_estimator is not None and context.task_name == "iteration":
            self.models.append(fitted_estimator)
        return self.stop_after is not None and len(self.models) >= self.stop_after


def test_callbacks_of_scikit_learn_see_each_iteration():
    X, y = data("iris")
    watcher = Watcher()
    model = SoftmaxClassifier().set_callbacks(watcher).fit(X, y)
    assert watcher.told[:2] == ["setup", ("begin", "fit")]
    assert watcher.told[-2:] == [("end", "fit"), "teardown"]
    assert watcher.told.count(("begin", "iteration")) == watcher.told.count(("end", "iteration"))
    assert len(watcher.models) == model.n_iter_
    np.testing.assert_array_equal(watcher.models[-1].predict(X), model.predict(X))
    assert not np.array_equal(watcher.models[0].coef_, model.coef_)


def test_a_callback_of_scikit_learn_may_stop_the_fit():
    X, y = data("iris")
    watcher = Watcher(stop_after=3)
    model = SoftmaxClassifier().set_callbacks(watcher).fit(X, y)
    assert model.n_iter_ == 3
    assert watcher.told[-1] == "teardown"


def test_callbacks_end_what_they_began_when_a_fit_fails():
    X, y = data("iris")
    watcher = Watcher()
    with pytest.raises(ValueError, match="y must hold at least two classes"):
        SoftmaxClassifier().set_callbacks(watcher).fit(X, np.zeros(len(y)))
    assert watcher.told == ["setup", "teardown"]


def test_a_search_with_callbacks_fits_as_usual():
    X, y = data("iris")
    search = GridSearchCV(SoftmaxClassifier(), {"C": [0.1, 1.0]}, cv=2)
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    search.set_callbacks(monitor).fit(X, y)
    assert search.best_estimator_.score(X, y) > 0.9
    assert not hasattr(search.best_estimator_, "_callback_fit_ctx")


def test_sample_weights_are_routed():
    X, y = data("iris")
    weight = np.random.default_rng(0).uniform(size=len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        step = SoftmaxClassifier(tol=1e-12).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), step).fit(
            X, y, sample_weight=weight
        )
    direct = SoftmaxClassifier(tol=1e-12).fit(StandardScaler().fit_transform(X), y, sample_weight=weight)
    np.testing.assert_array_equal(routed[-1].coef_, direct.coef_)


@pytest.mark.parametrize("soft", [False, True])
def test_early_stopping_keeps_the_coefficients_with_the_lowest_validation_loss(soft):
    X, y = data("digits")
    targets = np.eye(10)[y] if soft else y
    model = SoftmaxClassifier(C=1e4, early_stopping=True, validation_fraction=0.3, random_state=0).fit(X, targets)
    parts = train_test_split(np.arange(len(y)), test_size=0.3, stratify=None if soft else y, random_state=0)
    assert model.n_iter_ == len(model.validation_curve_) == int(np.argmin(model.validation_curve_)) + 6
    held_back = parts[1]
    loss = cross_entropy(model.decision_function(X[held_back]), y[held_back])
    assert loss == pytest.approx(min(model.validation_curve_), rel=1e-9)
    whole = SoftmaxClassifier(C=1e4, max_iter=300).fit(X[parts[0]], y[parts[0]])
    assert loss < cross_entropy(whole.decision_function(X[held_back]), y[held_back])


def test_early_stopping_that_never_stops_changes_little():
    X, y = data("iris")
    model = SoftmaxClassifier(early_stopping=True, n_iter_no_change=1000, random_state=0).fit(X, y)
    kept, _ = train_test_split(np.arange(len(y)), test_size=0.1, stratify=y, random_state=0)
    whole = LogisticRegression(tol=1e-8).fit(X[kept], y[kept])
    assert model.score(X, y) == pytest.approx(whole.score(X, y), abs=0.03)


def test_early_stopping_of_a_fit_without_iterations_keeps_the_start():
    X, y = data("iris")
    model = SoftmaxClassifier(early_stopping=True, tol=0.9).fit(X, y)
    assert model.n_iter_ == 0
    assert not model.coef_.any()
    assert not hasattr(model.set_params(early_stopping=False).fit(X, y), "validation_curve_")


def test_rare_classes_may_stop_early():
    X, y = data("iris")
    labels = y.copy()
    labels[0] = 7
    model = SoftmaxClassifier(early_stopping=True, random_state=0).fit(X, labels)
    assert model.score(X, labels) > 0.8


@pytest.mark.parametrize("masked", ["X", "y", "sample_weight"])
def test_masked_arrays_are_refused(masked):
    X, y = data("iris")
    arguments = {"X": X, "y": y, "sample_weight": np.ones(len(y))}
    arguments[masked] = np.ma.masked_array(arguments[masked])
    with pytest.raises(TypeError, match=f"{masked} must be an array without a mask"):
        SoftmaxClassifier().fit(**arguments)


def test_a_fit_that_fails_changes_nothing():
    X, y = data("iris")
    model = SoftmaxClassifier().fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="y must hold at least two classes"):
        model.fit(X[:, :2], np.zeros(len(y)))
    np.testing.assert_array_equal(model.predict(X), before)


WRONG_STOPPING = [
    ({"early_stopping": 1}, "early_stopping must be True or False, got 1"),
    ({"validation_fraction": 1.0}, "validation_fraction must be a number between 0 and 1, got 1.0"),
    ({"n_iter_no_change": 0}, "n_iter_no_change must be an integer of at least 1, got 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_STOPPING)
def test_wrong_parameters_say_what_is_expected(changes, message):
    X, y = data("iris")
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier(**changes).fit(X, y)


@pytest.mark.thorough
def test_early_stopping_does_not_copy_features_of_a_mapped_file(tmp_path):
    random = np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (400_000, 64))
    for rows in np.array_split(np.arange(len(mapped)), 20):
        mapped[rows[0] : rows[-1] + 1] = random.normal(size=(len(rows), 64))
    y = (mapped[:, 0] > 0) * 1 + (mapped[:, 1] > random.normal(size=len(mapped)))
    weight = random.integers(3, size=len(y)) * 1.0
    options = {"C": 1e-3, "early_stopping": True, "max_iter": 4, "tol": 1e-3, "random_state": 0}
    small = slice(0, 5000)
    copied = SoftmaxClassifier(**options).fit(np.array(mapped[small]), y[small], weight[small])
    in_place = SoftmaxClassifier(**options).fit(mapped[small], y[small], weight[small])
    np.testing.assert_allclose(in_place.coef_, copied.coef_, rtol=1e-4, atol=1e-6)
    assert in_place.validation_curve_ == pytest.approx(copied.validation_curve_, rel=1e-5)
    peaks = []
    for early_stopping in (False, True):
        tracemalloc.start()
        try:
            SoftmaxClassifier(**options | {"early_stopping": early_stopping}).fit(mapped, y, weight)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.6 * mapped.nbytes, peaks  # copies of both parts would take 1.0 of it
