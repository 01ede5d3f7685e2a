"""Kernels in the disk cache: what is compiled, stored and loaded, and what happens where that fails."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import softmaxloss
from scripts import run

SOURCE = Path(softmaxloss.__file__).parent
compiles_anew = pytest.mark.thorough


@pytest.fixture(scope="module")
def right_digest():
    return run("print(digest())", SOFTMAXLOSS_NUM_THREADS="1")


def test_functions_of_the_caller_are_compiled_after_kernels_were_loaded_from_the_disk():
    script = """
    import numba, numpy as np, softmaxloss
    @numba.njit
    def sorted_sums(rows):
        return sorted([np.sum(row) for row in rows])
    z = np.ones((3, 4), np.float32)
    softmaxloss.cross_entropy(z, [0, 1, 2])
    assert sorted_sums(np.array([[2.0, 3.0], [1.0, 1.0]])) == [2.0, 5.0]
    print(softmaxloss.cross_entropy(z, [0, 1, 2]))
    """
    assert [float(run(script)) for _ in range(2)] == pytest.approx([np.log(4)] * 2, rel=1e-6)


def test_warmup_leaves_nothing_to_compile():
    script = """
        sl.warmup(["float32"])
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            for n_classes in (3, 3000):
                z = np.ones((2, n_classes), np.float32)
                sl.cross_entropy_and_grad(z, [0, 1], ignore_index=0, label_smoothing=0.1, class_weight=z[0])
                sl.cross_entropy(z, [0, 1], z_loss=0.1)
                sl.softmax(z), sl.log_softmax(z), sl.logsumexp(z)
        print(len(recorder.buffer))
    """
    assert run(script) == "0"


@pytest.mark.parametrize("name", ["cross_entropy", "merge", "set_num_threads", "SoftmaxClassifier"])
def test_without_the_compiler_of_numba_one_sentence_says_so(name):
    script = f"""
        try:
            sl.{name}
        except ImportError as error:
            print(error)
    """
    program = "import softmaxloss as sl" + textwrap.dedent(script)
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert done.stdout == (
        "softmaxloss needs Numba's compiler for its kernels, but NUMBA_DISABLE_JIT or numba.config.DISABLE_JIT is 1: "
        "unset it\n"
    )


@compiles_anew
def test_without_any_folder_for_the_cache_the_library_works(tmp_path):
    """Files stand where the folders would be: that stops even a user who may write everywhere."""
    file = tmp_path / "file"
    file.write_text("")
    package = shutil.copytree(SOURCE, tmp_path / "softmaxloss", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in {path.parent for path in package.rglob("*.py")}:
        (folder / "__pycache__").write_text("")
    nowhere = {
        "NUMBA_CACHE_DIR": str(file / "below"),
        "XDG_CACHE_HOME": str(file / "below"),
        "HOME": str(file / "below"),
    }
    script = "print(sl.__file__, sl.cross_entropy(np.zeros((2, 2)), [0, 1]))"
    used, loss = run(script, PYTHONPATH=str(tmp_path), **nowhere).split()
    assert used == str(package / "__init__.py")
    assert float(loss) == pytest.approx(0.6931471805599453, rel=1e-15)


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """Return a folder of kernels that one process has compiled and stored, and what it computed with them."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, run("print(digest())", NUMBA_CACHE_DIR=str(folder))


@compiles_anew
def test_compiling_and_loading_from_the_cache_give_the_same_bits(right_digest, filled_cache):
    folder, digest = filled_cache
    assert [digest, run("print(digest())", NUMBA_CACHE_DIR=str(folder))] == [right_digest] * 2


@compiles_anew
def test_damaged_files_in_the_cache_are_compiled_anew(right_digest, filled_cache, tmp_path):
    """Files are empty, cut off, or differ in one byte."""
    folder = shutil.copytree(filled_cache[0], tmp_path / "cache")
    files = list(folder.rglob("*.nbc"))
    assert len(files) >= 3
    for number, file in enumerate(files):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes([b"", content[:100], content][number % 3])
    assert run("print(digest())", NUMBA_CACHE_DIR=str(folder)) == right_digest


@compiles_anew
def test_a_child_forked_while_another_thread_compiles_works(right_digest, tmp_path):
    """The child compiles what its parent does, and hangs if it takes ten times as long, however busy the machine is."""
    script = """
        import time
        from numba.core import event
        class Compilation(event.Listener):
            begun = threading.Event()
            def on_start(self, event): self.begun.set()
            def on_end(self, event): pass
        event.register("numba:compile", Compilation())
        begin = time.monotonic()
        other_thread = threading.Thread(target=digest)
        other_thread.start()
        Compilation.begun.wait()
        process = multiprocessing.get_context("fork").Process(target=lambda: print(digest(), flush=True))
        process.start()
        other_thread.join()
        process.join(10 * (time.monotonic() - begin))
        print(process.exitcode)
        process.kill()
    """
    assert run(script, timeout=3600, NUMBA_CACHE_DIR=str(tmp_path)).split() == [right_digest, "0"]
