"""What the functions for NumPy, PyTorch and JAX share: options, checks, summaries, threads, the calls of kernels."""

import numba

if numba.config.DISABLE_JIT:
    raise ImportError(
        "softmaxloss needs Numba's compiler for its kernels, but NUMBA_DISABLE_JIT "
        f"or numba.config.DISABLE_JIT is {numba.config.DISABLE_JIT!r}: unset it"
    )
