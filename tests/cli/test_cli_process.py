"""The command as its own process: quick help, Ctrl-C, closed pipes, and digits from start to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from softmaxloss.cli import main
from thorough import thorough

FULL = Path("/dev/full")
# Other tests that run at the same time use the processors as well.
PATIENCE = 3 if "PYTEST_XDIST_WORKER" in os.environ else 1
COMMAND = [sys.executable, "-c", "from softmaxloss.cli import main; raise SystemExit(main())"]
# Fits the real classifier over and over, since on data of any bearable size one fit is over too soon.
ENDLESS = """
from softmaxloss import SoftmaxClassifier
from softmaxloss.cli import main
fit = SoftmaxClassifier.fit
def fit_for_ever(*arguments, **options):
    while True:
        fit(*arguments, **options)
SoftmaxClassifier.fit = fit_for_ever
raise SystemExit(main())
"""


def run(*arguments, cwd, **options):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_help_is_quick_and_loads_no_heavy_library(tmp_path):
    code = (
        "import sys; from softmaxloss.cli import main; code = main(['--help']); "
        "loaded = {'matplotlib', 'sklearn', 'numba', 'polars', 'scipy'} & set(sys.modules); "
        "assert not loaded, loaded; raise SystemExit(code)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 1 * PATIENCE
    for command in ("train", "evaluate", "predict", "--version"):
        assert command in done.stdout


def test_digits_are_learned_within_the_time_promised(tmp_path):
    started = time.monotonic()
    done = run("train", "digits", cwd=tmp_path)
    assert time.monotonic() - started < 20 * PATIENCE
    assert (done.returncode, done.stderr) == (0, "")
    accuracy = next(line.split() for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert float(accuracy[2].rstrip("%")) >= 96


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell the peak of memory")
def test_training_on_a_large_csv_takes_at_most_40_bytes_for_each_number(tmp_path):
    """A float64 takes 8 bytes and a feature 4. The text of such a cell takes 20 bytes."""
    n_rows, n_columns = 100_000, 30
    cells = np.random.default_rng(0).normal(size=(n_rows, n_columns)).astype(str).tolist()
    lines = [",".join([*row, "ab"[row[0] < "0"]]) for row in cells]
    header = ",".join([*(f"x{k}" for k in range(n_columns)), "kind"])
    for name, count in (("small", 2000), ("large", n_rows)):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines[:count]]))
    code = """
from pathlib import Path
from softmaxloss.cli import main
for name in ("small", "large"):
    assert main(["train", f"{name}.csv", "--quiet", "--max-iter", "5"]) == 0
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    small, large = (1024 * int(line) for line in done.stdout.splitlines() if line.isdigit())
    assert large - small < 40 * n_rows * n_columns


@pytest.mark.parametrize("wait", [thorough(0), 0.3, thorough(1.5)])
def test_ctrl_c_stops_training_within_a_second_and_leaves_nothing(tmp_path, wait):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "big.npz", X=rng.normal(size=(20000, 50)).astype("f4"), y=rng.integers(0, 50, 20000))
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "train", "big.npz"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("big.npz: 20000 rows")
        time.sleep(wait)
        assert process.poll() is None
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - started < 1.5 * PATIENCE
    assert process.returncode == 130
    assert error == "softmaxloss: stopped by Ctrl-C\n"
    assert [path.name for path in tmp_path.iterdir()] == ["big.npz"]


def test_ctrl_c_works_even_if_compiled_code_swallows_it(tmp_path):
    """Numba's compiler calls back into Python, where KeyboardInterrupt is dropped; this block drops it for good."""
    code = """
import time
from softmaxloss.cli.interrupt import prompt_interrupt
with prompt_interrupt():
    while True:
        try:
            print("ready", flush=True)  # in here, as the signal may come at once
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - started < 1.5 * PATIENCE
    assert process.returncode == 130
    assert error.strip() == "softmaxloss: stopped by Ctrl-C"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    assert main(["train", "iris", "--out", str(folder / "model")]) == 0
    return folder


def run_into(output, folder, line="predict model iris", **environment):
    return subprocess.run(
        [*COMMAND, *line.split()],
        cwd=folder,
        env=os.environ | environment,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("line", ["predict model iris", thorough("evaluate model iris"), "predict --help"])
def test_a_closed_pipe_ends_silently(trained, line):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = run_into(pipe, trained, line)
    assert (done.stderr, done.returncode) == ("", 141)


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", thorough("1")])
@pytest.mark.parametrize(
    "line", ["predict model iris", *map(thorough, ["evaluate model iris", "train iris --out full"])]
)
def test_a_full_standard_output_is_one_line_that_names_it(trained, line, unbuffered):
    with FULL.open("wb") as full:
        done = run_into(full, trained, line, PYTHONUNBUFFERED=unbuffered)
    assert (done.stderr, done.returncode) == ("softmaxloss: standard output: No space left on device\n", 2)


def test_predicting_into_a_closed_standard_output_is_refused(trained):
    code = "import sys; sys.stdout = None; from softmaxloss.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "predict", "model", "iris"]
    done = subprocess.run(command, cwd=trained, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("softmaxloss: standard output is closed; name a file with --out\n", 2)


@pytest.mark.parametrize(
    "line", [*map(thorough, ["predict model iris", "evaluate model iris"]), "train iris --out none"]
)
def test_a_number_of_threads_that_is_none_is_one_line(trained, line):
    done = run_into(subprocess.PIPE, trained, line, SOFTMAXLOSS_NUM_THREADS="abc")
    got = "the environment variable SOFTMAXLOSS_NUM_THREADS must be a positive integer, got 'abc'"
    message = f"{got}; unset it to use all processors"
    assert (done.stdout, done.stderr, done.returncode) == ("", f"softmaxloss: {message}\n", 2)
    assert not (trained / "none").exists()
