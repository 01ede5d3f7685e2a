"""The levels of processors that kernels are compiled for."""

import pytest

from scripts import run
from softmaxloss.kernels.machine import processor


@pytest.mark.parametrize(
    ("name", "missing", "level"),
    [
        ("emeraldrapids", set(), "x86-64-v4"),
        ("znver4", set(), "x86-64-v4"),
        ("cascadelake", set(), "x86-64-v3"),  # its clock falls under vectors of 512 bits
        ("znver3", {"avx512f"}, "x86-64-v3"),
        ("emeraldrapids", {"avx512vl"}, "x86-64-v3"),  # as some virtual machines hide it
        ("ivybridge", {"avx512f", "avx2", "fma"}, None),
    ],
)
def test_the_level_of_a_processor_is_the_highest_that_it_has(name, missing, level):
    features = dict.fromkeys(processor._V4, True) | dict.fromkeys(missing, False)
    assert processor.level_of(name, features) == level


@pytest.mark.skipif(processor.LEVEL is None, reason="Numba chooses the code of this processor")
@pytest.mark.parametrize("level", processor.levels())
def test_code_of_a_level_has_its_vectors_and_no_wider_ones(level, tmp_path):
    script = f"""
        from numba import float64
        from softmaxloss.kernels.machine import processor
        processor.LEVEL = {level!r}
        from softmaxloss.kernels import summary
        summary.total.compile((float64[::1],))
        code = "".join(summary.total.inspect_asm().values())
        print("zmm" in code, "ymm" in code)
    """
    wide, narrow = run(script, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert (wide == "True") == (level == "x86-64-v4")
    assert (wide, narrow) != ("False", "False")
