"""Scripts in an interpreter of their own, which is killed when it hangs.

`digest` is a fingerprint of what the library computes on a problem of several pieces, so that all threads have work.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

# from here scripts import everything.py
TESTS = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])

PREAMBLE = """
import hashlib, multiprocessing, os, sys, threading
import numpy as np
import softmaxloss as sl

rng = np.random.default_rng(0)
logits = rng.normal(size=(3000, 700)).astype(np.float32)
labels = rng.integers(0, 700, 3000)
soft_targets, class_weight = rng.random((20, 700)), rng.random(700)

def results(rows=slice(None), **options):
    options = {"reduction": "none", **options}
    return sl.cross_entropy_and_grad(logits[rows], labels[rows], label_smoothing=0.1, **options)

def digest(reduction="none"):
    options = {"class_weight": class_weight, "reduction": reduction}
    parts = results(reduction=reduction)
    parts += sl.cross_entropy_and_grad(logits[:20].astype(float), soft_targets, **options)
    return hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in parts)).hexdigest()

"""


def run(script, timeout=300, **environment):
    """Run a script after the preamble and return what it prints; nothing else may be printed."""
    # from version 3.12 on, Python warns of a fork beside other threads
    warnings = ["-W", "error::RuntimeWarning", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *warnings, "-c", PREAMBLE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": TESTS, "SOFTMAXLOSS_NUM_THREADS": "4", **environment},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()
