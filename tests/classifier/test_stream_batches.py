# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""What a batch may be: without weight, empty, of one class, interrupted; and what is wrong with one."""

import pickle

import numpy as np
import pytest

from softmaxloss import SoftmaxClassifier
from softmaxloss.stream_past import Past
from streams import shuffled, streamed


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
