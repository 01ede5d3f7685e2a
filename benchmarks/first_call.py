"""How long a fresh process takes to its first result, for each kind of call and dtype, with nothing kept on the disk.

`python -m benchmarks.first_call` prints the table. An installation from a wheel has machine code; one from source
compiles for each figure.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.markdown import table

DTYPES = "float16", "bfloat16", "float32", "float64"
# Statements after the preamble.
KINDS = {
    "loss": "sl.cross_entropy(logits, labels)",
    "loss and gradient": "sl.cross_entropy_and_grad(logits, labels)",
    "loss and gradient, 10 classes": "sl.cross_entropy_and_grad(logits[:, :10].copy(), labels)",
    "loss and gradient, soft targets": "sl.cross_entropy_and_grad(logits, soft)",
    "loss and gradient, soft targets, 10 classes": "sl.cross_entropy_and_grad(logits[:, :10].copy(), soft[:, :10])",
    "softmax": "sl.softmax(logits)",
    "log_softmax": "sl.log_softmax(logits)",
    "metrics": "sl.metrics(logits, labels)",
    "log_probs": "sl.log_probs_and_grad(logits, labels)",
    "linear layer": "sl.linear_cross_entropy_and_grad(features, weight, labels)",
    "linear layer, sampled": "sl.linear_cross_entropy_and_grad(features, weight, labels, backward=sl.Sampled())",
}
_PREAMBLE = """
import sys, time
import numpy as np
import softmaxloss as sl
if sys.argv[1] == "bfloat16":
    import ml_dtypes
rng = np.random.default_rng(0)
logits, labels = rng.normal(size=(64, 1000)).astype(sys.argv[1]), rng.integers(0, 10, 64)
features, weight = logits[:, :100].copy(), logits.T[:, :50].repeat(2, 1)
soft = np.full(logits.shape, 1 / 1000, np.float32)
"""


def first_call(kind: str, dtype: str, python: str = sys.executable) -> tuple[float, float, int]:
    """Return the seconds until the first result, those that all its threads computed, and how many kernels compiled."""
    program = f"{_PREAMBLE}\n{KINDS[kind]}\nprint(time.monotonic(), time.process_time())"
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
        start = time.monotonic()
        child = subprocess.run(  # noqa: S603 - a program of our own
            [python, "-I", "-c", program, dtype], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        compiled = len(list(Path(empty).rglob("*.nbc")))  # each is kept there
    end, busy = map(float, child.stdout.split())
    return end - start, busy, compiled


if __name__ == "__main__":
    rows = {kind: [f"{first_call(kind, dtype)[0]:.2f} s" for dtype in DTYPES] for kind in KINDS}
    print(table(["", *DTYPES], [[kind, *seconds] for kind, seconds in rows.items()]))
