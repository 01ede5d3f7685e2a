"""Softmax with loss: the last layer of most neural classifiers and language models, accurate and fast on CPUs.

Importing this package loads nothing heavy. Each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softmaxloss.calibration import fit_temperature
    from softmaxloss.classifier import SoftmaxClassifier
    from softmaxloss.core.threads import get_num_threads, set_num_threads
    from softmaxloss.evaluation import Metrics, metrics
    from softmaxloss.explanation import Explanation, explain
    from softmaxloss.explorer import ExplorerPage, explore
    from softmaxloss.functional import cross_entropy, cross_entropy_and_grad, log_softmax, logsumexp, softmax
    from softmaxloss.gradient_check import check_gradient
    from softmaxloss.head import (
        LinearGradients,
        Sampled,
        linear_cross_entropy,
        linear_cross_entropy_and_grad,
        linear_hvp,
        linear_log_probs,
        linear_log_probs_and_grad,
        linear_metrics,
    )
    from softmaxloss.layers import AffineSoftmaxWithLoss, SoftmaxWithLoss
    from softmaxloss.log_probabilities import LogProbs, log_probs, log_probs_and_grad
    from softmaxloss.margin import margin_cross_entropy, margin_cross_entropy_and_grad
    from softmaxloss.model_file import load_model
    from softmaxloss.second_order import hessian_diagonal, hvp, jvp
    from softmaxloss.summary import RowSummary, merge, summarize
    from softmaxloss.warmup import warmup

__version__ = "0.1.0"
__all__ = [
    "AffineSoftmaxWithLoss",
    "Explanation",
    "ExplorerPage",
    "LinearGradients",
    "LogProbs",
    "Metrics",
    "RowSummary",
    "Sampled",
    "SoftmaxClassifier",
    "SoftmaxWithLoss",
    "check_gradient",
    "cross_entropy",
    "cross_entropy_and_grad",
    "explain",
    "explore",
    "fit_temperature",
    "get_num_threads",
    "hessian_diagonal",
    "hvp",
    "jvp",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_hvp",
    "linear_log_probs",
    "linear_log_probs_and_grad",
    "linear_metrics",
    "load_model",
    "log_probs",
    "log_probs_and_grad",
    "log_softmax",
    "logsumexp",
    "margin_cross_entropy",
    "margin_cross_entropy_and_grad",
    "merge",
    "metrics",
    "set_num_threads",
    "softmax",
    "summarize",
    "warmup",
]

_HOME = {
    "AffineSoftmaxWithLoss": "layers",
    "Explanation": "explanation",
    "ExplorerPage": "explorer",
    "LinearGradients": "head",
    "LogProbs": "log_probabilities",
    "Metrics": "evaluation",
    "RowSummary": "summary",
    "Sampled": "head",
    "SoftmaxClassifier": "classifier",
    "SoftmaxWithLoss": "layers",
    "check_gradient": "gradient_check",
    "cross_entropy": "functional",
    "cross_entropy_and_grad": "functional",
    "explain": "explanation",
    "explore": "explorer",
    "fit_temperature": "calibration",
    "get_num_threads": "core.threads",
    "hessian_diagonal": "second_order",
    "hvp": "second_order",
    "jvp": "second_order",
    "linear_cross_entropy": "head",
    "linear_cross_entropy_and_grad": "head",
    "linear_hvp": "head",
    "linear_log_probs": "head",
    "linear_log_probs_and_grad": "head",
    "linear_metrics": "head",
    "load_model": "model_file",
    "log_probs": "log_probabilities",
    "log_probs_and_grad": "log_probabilities",
    "log_softmax": "functional",
    "logsumexp": "functional",
    "margin_cross_entropy": "margin",
    "margin_cross_entropy_and_grad": "margin",
    "merge": "summary",
    "metrics": "evaluation",
    "set_num_threads": "core.threads",
    "softmax": "functional",
    "summarize": "summary",
    "warmup": "warmup",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
