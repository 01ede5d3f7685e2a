# ruff: noqa: N806  X is scikit-learn's name
"""What the estimator refuses, by name: parameters, weights and data."""

import re

import numpy as np
import pytest

from data_sets import data
from softmaxloss import SoftmaxClassifier

WRONG_PARAMETERS = [
    ("C", 0), ("C", -1.0), ("C", np.nan), ("C", "1"), ("C", True),
    ("max_iter", 0), ("max_iter", 10.0), ("tol", -1e-9), ("tol", None),
    ("fit_intercept", 1), ("class_weight", "balance"), ("class_weight", [1, 2, 3]),
    ("label_smoothing", -0.1), ("label_smoothing", 1.1), ("class_weight", {0: -1}),
]  # fmt: skip


@pytest.mark.parametrize(("parameter", "value"), WRONG_PARAMETERS)
def test_bad_parameters_are_named(parameter, value):
    X, y = data("iris")
    with pytest.raises(ValueError, match=f"^{parameter} must be .*, got {value!r}$".replace("[", r"\[")):
        SoftmaxClassifier(**{parameter: value}).fit(X, y)


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf, "a", None])
def test_bad_class_weights_are_named_with_their_class(weight):
    X, y = data("iris")
    message = f"class_weight must be a finite number of at least 0 for each class, got {{0: {weight!r}}}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SoftmaxClassifier(class_weight={0: weight, 1: 2.0}).fit(X, y)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "factor"), [(np.float64, 1e200), (np.float32, 1e30)])
def test_features_too_large_to_square_are_refused(dtype, factor, sign):
    X, y = data("iris", standardised=False)
    X = (sign * factor * X).astype(dtype)
    message = rf"^X must hold values small enough to square, at most .* for {X.dtype}, got 7.9e\+.*; standardise"
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier().fit(X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_just_small_enough_to_square_are_fitted(dtype):
    X, y = data("iris")
    limit = np.sqrt(np.finfo(dtype).max) / 2
    X = (X / np.abs(X).max() * limit * 0.99).astype(dtype)
    assert SoftmaxClassifier().fit(X, y).score(X, y) > 0.97


WRONG_DATA = [
    ({"y": np.zeros(150)}, "y must hold at least two classes, got one class"),
    ({"sample_weight": -np.ones(150)}, "[Nn]egative values"),
    ({"sample_weight": np.ones(3)}, "sample_weight.shape"),
    ({"class_weight": {0: 0, 1: 0, 2: 0}}, "sample_weight times class_weight must be above 0"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_DATA)
def test_bad_data_are_refused(change, message):
    X, y = data("iris")
    model = SoftmaxClassifier(class_weight=change.get("class_weight"))
    with pytest.raises(ValueError, match=message):
        model.fit(X, change.get("y", y), change.get("sample_weight"))


@pytest.mark.parametrize("faulty", [np.nan, -1.0])
def test_soft_labels_that_are_no_distribution_are_refused(faulty):
    X, y = data("iris")
    soft = np.eye(3)[y]
    soft[7, 1] = faulty
    with pytest.raises(ValueError, match="contains NaN" if np.isnan(faulty) else r"not negative, got -1.0 at .*7, 1"):
        SoftmaxClassifier().fit(X, soft)
