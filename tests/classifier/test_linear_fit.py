# ruff: noqa: N803  C is scikit-learn's name
"""The objective that the classifier minimises, and the coordinates in which it does."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from softmaxloss import moments
from softmaxloss.linear_fit import Coordinates
from softmaxloss.objective import Objective


def problem(n_classes, *, C=0.3):
    """An objective of correlated, offset features, and a point."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)) + 10
    objective = Objective(
        features,
        rng.integers(n_classes, size=200),
        sample_weight=rng.integers(0, 3, 200) * 1.0,
        class_weight=rng.uniform(0.5, 2, n_classes),
        label_smoothing=0.1,
        C=C,
    )
    n_rows = 1 if n_classes == 2 else n_classes
    return objective, rng.normal(size=(n_rows, 4)) / 2, rng.normal(size=n_rows)


def by_step(objective, point, step):
    """Value and gradient at a step away from the point, in its coordinates."""
    coordinates = Coordinates(objective, *point)
    value, *gradients = objective(*coordinates.point(step))
    return value, coordinates.gradient(*gradients)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_gradient_by_the_step_is_the_finite_difference(n_classes):
    objective, *point = problem(n_classes)
    rng = np.random.default_rng(1)
    step, direction = rng.normal(size=(2, point[0].size + point[1].size))
    ahead, behind = (by_step(objective, point, step + h * direction)[0] for h in (1e-5, -1e-5))
    gradient = by_step(objective, point, step)[1]
    assert gradient @ direction == pytest.approx((ahead - behind) / 2e-5, rel=1e-7)


@pytest.mark.parametrize(
    ("option", "value"),
    [("sample_weight", np.full(200, 1e307)), ("class_weight", np.array([1, -1, 1])), ("label_smoothing", 2.0)],
)
def test_options_that_the_loss_refuses_are_refused_before_the_first_step(option, value):
    objective, *_ = problem(3)
    with pytest.raises(ValueError, match=option):
        Objective(objective.features, objective.targets, C=1, **objective.options | {option: value})


def hessian(objective, point):
    size = point[0].size + point[1].size
    columns = [by_step(objective, point, h * row)[1] for row in np.eye(size) for h in (1e-5, -1e-5)]
    return np.array([(ahead - behind) / 2e-5 for ahead, behind in zip(columns[::2], columns[1::2], strict=True)])


def test_curvature_for_two_classes_is_1_everywhere():
    objective, *point = problem(2)
    np.testing.assert_allclose(hessian(objective, point), np.eye(5), atol=1e-6)


def test_curvature_at_equal_probabilities_is_1_in_all_directions_that_matter():
    objective, coef, intercept = problem(5)
    # the direction that adds the same to all classes has only the penalty
    curvature = np.linalg.eigvalsh(hessian(objective, (0 * coef, 0 * intercept)))
    np.testing.assert_allclose(curvature[5:], 1, atol=1e-6)
    assert np.all(curvature[:5] < 1)


def test_features_may_be_collinear_constant_and_of_any_scale():
    objective, _, intercept = problem(3, C=1e20)
    objective.features = np.hstack([objective.features, objective.features[:, :1] * 1e9, np.ones((200, 1))])
    value, gradient = by_step(objective, (np.zeros((3, 6)), intercept), np.ones(3 * 7))
    assert np.isfinite([value, *gradient]).all()


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_moments_of_parts_merge_to_those_of_all_rows(form, centred, whiten, monkeypatch):
    if not whiten:
        monkeypatch.setattr(moments, "MAX_WHITENED", 0)
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(200, 4)) + 100, rng.uniform(0, 2, 200)
    weight[:20] = 0
    ends = [0, 0, 20, 120, 121, 200]
    merged = reduce(
        moments.Moments.merge,
        [moments.moments_of(form(features[a:b]), weight[a:b], centred=centred) for a, b in pairwise(ends)],
    )
    center = np.average(features, axis=0, weights=weight) * centred
    squares = (features - center).T @ (weight[:, None] * (features - center))
    assert merged.total == pytest.approx(weight.sum())
    np.testing.assert_allclose(merged.center, center)
    np.testing.assert_allclose(merged.covariance, squares if whiten else squares.diagonal(), rtol=1e-9, atol=1e-7)
