"""Tests of the classifier compute its products on one thread."""

import pytest


@pytest.fixture(autouse=True)
def _one_blas_thread(one_blas_thread):
    pass
