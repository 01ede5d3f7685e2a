# ruff: noqa: N806  X is scikit-learn's name
"""Features in a file that is mapped to memory are fitted in place, those in tables as they come."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from data_sets import data
from softmaxloss import SoftmaxClassifier, objective

PROGRAM = """
import resource, sys
import numpy as np
from softmaxloss import SoftmaxClassifier

features, labels = (np.load(path, mmap_mode="r") for path in sys.argv[1:3])
SoftmaxClassifier(max_iter=1).fit(features[:20_000], labels[:20_000])  # loads, compiles and starts all that is needed


def own():
    "Bytes of memory that no file backs."
    return int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()


limit = own() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
model = SoftmaxClassifier(max_iter=int(sys.argv[4])).fit(features, labels)
np.savez(sys.argv[5], coef=model.coef_, intercept=model.intercept_)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="Linux limits the memory of a process")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [10, 70])  # with 64 or more, float64 features in memory get a copy
def test_a_fit_on_a_mapped_file_takes_less_memory_than_the_file(tmp_path, monkeypatch, dtype, n_classes):
    random = np.random.default_rng(0)
    shape = (200_000, 100 if dtype == np.float64 else 200)
    X = random.normal(size=shape).astype(dtype)
    y = (X[:, :20] @ random.normal(size=(20, n_classes)) / 3 + random.gumbel(size=(len(X), n_classes))).argmax(1)
    paths = [tmp_path / "features.npy", tmp_path / "labels.npy"]
    np.save(paths[0], X)
    np.save(paths[1], y)
    allowed = X.nbytes // 2
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *paths, allowed, 3, tmp_path / "model.npz"]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    monkeypatch.setattr(objective, "MANY_CLASSES", np.inf)
    with pytest.warns(ConvergenceWarning):
        in_memory = SoftmaxClassifier(max_iter=3).fit(X, y)
    with np.load(tmp_path / "model.npz") as model:
        np.testing.assert_allclose(model["coef"], in_memory.coef_, rtol=1e-4 if dtype == np.float32 else 1e-9)
        np.testing.assert_allclose(model["intercept"], in_memory.intercept_, rtol=1e-4 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("library", ["pyarrow", "polars"])
def test_tables_are_features_with_names(library):
    module = pytest.importorskip(library)
    X, y = data("iris")
    columns = {name: X[:, i] for i, name in enumerate("abcd")}
    make = module.table if library == "pyarrow" else module.DataFrame
    model = SoftmaxClassifier().fit(make(columns), y)
    assert model.feature_names_in_.tolist() == list("abcd")
    np.testing.assert_allclose(model.coef_, SoftmaxClassifier().fit(X, y).coef_, rtol=1e-9)
    assert model.score(make(columns), y) > 0.9
