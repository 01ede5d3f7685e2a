"""What Numba's manual does not promise may be missing or changed: results stay right, and only the time changes.

Each script runs in an interpreter of its own, with an empty cache folder and another Numba (see other_numba.py).
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from softmaxloss import reference

TESTS = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])

# A kernel of steps of each kind, called once; the script prints its results and which parts this Numba has.
SMALL_KERNEL = """
    import other_numba
    import json, os
    from pathlib import Path
    import numpy as np
    from numba import types
    from softmaxloss.kernels.machine import numba_internals, processor
    from softmaxloss.kernels.machine.compilation import by_type, fused, inline, kernel

    @by_type
    def scale(number):
        return (lambda number: 3.0 * number) if number == types.float64 else lambda number: 2.0 * number

    @fused
    def weighted(number, weight):
        return scale(number) * weight + 1.0

    @inline
    def fill(numbers, weights, out):
        for i in range(numbers.size):
            out[i] = weighted(numbers[i], weights[i])

    @kernel
    def filled(numbers, weights, out):
        fill(numbers[1:], weights[1:], out[1:])

    def of_dtype(dtype):
        out = np.zeros(5)
        filled(np.arange(5, dtype=dtype), np.arange(5.0), out)
        return out.tolist()

    results = of_dtype(np.float32), of_dtype(np.float64)
    parts = [*numba_internals.STEP_OPTIONS]
    if numba_internals.compiles_into_kernels():
        parts.append("compiles into kernels")
    lines = "".join(fill.inspect_llvm().values()).splitlines()
    if any(line.startswith("define") and line.count("noalias") > 2 for line in lines):  # Numba says it of two pointers
        parts.append("noalias")
    if processor.LEVEL is None or f'"target-cpu"="{processor.LEVEL}"' in "".join(filled.inspect_llvm().values()):
        parts.append("level")
    if list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")):
        parts.append("saved")
    print(json.dumps([results, parts]))
"""
RESULTS = [[0.0, *(k * i * i + 1.0 for i in range(1, 5))] for k in (2.0, 3.0)]

OPTIONS = {"_nrt", "no_cfunc_wrapper", "forceinline", "no_cpython_wrapper"}
CODE = {"level", "saved"}  # only code of the level may be saved
COMPILER = {"pipeline_class", "compiles into kernels", "noalias"} | CODE
PARTS = OPTIONS | COMPILER


def renamed(*names):
    """Return what gives names another ending everywhere in Numba."""
    return [(rf"(?<!pickle\.)(?<!json\.)\b{name}\b", f"{name}_of_another_numba") for name in names]


# What another Numba has in the place of the installed one's, and the parts that the library then does without.
OTHERS = {
    "the installed one": ([], set()),
    "no _nrt": (renamed("_nrt"), {"_nrt"}),
    "no options": (renamed(*OPTIONS), OPTIONS),
    "another parser of options": (renamed("parse_as_flags"), OPTIONS),
    "no compiler class": (renamed("Compiler"), COMPILER),
    "a compiler with another argument": (
        [
            (r"def compile_extra\(self, func\)", "def compile_extra(self, *, of)"),
            (r"from_function\(func\)\n        ExtractByteCode", r"from_function(of)\n        ExtractByteCode"),
            (r"pipeline\.compile_extra\(func\)", "pipeline.compile_extra(of=func)"),
        ],
        {"compiles into kernels"},
    ),
    "code libraries with another argument": (
        [
            (r'__init__\(self, codegen: "CPUCodegen", name: str\)', "__init__(self, codegen, name, more)"),
            (r"__init__\(self, codegen, name\):", "__init__(self, codegen, name, more):"),
            (r"__init__\(codegen, name\)", "__init__(codegen, name, more)"),
            (r"self\._library_class\(self, name", "self._library_class(self, name, 1"),
        ],
        {"compiles into kernels"} | CODE,
    ),
    "code libraries with other steps": (renamed("_finalize_dynamic_globals"), {"compiles into kernels"}),
    "code libraries that optimise elsewhere": (renamed("_optimize_final_module"), CODE),
    "no noalias": (
        [(r"\bflags\.noalias\b", "flags.separate"), (r"\bnoalias = Option\b", "separate = Option")],
        {"noalias"},
    ),
    "no class of caches": (renamed("FunctionCache"), {"saved"}),
    "caches with files elsewhere": (renamed("_cache_file"), {"saved"}),
    "caches with another argument": (
        [
            (r"_cache\.(load|save)_overload\(sig, ", r"_cache.\1_overload(0, sig, "),
            (r"def (_?)(load|save)_overload\(self, sig, ", r"def \1\2_overload(self, more, sig, "),
            (r"self\._(load|save)_overload\(sig, ", r"self._\1_overload(0, sig, "),
            (r"def _index_key\(self, sig, ", "def _index_key(self, more, sig, "),
            (r"self\._index_key\(sig, ", "self._index_key(0, sig, "),
        ],
        {"saved"},
    ),
    "caches that cannot save": (renamed("_save_overload"), {"saved"}),
}


def run(script, replaced, tmp_path):
    """Run a script under another Numba; return what it prints. It may print nothing else."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    changes = {
        "PYTHONPATH": TESTS,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "OTHER_NUMBA": json.dumps(replaced),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | changes,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.thorough
@pytest.mark.parametrize("other", OTHERS)
def test_another_numba_gives_the_same_numbers_without_the_parts_that_it_lacks(other, tmp_path):
    replaced, missing = OTHERS[other]
    results, parts = run(SMALL_KERNEL, replaced, tmp_path)
    assert results == RESULTS
    assert {*parts} & PARTS == PARTS - missing


@pytest.mark.thorough
def test_a_loss_needs_no_private_class_and_no_nrt_option(tmp_path):
    script = """
        import other_numba
        import json, os
        import numpy as np
        import softmaxloss as sl
        rng = np.random.default_rng(0)
        loss, d_logits = sl.cross_entropy_and_grad(rng.normal(size=(4, 5)).astype("f4"), [0, 1, 2, 4], reduction="none")
        if os.fork() == 0:
            os._exit(0)
        print(json.dumps([os.wait()[1], loss.tolist(), d_logits.tolist()]))
    """
    classes = ["JITCodeLibrary", "FunctionCache", "dumps", "global_compiler_lock"]
    status, loss, d_logits = run(script, renamed("_nrt", *classes), tmp_path)
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype("f4")
    right_loss, right_d_logits = reference.cross_entropy_and_grad(logits, [0, 1, 2, 4], reduction="none")
    assert status == 0
    np.testing.assert_allclose(loss, right_loss, rtol=1e-6)
    np.testing.assert_allclose(d_logits, right_d_logits, atol=1e-7)
