"""What tests of the command share."""

import pytest
from matplotlib.figure import Figure

from softmaxloss.cli import pictures


@pytest.fixture(scope="module")
def empty_pictures():
    """Drawing takes three quarters of a training; test_cli_pictures.py and test_cli_process.py look at pictures."""
    empty = pictures._png(Figure(figsize=(1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_png", lambda _: empty)
        yield


@pytest.fixture(autouse=True)
def _one_blas_thread(one_blas_thread):
    pass
