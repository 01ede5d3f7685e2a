"""Softmax with loss for PyTorch: the losses of `torch.nn.functional`, accurate, fast, and in less memory.

For tensors on the CPU, the kernels work on the memory of the tensors. On other devices, and where PyTorch transforms or
traces functions, PyTorch's operations compute the same formulas.
"""

from softmaxloss.torch.errors import TensorTypeError, TensorValueError
from softmaxloss.torch.functional import cross_entropy, log_softmax, softmax
from softmaxloss.torch.fuse import fuse_head, unfuse_head
from softmaxloss.torch.linear import linear_cross_entropy
from softmaxloss.torch.log_probabilities import LogProbs, linear_log_probs, log_probs
from softmaxloss.torch.modules import CrossEntropyLoss, LinearCrossEntropyLoss

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "LogProbs",
    "TensorTypeError",
    "TensorValueError",
    "cross_entropy",
    "fuse_head",
    "linear_cross_entropy",
    "linear_log_probs",
    "log_probs",
    "log_softmax",
    "softmax",
    "unfuse_head",
]
