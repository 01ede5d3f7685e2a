"""The classifier on Dask arrays and dataframes, on any Dask scheduler: ``pip install "softmaxloss[dask]"``."""

try:
    import dask.array  # noqa: F401
    import sklearn  # noqa: F401  the estimator is scikit-learn's
except ImportError as error:
    raise ImportError(f'softmaxloss.dask needs {error.name}: pip install "softmaxloss[dask]"') from error

from softmaxloss.dask.classifier import SoftmaxClassifier

__all__ = ["SoftmaxClassifier"]
