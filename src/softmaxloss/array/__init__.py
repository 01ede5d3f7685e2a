"""The loss, its gradient and softmax in operations of the Array API standard, for arrays where the kernels do not run.

PyTorch tensors on any device, JAX arrays and all other arrays that `array_api_compat` knows get the results that the
kernels give for NumPy arrays. No function here looks at a value to decide what to do next, and none writes into an
array. So all of them can be traced, compiled, mapped over a batch and differentiated, also twice. The functions do not
check their arguments, because the callers do.

    rows.py      the sums of a row, in which one class is kept apart from all others; softmax and its logarithms
    wanted.py    targets and options, turned into numbers per row and per class
    summary.py   the numbers that a loss needs to know about a block of classes; two blocks can be merged
    loss.py      the loss and y - t; log-probabilities and entropies
"""

from softmaxloss.array.loss import gradients, log_probs, losses, losses_and_gradients, row_weights
from softmaxloss.array.rows import log_softmax, logsumexp, softmax
from softmaxloss.array.wanted import Options

__all__ = [
    "Options",
    "gradients",
    "log_probs",
    "log_softmax",
    "logsumexp",
    "losses",
    "losses_and_gradients",
    "row_weights",
    "softmax",
]
