"""What tests found out is printed at the end, even what ran in another process: record_property("found", text)."""

import os
import shutil
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import softmaxloss as sl

# Threads of OpenMP, which PyTorch and scikit-learn compute on, would wait for their next work awake, on the processors
# that other workers of pytest need: 27 seconds instead of 4 for a test of small tensors. It is read when they load.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

# Workers of xdist get one file after the other in this order, the longest first, so that all end at about the same
# time. One of two compiles most kernels from the start; the other needs few until they are on the disk.
FIRST = [
    "loss/test_laws.py",
    "system/test_site.py",
    "loss/test_second_order.py",
    "explanation/test_explorer.py",
    "cli/test_cli_data.py",
    "explanation/test_explain.py",
    "system/test_bounds.py",
    "system/test_kernel_cache.py",
    "loss/test_errors.py",
    "system/test_processes.py",
    "cli/test_cli_process.py",
    "system/test_float_errors.py",
    "cli/test_cli_tables.py",
    "loss/test_combinations.py",
    "loss/test_accuracy.py",
    "loss/test_fuzz_loss.py",
    "system/test_numba_internals.py",
    "system/test_determinism.py",
    "loss/test_summary.py",
    "loss/test_option_accuracy.py",
    "system/test_accuracy_document.py",
    "system/test_benchmark_command.py",
    "pytorch/test_opinfo.py",
]
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}


def pytest_configure(config):
    config.option.loadscopereorder = False  # else xdist begins with the files of the most tests, not the longest ones


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


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
