"""What importing the package loads, and which of its modules may import which."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import softmaxloss

SOURCE = Path(softmaxloss.__file__).parent
HEAVY = ["numba", "scipy", "sklearn", "matplotlib", "pandas", "polars", "torch", "jax", "dask"]


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


def test_the_changelog_has_every_public_name():
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text("utf-8")
    assert set(softmaxloss.__all__) <= set(re.findall(r"\w+", changelog))


@cache
def modules():
    return {
        ".".join(("softmaxloss", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


def imports_of(module, path, tree=None):
    """Return the full names of all that a source file imports anywhere in it, or in a part of its syntax tree."""
    found = set()
    for node in ast.walk(tree or ast.parse(path.read_text())):
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
    "torch",
    "dask",
    "onnx",
    "jax",
    "model_file",
    "preparation",
    "columns",
    "classifier",
    "class_labels",
    "blas_threads",
    "fit_callbacks",
    "every_kernel",
    "stream_fit",
    "stream_past",
    "linear_fit",
    "objective",
    "moments",
    "boosting",
    "layers",
    "gradient_check",
    "head",
    "calibration",
    "second_order",
    "margin",
    "log_probabilities",
    "summary",
    "evaluation",
    "warmup",
    "functional",
    "core",
    "kernels",
    "array",
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


def loaded_by(path):
    """Return a syntax tree without the imports that only type checkers follow."""
    tree = ast.parse(path.read_text())
    typing_only = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    tree.body = [node for node in tree.body if node not in typing_only]
    return tree


@pytest.mark.parametrize("of", ["files", "folders"])
def test_no_file_and_no_folder_imports_itself_by_way_of_others(of):
    """Folders are those of kernels/, core/ and head/; a file beside them stands for itself."""

    def place(module):
        is_folder = modules()[module].name == "__init__.py"
        parts = module.split(".") if is_folder or of == "files" else module.split(".")[:-1]
        return ".".join(parts) if of == "files" or len(parts) > 2 else module

    edges = {}
    for module, path in modules().items():
        names = imports_of(module, path, loaded_by(path)) & modules().keys()
        names = {name for name in names if modules()[name].name != "__init__.py"}
        edges.setdefault(place(module), set()).update({place(name) for name in names} - {place(module)})
    assert len(edges) > 40 if of == "files" else "softmaxloss.kernels.numerics" in edges
    list(TopologicalSorter(edges).static_order())  # raises CycleError


def test_kernels_import_nothing_of_the_package_but_kernels():
    own = {name for _, name in below("kernels") if within(name, "softmaxloss")}
    assert own
    assert all(within(name, "softmaxloss.kernels") for name in own)


@pytest.mark.parametrize(("package", "library"), [("reference", "numpy"), ("array", "array_api_compat")])
def test_these_import_one_library_and_nothing_of_the_package_but_themselves(package, library):
    allowed = {library, *sys.stdlib_module_names}
    imported = {name for _, name in below(package) if not within(name, f"softmaxloss.{package}")}
    assert {name.partition(".")[0] for name in imported} - allowed == set()
    assert any(within(name, library) for name in imported)


@pytest.mark.parametrize("framework", ["torch", "jax", "dask"])
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
