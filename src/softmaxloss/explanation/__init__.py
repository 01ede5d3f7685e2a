"""Why the gradient is y - t: all steps of softmax with loss for one row of logits, and backpropagation through them."""

from softmaxloss.explanation.row import Explanation, explain

__all__ = ["Explanation", "explain"]
