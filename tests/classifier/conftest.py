"""One thread for products of matrices in these tests."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _one_blas_thread():
    """Products as small as these do not gain from a second thread, which on a busy machine costs much."""
    with threadpool_limits(1, "blas"):
        yield
