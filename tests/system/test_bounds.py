"""No kernel reads or writes out of bounds, as Numba's own checks say."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import softmaxloss as sl
from cases import few_or_most_exist, positive, some_zero
from softmaxloss.core import rows, summary, threads
from softmaxloss.every_kernel import call_every_kernel
from softmaxloss.kernels.by_row import losses as by_row
from softmaxloss.kernels.machine import compilation
from strategies import Problem
from terms import assert_right_loss_and_gradient

SECONDS_PER_HANG = 900


def reach_all_ends():
    """Call every kernel. The loop gives kernels of losses shapes that end inside a lane, a block, a run, or a tile.

    The loop uses single precision and all arrays of options. So it compiles each kernel only once.
    """
    rng = np.random.default_rng(0)
    row_by_row = [((3, n), -1) for n in (257, 2048, 2049, 4100)]
    side_by_side = [((1, 300), 0), ((13, 300), 0), ((3000, 40), 0), ((2, 9, 3, 5), 1), ((300, 13), -1), ((3, 2), -1)]
    for shape, axis in row_by_row + side_by_side:
        n_classes, batch = shape[axis], np.delete(shape, axis)
        exists, logits = few_or_most_exist(rng, n_classes), rng.normal(size=shape).astype(np.float32)
        labels = rng.choice(np.flatnonzero(exists), batch)
        shares, weight = np.ones((*batch, 1)), some_zero(rng, batch)
        shares.flat[0], weight.flat[0] = 0.5, 1  # with one soft row that counts, kernels read rows of targets
        targets = np.moveaxis((labels[..., None] == np.arange(n_classes)) * shares, -1, axis)
        options = {"axis": axis, "class_mask": exists, "class_weight": positive(rng, n_classes)}
        options |= {"label_smoothing": 0.1, "z_loss": 0.1, "sample_weight": weight}
        assert_right_loss_and_gradient(Problem(logits, targets.astype(np.float32), options, rng))
        sl.log_softmax(logits, axis=axis)
        sl.metrics(logits, labels, axis=axis, class_mask=exists)
    some = summary.RowSummary(*np.ones((6, 3)))
    summary.merge([some, some, some])
    call_every_kernel("float32")
    assert all(kernel.signatures for kernel in compilation.KERNELS)


def detects_an_index_too_large():
    """Return whether a kernel fails that is given too few rows to write to."""
    logits = np.zeros((2, 3), np.float32)
    logits.flags.writeable = False  # as where log_softmax calls the kernel, which is then compiled only once
    with contextlib.suppress(IndexError):
        by_row.log_softmax(
            logits, rows.logits_alone(2, 1.0).fields(), threads.none_taken(), 2, np.zeros((1, 3), np.float32)
        )
        return False
    return True


@pytest.mark.thorough
def test_no_kernel_reads_or_writes_out_of_bounds(tmp_path):
    """With Numba's checks, which are compiled into kernels of their own: some 30 seconds.

    Numba checks indices. It does not check the addresses that intrinsics read and write.
    """
    script = "from system import test_bounds as it; assert it.detects_an_index_too_large(); it.reach_all_ends()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
