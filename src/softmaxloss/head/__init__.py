"""Linear layer, softmax and loss as one, without storing all the logits at once."""

from softmaxloss.head.layer import LinearGradients
from softmaxloss.head.linear import linear_cross_entropy, linear_cross_entropy_and_grad, linear_hvp, linear_metrics
from softmaxloss.head.log_probabilities import linear_log_probs, linear_log_probs_and_grad
from softmaxloss.head.sampled import Sampled

__all__ = [
    "LinearGradients",
    "Sampled",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_hvp",
    "linear_log_probs",
    "linear_log_probs_and_grad",
    "linear_metrics",
]
