"""The table of shapes: what the benchmarks time, and what the tests check against the reference."""

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
PROBES = 1 << 16


class Problem(NamedTuple):
    """Logits, and class indices for each of their rows."""

    logits: Array
    targets: Array
    axis: int

    def probes(self) -> Array:
        """Return where to look at a flattened gradient: at the targets of all rows, and at PROBES random places."""
        n_classes = self.logits.shape[self.axis]
        side_by_side = math.prod(self.logits.shape[self.axis :][1:])
        group, place = np.divmod(np.arange(self.targets.size), side_by_side)
        at_targets = (group * n_classes + self.targets.reshape(-1)) * side_by_side + place
        return np.append(at_targets, np.random.default_rng(2).integers(0, self.logits.size, PROBES))


class Shape(NamedTuple):
    """A shape of logits, where its classes are, and the dtypes that it is timed in."""

    shape: tuple[int, ...]
    axis: int = -1
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))

    def at_most(self, size: int) -> "Shape":
        """Return the shape with its first axis shortened to fit into so many elements, but to no less than 2."""
        first, *others = self.shape
        return self._replace(shape=(min(first, max(2, size // math.prod(others))), *others))

    def problem(self, dtype: str) -> Problem:
        """Return logits like those of a classifier, the same in each process."""
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(self.shape, np.float32)
        logits *= 3
        batch = np.delete(self.shape, self.axis)
        return Problem(
            logits.astype(DTYPES[dtype], copy=False), rng.integers(0, self.shape[self.axis], batch), self.axis
        )


SHAPES = {
    str(shape): shape
    for shape in [
        Shape((32, 10)),
        Shape((1024, 10)),
        Shape((65536, 10)),
        Shape((65536, 100)),
        Shape((1024, 1000)),
        Shape((8192, 1000)),
        Shape((1024, 32000), dtypes=("float32", "float64", "bfloat16", "float16")),
        Shape((512, 128256)),
        Shape((8, 1_000_000)),
        Shape((8, 21, 256, 256), axis=1),  # segmented images: class-major
    ]
}
