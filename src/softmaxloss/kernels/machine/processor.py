"""The processors that machine code is made for.

On x86-64 it is made for a level that many processors share, not for the processor at hand: so it can be shipped. On
other processors, and where a variable of Numba's (NUMBA_CPU_NAME, ...) asks for a processor, Numba chooses.
"""

import platform
from collections.abc import Mapping

import llvmlite.binding as llvm
import numba

_V3 = {"sse4.2", "popcnt", "cx16", "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

# Processors whose vectors of 512 bits pay. LLVM takes 256 bits on Intel's, as the clock of older ones fell under wider
# vectors. With 512 bits, losses of 10 classes take a quarter less (emeraldrapids, the one that was measured).
_FULL_WIDTH = {
    "icelake-server", "sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d", "znver4", "znver5",
}  # fmt: skip

# What LLVM is told of each function. No features but those of the level: it would add those of the processor at hand.
ATTRIBUTES = {
    "x86-64-v3": '"target-cpu"="x86-64-v3" "target-features"=""',
    "x86-64-v4": '"target-cpu"="x86-64-v4" "target-features"="" "prefer-vector-width"="512"',
}


def level_of(name: str, features: Mapping[str, bool]) -> str | None:
    """Return the level that suits a processor best, given LLVM's name and features of it, or None."""
    has = {feature for feature, present in features.items() if present}
    if has >= _V4 and name in _FULL_WIDTH:
        return "x86-64-v4"
    return "x86-64-v3" if has >= _V3 else None


def levels() -> list[str]:
    """Return all levels of the kind of processor at hand."""
    return list(ATTRIBUTES) if platform.machine() in {"x86_64", "AMD64"} else []


def _level() -> str | None:
    config = numba.config
    asked = config.CPU_NAME is not None or config.CPU_FEATURES is not None or not config.ENABLE_AVX
    return None if asked or not levels() else level_of(llvm.get_host_cpu_name(), llvm.get_host_cpu_features())


LEVEL = _level()
