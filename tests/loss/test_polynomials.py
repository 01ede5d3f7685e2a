"""The coefficients in the source are those that the script computes."""

import numpy as np

from benchmarks import polynomials
from softmaxloss.kernels.numerics import exponential, logarithm
from softmaxloss.kernels.numerics.polynomial import halves


def test_the_script_computes_the_coefficients_in_the_source():
    found = {name: polynomials.solve(task).coefficients for name, task in polynomials.tasks().items()}
    assert found["exponential, single precision"] == exponential._POLYNOMIAL[np.float32]
    assert found["exponential, double precision"] == exponential._POLYNOMIAL[np.float64]
    assert halves(found["logarithm, single precision"]) == logarithm._SHORT
    assert halves(found["logarithm, double precision"]) == logarithm._EXACT
