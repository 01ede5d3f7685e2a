"""Why it is y - t: one row of logits, all steps of softmax with loss, and backpropagation through them."""

from softmaxloss.explanation.row import Explanation, explain

__all__ = ["Explanation", "explain"]
