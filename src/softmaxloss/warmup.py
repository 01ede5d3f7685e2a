"""Compilation ahead of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxloss.core import checks
from softmaxloss.core.layout import FEW_CLASSES
from softmaxloss.core.threads import call_every_kernel_of_threads
from softmaxloss.functional import cross_entropy_and_grad, log_softmax, logsumexp

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import DTypeLike


def warmup(dtypes: DTypeLike | Collection[DTypeLike] = "float32") -> None:
    """Compile the kernels of softmax functions, and of losses whose targets are class indices, before they are needed.

    A wheel brings all kernels along, for x86-64 processors with AVX2. In an installation from source, the first call of
    a kernel compiles it, in 1 to 10 seconds. The machine code is kept on disk: later processes load it in a fraction of
    a second. One-hot and soft targets, soft caps and `metrics` have kernels of their own, which are compiled when they
    are first used. A soft cap turns logits into float64: if you use one, warm up float64, too.

    Parameters
    ----------
    dtypes : dtype-like or collection of them, default "float32"
        float16, bfloat16, float32 or float64.

    Raises
    ------
    TypeError
        If a dtype is none of these.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.warmup("float32")
    """
    several = dtypes if isinstance(dtypes, list | tuple | set | frozenset) else [dtypes]
    shapes = (1, 2), (1, FEW_CLASSES + 1)  # side by side, and row by row
    for logits in [checks.zeros("dtypes", dtype, shape) for dtype in several for shape in shapes]:
        cross_entropy_and_grad(logits, [0])
        cross_entropy_and_grad(logits, [0], ignore_index=1)  # reads labels by a kernel of its own
        logsumexp(logits)
        log_softmax(logits)
    call_every_kernel_of_threads()
