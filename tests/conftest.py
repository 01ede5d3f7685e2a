"""What tests found out is printed at the end, even what ran in another process: record_property("found", text)."""

import gc
import os
import shutil
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import softmaxloss as sl
import thorough

# Threads of OpenMP, which PyTorch and scikit-learn compute on, would wait for their next work awake, on the processors
# that other workers of pytest need: 27 seconds instead of 4 for a test of small tensors. It is read when they load.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

# Workers of xdist get one file after the other in this order, the longest first, so that all end at about the same
# time. Of two, one compiles most kernels, and so the steps that kernels share only once; meanwhile the other runs what
# needs none, or those that are on the disk.
FIRST = [
    "loss/test_laws.py",
    "array/test_array_transforms.py",
    "jax_face/test_jax_optax.py",
    "loss/test_exponential.py",
    "jax_face/test_jax_laws.py",
    "jax_face/test_jax_transforms.py",
    "jax_face/test_jax_linear.py",
    "classifier/test_dask_cluster.py",
    "pytorch/test_compiled.py",
    "loss/test_second_order.py",
    "cli/test_cli_process.py",
    "loss/test_summary.py",
    "system/test_site.py",
    "explanation/test_explorer.py",
    "system/test_determinism.py",
    "classifier/test_classifier.py",
    "pytorch/test_derivatives.py",
    "head/test_sampled.py",
    "loss/test_evaluation.py",
    "loss/test_log_probabilities.py",
    "system/test_processes.py",
    "pytorch/test_distributed.py",
    "system/test_kernel_cache.py",
    "jax_face/test_jax_kernels.py",
    "loss/test_accuracy.py",
    "cli/test_cli_tables.py",
    "pytorch/test_opinfo.py",
    "jax_face/test_jax_errors.py",
    "jax_face/test_jax_keras.py",
    "cli/test_cli_errors.py",
    "cli/test_cli_pictures.py",
    "head/test_head.py",
    "explanation/test_explain.py",
]
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}


def pytest_configure(config):
    config.option.loadscopereorder = False  # else xdist begins with the files of the most tests, not the longest ones
    thorough.MADE = config.option.markexpr != "not thorough"


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage among the tests and the libraries that they import, and less often for what tests leave."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def one_blas_thread(monkeypatch):
    """Small products of matrices do not gain from a second thread, which on a busy machine costs much."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # in processes that the test starts
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def threads_as_before():
    """Whatever number of threads the test sets, the next test has the number from before."""
    before = sl.get_num_threads()
    yield
    sl.set_num_threads(before)


@pytest.fixture
def count_of_examples(request, record_property):
    """The end of the run says how many examples a fuzzed test has tried."""
    from strategies import TRIED

    yield
    name = request.node.originalname
    record_property("found", f"{TRIED[name]:,} examples of {name}")


def pytest_terminal_summary(terminalreporter):
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    properties = (pair for report in reports for pair in getattr(report, "user_properties", []))
    found = dict.fromkeys(text for name, text in properties if name == "found")
    if found:
        terminalreporter.section("found")
        for text in found:
            terminalreporter.write_line(text)
