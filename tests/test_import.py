"""What importing the package loads, and which of its modules may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import softmaxloss

SOURCE = Path(softmaxloss.__file__).parent
HEAVY = ["numba", "scipy", "sklearn", "matplotlib", "pandas", "polars", "torch", "jax"]


def test_importing_the_package_loads_numpy_alone():
    loaded = subprocess.run(
        [sys.executable, "-c", "import softmaxloss, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert "softmaxloss" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_code_kept_on_disk_is_loaded_without_what_numba_compiles_with():
    program = """
import sys
import numpy
import softmaxloss
for n_classes in 10, 1000:
    z = numpy.ones((2, n_classes), numpy.float32)
    softmaxloss.cross_entropy_and_grad(z, [1, 2])
    softmaxloss.softmax(z)
print(*sys.modules)
"""
    for _ in range(2):  # the first of them may compile
        loaded = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
        ).stdout.split()
    assert "numba" in loaded
    assert not {"numba.np.arraymath", "scipy.linalg"} & set(loaded)


def test_bfloat16_is_known_by_name_before_its_package_is_loaded():
    pytest.importorskip("ml_dtypes")
    program = "from softmaxloss.core import checks; print(checks.zeros('dtypes', 'bfloat16', (1, 2)).dtype)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "bfloat16"


def test_every_public_name_is_there_and_listed():
    assert sorted(softmaxloss.__all__) == sorted(softmaxloss._HOME)
    for name in softmaxloss.__all__:
        assert getattr(softmaxloss, name) is not None
        assert name in dir(softmaxloss)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = softmaxloss.no_such_name


def modules():
    return {
        ".".join(("softmaxloss", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


def imports_of(module, path):
    """Return the full names of all that a source file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def within(name, package):
    return name == package or name.startswith(package + ".")


def below(package):
    """Return the imports of all modules of a package."""
    return {
        (module, name)
        for module, path in modules().items()
        if within(module, f"softmaxloss.{package}")
        for name in imports_of(module, path)
    }


FLOORS = [
    "cli",
    "explorer",
    "explanation",
    "model_file",
    "classifier",
    "linear_fit",
    "layers",
    "gradient_check",
    "head",
    "second_order",
    "evaluation",
    "warmup",
    "functional",
    "core",
]


def test_every_module_has_a_floor():
    floors = {module.split(".")[1] for module in modules() if module != "softmaxloss"}
    assert floors == {*FLOORS, "reference"}


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_one_way(floor):
    above = [*FLOORS[: FLOORS.index(floor)], "reference"]
    upwards = {
        (module, name)
        for module, name in below(floor)
        if any(within(name, f"softmaxloss.{package}") for package in above)
    }
    assert not upwards


def test_the_reference_imports_numpy_alone():
    foreign = {
        name for _, name in below("reference") if name.partition(".")[0] not in {"numpy", *sys.stdlib_module_names}
    }
    assert not foreign


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_only_its_own_adapter_imports_a_framework(framework):
    importers = {
        module
        for module, path in modules().items()
        if not within(module, f"softmaxloss.{framework}")
        and any(within(name, framework) for name in imports_of(module, path))
    }
    assert not importers


def test_the_import_check_sees_relative_and_late_imports(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("from ..layers import x\ndef f():\n    import torch.nn\nfrom . import head\n")
    found = imports_of("softmaxloss.core.module", path)
    assert {"softmaxloss.layers", "torch.nn", "softmaxloss.core.head"} <= found
