"""The build backend: hatchling, with a hook that puts the machine code of all kernels into a wheel.

`python -m build` compiles them all, for some 10 minutes. What pip builds in order to install it holds no machine code:
it compiles what it needs at first use. HATCH_BUILD_NO_HOOKS=true builds any wheel without machine code.
Installers other than pip, such as uv, wait for all kernels if this variable is not set.
"""

import os
import pickle
import platform
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling import build as hatchling
from hatchling.build import (  # noqa: F401  functions that a build backend has
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
)
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

ROOT = Path(__file__).parent
DTYPES = "float16", "bfloat16", "float32", "float64"
INSTALLS = "PIP_BUILD_TRACKER" in os.environ  # pip sets this variable while it builds


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what builds a wheel: to compile kernels, all that the library needs."""
    requirements = hatchling.get_requires_for_build_wheel(config_settings)
    if INSTALLS:
        return requirements
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*requirements, *project["dependencies"], "ml_dtypes"]


class MachineCode(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles all kernels, and names the wheel after the Python and the system that can load them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files of machine code to the wheel."""
        if version == "editable" or INSTALLS:
            return
        self._folder = TemporaryDirectory()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._compile, DTYPES))
        for file in sorted(Path(self._folder.name).rglob("*.nbc")):
            build_data["force_include"][str(file)] = f"softmaxloss/kernels/machine_code/{file.name}"
        tag = next(tag for tag in sys_tags() if not tag.platform.startswith("manylinux"))
        system = tag.platform
        if platform.libc_ver()[0] == "glibc":  # any version has the memory functions that the machine code needs
            system = system.replace("linux_", "manylinux_2_17_")
        build_data["pure_python"], build_data["tag"] = False, f"{tag.interpreter}-{tag.abi}-{system}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Forget the files: they are in the wheel now."""
        del build_data, artifact_path
        if version != "editable" and not INSTALLS:
            self._folder.cleanup()

    def _compile(self, dtype: str) -> None:
        """Call every kernel with a dtype, to learn the signatures, then compile these for each level of processors."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        environment = inherited | {"PYTHONPATH": str(ROOT / "src"), "NUMBA_CACHE_DIR": self._folder.name}
        signatures = Path(self._folder.name) / f"{dtype}.signatures"
        for function in (note_signatures, compile_for_levels):
            code = f"import hatch_build; hatch_build.{function.__name__}({dtype!r}, {str(signatures)!r})"
            subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)


def note_signatures(dtype: str, file: str) -> None:
    """Call every kernel, which compiles it, and write the signatures to a file."""
    from softmaxloss.every_kernel import call_every_kernel
    from softmaxloss.kernels.machine.compilation import KERNELS

    call_every_kernel(dtype)
    if never_called := [kernel for kernel in KERNELS if not kernel.signatures]:
        raise RuntimeError(f"call_every_kernel does not call {never_called}")
    Path(file).write_bytes(pickle.dumps([kernel.signatures for kernel in KERNELS]))


def compile_for_levels(dtype: str, file: str) -> None:
    """Compile the signatures of a file for each level of processors."""
    import softmaxloss.every_kernel  # noqa: F401  all kernels
    from softmaxloss.kernels.machine import processor
    from softmaxloss.kernels.machine.compilation import KERNELS

    for level in processor.levels():
        processor.LEVEL = level
        for kernel, signatures in zip(KERNELS, pickle.loads(Path(file).read_bytes()), strict=True):
            for signature in signatures:
                if kernel._cache.load_overload(signature, kernel.targetctx) is None:
                    raise RuntimeError(f"{kernel} does not compile for {level}, {dtype}, {signature}")
