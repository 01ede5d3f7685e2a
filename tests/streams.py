# ruff: noqa: N803, N806  X and C are scikit-learn's names
"""Data and helpers of the tests of learning from a stream."""

import numpy as np
from scipy import sparse

from data_sets import data
from softmaxloss import linear_cross_entropy
from softmaxloss.stream_past import Learned, Past


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
    """Return 6,000 rows of words, in which the first features are frequent, and labels."""
    X = _rows_of_words(np.minimum(np.random.default_rng(0).zipf(1.4, size=(6000, 30)) - 1, 2999))
    return X, drawn(5 * X, 10)


def rare_words(n_classes=5):
    """Return 300 rows of words and their labels, sorted by class."""
    X = _rows_of_words(np.random.default_rng(0).integers(3000, size=(300, 30)))
    y = drawn(3 * X, n_classes)
    order = np.argsort(y, kind="stable")
    return X[order], y[order]


def _rows_of_words(columns):
    """Return how often each of 3,000 features stands in a row of `columns`, with rows scaled to unit length."""
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    counts = sparse.csr_array((np.ones(columns.size), (rows, columns.ravel())), (len(columns), 3000))
    return sparse.csr_array(counts.multiply(1 / np.sqrt(counts.multiply(counts).sum(axis=1))[:, None]))


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


def known(random, n_features, n_rows, moments, **changes):
    """Return random coefficients with a past."""
    slopes = random.normal(size=(n_rows, n_features)), random.normal(size=n_rows) / 10
    past = Past(20.0, 1.5, 0.1, *slopes, moments, fit_intercept=True)._replace(**changes)
    return Learned(random.normal(size=(n_rows, n_features)), random.normal(size=n_rows), past)
