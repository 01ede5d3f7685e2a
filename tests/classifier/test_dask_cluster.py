# ruff: noqa: N803, N806  X is scikit-learn's name
"""The classifier on a Dask cluster of two worker processes, one of which may die."""

import logging
import os
import signal
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import softmaxloss
from softmaxloss import objective
from thorough import thorough

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from softmaxloss.dask import SoftmaxClassifier  # noqa: E402

TIGHT = {"tol": 1e-10}  # beyond about 1e-15 the rounding of the objective decides where a fit ends


@pytest.fixture(scope="module")
def client():
    """A client of two worker processes with one thread each; Dask's log stays silent, as workers die on purpose."""
    quiet = {"logging": {"distributed": "critical"}}
    with dask.config.set(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ports in use, and of processes that are forked beside threads
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        )
        with cluster, distributed.Client(cluster) as connected:
            yield connected


def blocks(n_rows, n_features, n_blocks, density=None):
    """Features that workers make, from a seed for each partition; sparse ones at a density."""

    def block(seed):
        if density is None:
            return np.random.default_rng(seed).normal(size=(n_rows // n_blocks, n_features))
        rng = np.random.default_rng(seed)  # a mere seed would permute all places, in 10 GB
        return sparse.random(n_rows // n_blocks, n_features, density, "csr", random_state=rng)

    made = [dask.delayed(block)(seed) for seed in range(n_blocks)]
    shape = (n_rows // n_blocks, n_features)
    meta = np.empty((0, 0)) if density is None else sparse.csr_matrix((0, 0))
    return da.concatenate([da.from_delayed(one, shape, np.float64, meta=meta) for one in made])


def drawn(X, n_classes, seed=0):
    """Labels drawn from the softmax of a random linear layer, in chunks of rows."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(X.shape[1], n_classes)) / (3 if X.shape[1] < 1000 else 0.2)
    logits = X @ weight
    return (logits + random.gumbel(size=logits.shape)).argmax(1)


def killing(client, iteration):
    """A callback that kills a worker process after an iteration."""

    def callback(now, _objective):
        if now == iteration:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    return callback


@pytest.mark.parametrize(
    ("shape", "density", "options"),
    [
        ((20_000, 10, 5), None, TIGHT),
        thorough((2000, 3000, 4), 0.01, TIGHT),
        ((4000, 5, 1000), None, {"max_iter": 3}),
        thorough((1_000_000, 50, 10), None, TIGHT),
        thorough((100_000, 100_000, 20), 1e-3, TIGHT),
        thorough((50_000, 8, 10_000), None, {"max_iter": 3}),
    ],
    ids=str,
)
def test_coefficients_are_those_of_a_single_machine_though_a_worker_dies(client, monkeypatch, shape, density, options):
    monkeypatch.setattr(objective, "MANY_CLASSES", np.inf)  # else the single machine begins in single precision
    n_rows, n_features, n_classes = shape
    X = blocks(n_rows, n_features, 8, density).persist()
    data = [block.compute() for block in X.to_delayed().ravel()]
    whole = np.concatenate(data) if density is None else sparse.vstack(data, format="csr")
    y = drawn(whole, n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        single = softmaxloss.SoftmaxClassifier(**options).fit(whole, y)
        client.wait_for_workers(2)  # an earlier test may have killed one
        pids = client.run(os.getpid)
        model = SoftmaxClassifier(**options).fit(X, y, callback=killing(client, 2))
    assert client.run(os.getpid) != pids
    np.testing.assert_array_equal(model.classes_, single.classes_)
    close = 1e-8 * np.abs(single.coef_).max()
    np.testing.assert_allclose(model.coef_, single.coef_, rtol=0, atol=close)
    np.testing.assert_allclose(model.intercept_, single.intercept_, rtol=0, atol=close)


def test_predictions_are_made_by_the_workers(client):  # noqa: ARG001
    X = blocks(2000, 5, 4).persist()
    y = drawn(X.compute(), 3)
    model = SoftmaxClassifier().fit(X, y)
    predicted = model.predict(X).persist()
    np.testing.assert_array_equal(predicted.compute(), model.predict(X.compute()))
    assert float(model.score(X, y)) == pytest.approx(model.score(X.compute(), y))
