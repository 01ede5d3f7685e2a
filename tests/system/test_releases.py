"""What is released works in an empty environment: wheels with machine code, and the lowest versions of dependencies."""

import os
import platform
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import softmaxloss
from benchmarks.first_call import DTYPES, KINDS, first_call
from softmaxloss.kernels.machine import processor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
pytestmark = pytest.mark.thorough


def run(*command, **environment):
    """Run a command away from the source tree, so that it uses what is installed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=Path.home(), env=inherited | environment, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def new_environment(folder, *requirements):
    """Return the Python of a new environment in which something is installed."""
    run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    return python


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Return the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    source, wheel = sorted(folder.iterdir(), key=lambda path: path.suffix != ".gz")
    return source, wheel


def test_the_distributions_are_well_formed_and_small(distributions):
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions))
    source, wheel = distributions
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"softmaxloss-{softmaxloss.__version__}-{python}-{python}-")
    assert ("manylinux_2_17_" in wheel.name) == (platform.libc_ver()[0] == "glibc")
    assert source.stat().st_size < 5e6
    assert wheel.stat().st_size < 25e6
    assert any(name.endswith(".nbc") for name in zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def python_with_wheel(distributions, tmp_path_factory):
    return new_environment(tmp_path_factory.mktemp("wheel") / "venv", f"{distributions[1]}[cli]", "ml_dtypes")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_from_a_wheel_the_first_call_compiles_nothing_and_takes_at_most_a_second(kind, dtype, python_with_wheel):
    _, busy, compiled = first_call(kind, dtype, python_with_wheel)
    assert compiled == 0
    assert busy < 1.0  # of processor time: the machine may have other work


RESULTS = """
import hashlib, sys
from softmaxloss.kernels.machine import processor
processor.LEVEL = sys.argv[1] or None
import ml_dtypes
import numpy as np
import softmaxloss as sl
from everything import everything, make_problem

digest = hashlib.sha256()
for dtype in ("float32", "float64", "float16", "bfloat16"):
    for axis, batch, n_classes in ((-1, (4, 3), 2100), (1, (2, 3, 5), 20), (-1, (70,), 7)):
        for softcap in (None, 3.0):
            for result in everything(make_problem(dtype, axis, batch, n_classes, softcap)).values():
                digest.update(np.asarray(result).tobytes())
    features, weight = np.random.default_rng(0).normal(size=(2, 300, 64)).astype(dtype)
    for targets in (np.arange(300), sl.softmax(np.eye(300))):
        loss, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, backward=sl.Sampled())
        for result in (loss, gradients.features, gradients.weight):
            digest.update(np.asarray(result).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(processor.LEVEL is None, reason="machine code for levels of processors is for x86-64 with AVX2")
def test_a_wheel_has_every_kernel_and_results_are_the_same_to_the_bit_on_every_level(python_with_wheel, tmp_path):
    levels = [level for level in processor.levels() if level <= processor.LEVEL]
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    at = {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = {run(python_with_wheel, "-c", RESULTS, level, **at) for level in levels}
    assert len(digests) == 1
    assert not list(tmp_path.rglob("*.nbc"))


def test_from_a_wheel_the_command_compiles_nothing(python_with_wheel, tmp_path):
    command = Path(python_with_wheel).with_name("softmaxloss")
    printed = run(str(command), "train", "digits", "--out", str(tmp_path / "model"), NUMBA_CACHE_DIR=str(tmp_path))
    assert not list(tmp_path.rglob("*.nbc"))
    assert "wrote model.safetensors" in printed


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="NumPy 1.26 runs on Python 3.12 at most")
def test_the_lowest_versions_of_dependencies_work(tmp_path):
    """With those of the library, its command and the classifier, the examples of all public functions are right."""
    extras = PROJECT["optional-dependencies"]
    ranges = [*PROJECT["dependencies"], *extras["cli"], *extras["sklearn"]]
    lowest = [re.sub(r">=([\w.]+).*", r"==\1", one) for one in ranges if not one.startswith("softmaxloss")]
    python = new_environment(tmp_path / "venv", *lowest)
    script = """
        import doctest
        import softmaxloss
        tests = [
            test
            for name in softmaxloss.__all__
            for test in doctest.DocTestFinder().find(getattr(softmaxloss, name), name, module=False, globs={})
        ]
        runner = doctest.DocTestRunner()
        for test in tests:
            runner.run(test)
        assert runner.tries > 50 and runner.failures == 0
    """
    at = {"PYTHONPATH": str(ROOT / "src"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(python, "-c", textwrap.dedent(script), **at)
    command = "from softmaxloss.cli import main; main()"
    train = (
        f"import sys; sys.argv = ['softmaxloss', 'train', 'digits', '--out', {str(tmp_path / 'model')!r}]; {command}"
    )
    assert "wrote model.safetensors" in run(python, "-c", train, **at)
