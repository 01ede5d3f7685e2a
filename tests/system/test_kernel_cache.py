"""Kernels in the disk cache: what is compiled, stored and loaded, and what happens where that fails."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import softmaxloss
from scripts import PREAMBLE, run
from thorough import thorough

SOURCE = Path(softmaxloss.__file__).parent
compiles_anew = pytest.mark.thorough


def test_functions_of_the_caller_are_compiled_after_kernels_were_loaded_from_the_disk():
    compute = "print(sl.cross_entropy(np.ones((3, 4), np.float32), [0, 1, 2]))"
    script = f"""
    import numba
    @numba.njit
    def sorted_sums(rows):
        return sorted([np.sum(row) for row in rows])
    {compute}
    assert sorted_sums(np.array([[2.0, 3.0], [1.0, 1.0]])) == [2.0, 5.0]
    {compute}
    """
    losses = [*run(compute).split(), *run(script).split()]  # what the first process compiles, the second one loads
    assert [float(loss) for loss in losses] == pytest.approx([np.log(4)] * 3, rel=1e-6)


def test_warmup_leaves_nothing_to_compile():
    script = """
        from softmaxloss.kernels.machine.compilation import KERNELS
        def loaded():
            return {id(kernel): len(kernel.signatures) for kernel in KERNELS}
        sl.warmup(["float32"])
        before = loaded()
        for n_classes in (3, 3000):
            z = np.ones((2, n_classes), np.float32)
            sl.cross_entropy_and_grad(z, [0, 1], ignore_index=0, label_smoothing=0.1, class_weight=z[0])
            sl.cross_entropy(z, [0, 1], z_loss=0.1)
            sl.softmax(z), sl.log_softmax(z), sl.logsumexp(z)
        print(sum(before.values()) > 0, loaded() == before)
    """
    assert run(script) == "True True"


@pytest.mark.parametrize("name", ["cross_entropy", thorough("merge"), thorough("set_num_threads"), "SoftmaxClassifier"])
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


# What needs a cache of its own shows it, where it can, on the three kernels that are compiled soonest.
DIGESTS = """
def of_large_kernels():
    row_by_row, side_by_side = results(), sl.cross_entropy_and_grad(logits[:, :3], labels % 3, reduction="none")
    return hashlib.sha256(b"".join([*row_by_row, *side_by_side])).hexdigest()

def of_small_kernels():
    from softmaxloss.kernels import summary, targets
    parts = [sl.RowSummary(*six) for six in np.abs(logits[:18].astype(float)).reshape(3, 6, 700)]
    merged = sl.merge(parts)
    assert targets.all_within(labels, 700)
    return hashlib.sha256(b"".join([*merged, np.float64(summary.total(merged.rest))])).hexdigest()

"""


def run_with_digests(script, **options):
    return run(DIGESTS + textwrap.dedent(script), **options)


@pytest.fixture(scope="module")
def right_digest_of_small_kernels():
    return run_with_digests("print(of_small_kernels())")


def nowhere_to_write(package):
    """Put files in the place of the package's cache folders, and return variables that block all other folders.

    A superuser ignores permissions, but not these files.
    """
    for folder in {path.parent for path in package.rglob("*.py")}:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        (folder / "__pycache__").write_text("")
    return dict.fromkeys(["NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"], str(package / "__init__.py" / "below"))


@compiles_anew
def test_without_any_folder_for_the_cache_the_library_works(right_digest_of_small_kernels, tmp_path):
    package = shutil.copytree(SOURCE, tmp_path / "softmaxloss", ignore=shutil.ignore_patterns("__pycache__"))
    script = "print(sl.__file__, of_small_kernels())"
    used, digest = run_with_digests(script, PYTHONPATH=str(tmp_path), **nowhere_to_write(package)).split()
    assert used == str(package / "__init__.py")
    assert digest == right_digest_of_small_kernels


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return a folder of large kernels that one process has compiled and stored, what it computed, and their code."""
    folder = tmp_path_factory.mktemp("cache")
    script = """
        import json
        from softmaxloss.kernels.by_row import losses as by_row
        from softmaxloss.kernels.side_by_side import losses as side_by_side
        kernels = [way.losses_and_gradients for way in (by_row, side_by_side)]
        computed = of_large_kernels()
        codes = [kernel.inspect_llvm(kernel.signatures[0]) for kernel in kernels]
        print(json.dumps([computed, codes]))
    """
    return folder, *json.loads(run_with_digests(script, NUMBA_CACHE_DIR=str(folder)))


@compiles_anew
def test_compiling_and_loading_from_the_cache_give_the_same_bits(compiled):
    folder, digest, _ = compiled
    loaded = run_with_digests("print(of_large_kernels())", NUMBA_CACHE_DIR=str(folder))
    right = run_with_digests("print(of_large_kernels())", SOFTMAXLOSS_NUM_THREADS="1")
    assert [digest, loaded] == [right] * 2


@compiles_anew
def test_arrays_on_the_stack_live_as_long_as_their_kernel(compiled):
    """Those made by steps would not, if the compiler marked where the steps that it takes in end."""
    *_, codes = compiled
    assert len(codes) == 2
    for code in codes:
        assert "alloca" in code
        assert "lifetime.end" not in code


@compiles_anew
def test_damaged_files_in_the_cache_are_compiled_anew(right_digest_of_small_kernels, tmp_path):
    """Files are empty, cut off, or differ in one byte."""
    in_folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_with_digests("print(of_small_kernels())", **in_folder) == right_digest_of_small_kernels
    files = list(tmp_path.rglob("*.nbc"))
    assert len(files) >= 3
    for number, file in enumerate(files):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes([b"", content[:100], content][number % 3])
    assert run_with_digests("print(of_small_kernels())", **in_folder) == right_digest_of_small_kernels


@compiles_anew
def test_a_child_forked_while_another_thread_compiles_works(right_digest_of_small_kernels, tmp_path):
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
        other_thread = threading.Thread(target=of_small_kernels)
        other_thread.start()
        Compilation.begun.wait()
        process = multiprocessing.get_context("fork").Process(target=lambda: print(of_small_kernels(), flush=True))
        process.start()
        other_thread.join()
        process.join(10 * (time.monotonic() - begin))
        print(process.exitcode)
        process.kill()
    """
    printed = run_with_digests(script, timeout=3600, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert printed == [right_digest_of_small_kernels, "0"]


def compilations_of_small_kernels(**options):
    """Return the digest, and how many of the three kernels a process compiled."""
    script = """
        from numba.core import event
        from softmaxloss.kernels.machine import compilation
        with event.install_recorder("numba:compile") as recorder:
            digest = of_small_kernels()
        kernels = [None, *compilation.KERNELS]  # None: a kernel's cache reports compilations without a dispatcher
        begun = [event.data.get("dispatcher") for _, event in recorder.buffer if event.is_start]
        print(digest, sum(dispatcher in kernels for dispatcher in begun))
    """
    digest, n = run_with_digests(script, **options).split()
    return digest, int(n)


@compiles_anew
def test_processes_that_need_the_same_kernels_at_the_same_time_compile_each_once(
    right_digest_of_small_kernels, tmp_path
):
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(compilations_of_small_kernels, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(3)]
    digests, counts = zip(*(run.result() for run in runs), strict=True)
    assert {*digests} == {right_digest_of_small_kernels}
    assert sum(counts) == 3
    assert not list(tmp_path.rglob("*.lock"))


@compiles_anew
def test_machine_code_in_the_package_is_loaded_unless_it_is_damaged(right_digest_of_small_kernels, tmp_path):
    """As a wheel brings it along."""
    package = shutil.copytree(SOURCE, tmp_path / "softmaxloss", ignore=shutil.ignore_patterns("__pycache__"))
    copy = {"PYTHONPATH": str(tmp_path)}
    assert compilations_of_small_kernels(**copy, NUMBA_CACHE_DIR=str(tmp_path / "first"))[1] == 3
    shipped = package / "kernels" / "machine_code"
    shipped.mkdir()
    for file in (tmp_path / "first").rglob("*.nbc"):
        shutil.copy(file, shipped)
    second = {**copy, "NUMBA_CACHE_DIR": str(tmp_path / "second")}
    assert compilations_of_small_kernels(**second) == (right_digest_of_small_kernels, 0)
    nowhere = {**copy, **nowhere_to_write(package)}  # as in a read-only container
    assert compilations_of_small_kernels(**nowhere) == (right_digest_of_small_kernels, 0)

    for file in shipped.iterdir():
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    assert compilations_of_small_kernels(**second) == (right_digest_of_small_kernels, 3)


@compiles_anew
def test_another_archive_of_the_same_name_has_machine_code_of_its_own(right_digest_of_small_kernels, tmp_path):
    """The sources in an archive are no files, so the archive stands for them."""
    archive = shutil.make_archive(str(tmp_path / "program"), "zip", SOURCE.parent, "softmaxloss")
    environment = {"PYTHONPATH": archive, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert compilations_of_small_kernels(**environment) == (right_digest_of_small_kernels, 3)
    assert compilations_of_small_kernels(**environment) == (right_digest_of_small_kernels, 0)
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr("another", "")
    assert compilations_of_small_kernels(**environment) == (right_digest_of_small_kernels, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("in_terminal", [True, False])
def test_a_terminal_is_told_once_that_kernels_compile(in_terminal, tmp_path):
    script = """
        from softmaxloss.kernels.machine import compilation
        compilation._SECONDS_UNTIL_NOTICE = 0.0
        from softmaxloss.kernels import targets
        targets.all_within(labels, 700), targets.all_within(labels.astype(np.int32), 700)
    """
    master, slave = os.openpty()
    program = PREAMBLE + textwrap.dedent(script)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    stderr = slave if in_terminal else subprocess.PIPE
    done = subprocess.run([sys.executable, "-c", program], stderr=stderr, check=True, timeout=120, env=environment)
    os.close(slave)
    told = os.read(master, 1000) if in_terminal else done.stderr
    os.close(master)
    assert told.count(b"compiling") == in_terminal
