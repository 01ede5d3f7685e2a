"""Linear layer, softmax and loss as one: the logits are never held in one piece."""

from softmaxloss.head.layer import LinearGradients
from softmaxloss.head.linear import linear_cross_entropy, linear_cross_entropy_and_grad, linear_hvp, linear_metrics

__all__ = [
    "LinearGradients",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_hvp",
    "linear_metrics",
]
