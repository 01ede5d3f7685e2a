# ruff: noqa: N806  X is scikit-learn's name
"""The course of a fit: where it starts, what it tells, how it is stopped, and what it warns of."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from data_sets import data
from softmaxloss import SoftmaxClassifier


def test_warm_start_continues_where_the_fit_stopped():
    X, y = data("digits")
    whole = SoftmaxClassifier(tol=1e-12).fit(X, y)
    model = SoftmaxClassifier(warm_start=True, max_iter=40, tol=1e-12)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    reached = model.loss_curve_[-1]
    model.set_params(max_iter=1000).fit(X, y)
    assert model.loss_curve_[0] == pytest.approx(reached)
    assert 0 < model.n_iter_ < whole.n_iter_
    assert model.loss_curve_[-1] == pytest.approx(whole.loss_curve_[-1])
    model.fit(X, y)
    assert model.n_iter_ == 0


def test_warm_start_without_intercepts_forgets_those_of_the_previous_fit():
    X, y = data("iris")
    model = SoftmaxClassifier(warm_start=True, tol=1e-10).fit(X + 1, y).set_params(fit_intercept=False).fit(X + 1, y)
    fresh = SoftmaxClassifier(fit_intercept=False, tol=1e-10).fit(X + 1, y)
    assert not model.intercept_.any()
    np.testing.assert_allclose(model.coef_, fresh.coef_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", ["classes", "features"])
def test_warm_start_on_other_data_is_refused(change):
    X, y = data("iris")
    model = SoftmaxClassifier(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True needs the classes and features of the previous fit"):
        model.fit(X[y < 2], y[y < 2]) if change == "classes" else model.fit(X[:, :2], y)


def test_callback_is_told_each_iteration():
    X, y = data("iris")
    calls = []
    model = SoftmaxClassifier().fit(X, y, callback=lambda *call: calls.append(call))
    assert calls == list(enumerate(model.loss_curve_))[1:]


def test_keyboard_interrupt_reaches_the_caller():
    X, y = data("iris")

    def interrupt(iteration, _objective):
        if iteration == 3:
            raise KeyboardInterrupt

    model = SoftmaxClassifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, callback=interrupt)
    assert not hasattr(model, "coef_")


def test_stop_iteration_ends_the_fit_without_a_warning():
    X, y = data("iris")

    def stop(iteration, _objective):
        if iteration == 3:
            raise StopIteration

    model = SoftmaxClassifier().fit(X, y, callback=stop)
    assert model.n_iter_ == 3
    assert model.score(X, y) > 0.8


def test_verbose_prints_a_line_per_iteration(capsys):
    X, y = data("iris")
    model = SoftmaxClassifier(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_ + 1
    assert lines[0] == "iteration    0  objective 1.098612289"


def test_too_few_iterations_warn_and_say_what_to_do():
    X, y = data("digits")
    with pytest.warns(ConvergenceWarning, match=r"stopped after max_iter=5 iterations.*standardise.*raise max_iter"):
        model = SoftmaxClassifier(max_iter=5).fit(X, y)
    assert model.n_iter_ == 5


def test_limit_of_float32_warns_where_it_matters():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"at the precision of float32.*or pass X as float64"):
        SoftmaxClassifier().fit((X + 1e5).astype(np.float32), y)


@pytest.mark.parametrize(("penalised", "elsewhere"), [(True, 0.0), (False, 0.5)])
def test_the_penalty_alone_moves_coefficients_of_features_without_values(penalised, elsewhere):
    random = np.random.default_rng(0)
    X, y = sparse.random(300, 2000, 0.01, "csr", random_state=random), random.integers(3, size=300)
    wide = sparse.hstack([X, sparse.csr_array((300, 1000))], format="csr")
    narrow = SoftmaxClassifier(tol=1e-12).fit(X, y)
    model = SoftmaxClassifier(tol=1e-12, warm_start=True).fit(wide, y)
    np.testing.assert_array_equal(model.coef_[:, 2000:], 0)
    np.testing.assert_allclose(model.coef_[:, :2000], narrow.coef_, rtol=1e-5, atol=1e-7)

    model.coef_[:, 2000:] = 0.5
    with warnings.catch_warnings(action="ignore"):
        model.set_params(C=1.0 if penalised else np.inf, max_iter=2).fit(wide, y)
    np.testing.assert_array_equal(model.coef_[:, 2000:], elsewhere)
