"""What every face of the library shares: rows, summaries, checks, threads, kernels."""

import numba

if numba.config.DISABLE_JIT:
    raise ImportError(
        "softmaxloss needs Numba's compiler for its kernels, but NUMBA_DISABLE_JIT "
        f"or numba.config.DISABLE_JIT is {numba.config.DISABLE_JIT!r}: unset it"
    )
