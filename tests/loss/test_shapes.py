"""The shapes that are timed give the right results: each with fewer rows, but enough for several pieces and threads."""

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close
from softmaxloss import reference

pytest.importorskip("ml_dtypes")

from benchmarks.shapes import SHAPES

ELEMENTS = 1 << 19
PRECISION = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2**-8, "float16": 2**-10}
CASES = [(name, dtype) for name, shape in SHAPES.items() for dtype in shape.dtypes]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_shape_of_the_benchmark_gives_what_the_reference_does(name, dtype):
    problem = SHAPES[name].at_most(ELEMENTS).problem(dtype)
    right, d_right = reference.cross_entropy_and_grad(*problem[:2], axis=problem.axis)
    loss, d_logits = sl.cross_entropy_and_grad(**problem._asdict())
    assert sl.cross_entropy(**problem._asdict()) == loss == pytest.approx(right, rel=1e-6)
    assert d_logits.dtype == problem.logits.dtype
    assert_close(d_logits, d_right, PRECISION[dtype])


@pytest.mark.parametrize("name", SHAPES)
def test_probes_of_a_gradient_begin_with_the_targets_of_all_rows(name):
    problem = SHAPES[name].at_most(ELEMENTS).problem("float32")
    at_targets = np.zeros(problem.logits.size, bool)
    at_targets[problem.probes()[: problem.targets.size]] = True
    one_hot = np.zeros(problem.logits.shape, bool)
    np.put_along_axis(one_hot, np.expand_dims(problem.targets, problem.axis), True, problem.axis)
    np.testing.assert_array_equal(at_targets.reshape(problem.logits.shape), one_hot)
