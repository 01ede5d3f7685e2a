"""Every public function, how to call it, and the names of what it takes."""

import inspect

import numpy as np

import softmaxloss as sl

LOGITS = np.zeros((2, 3))
LABELS = np.array([0, 2])
ONE_HOT = np.eye(3)[[0, 2]]
FEATURES, WEIGHT = np.zeros((2, 5)), np.zeros((3, 5))


def softmax_with_loss(x, t, dout=1, **options):
    layer = sl.SoftmaxWithLoss(**options)
    layer.forward(x, t)
    return layer.backward(dout)


def affine_softmax_with_loss(weight, x, t, bias=None, dout=1, **options):
    layer = sl.AffineSoftmaxWithLoss(weight, bias, **options)
    layer.forward(x, t)
    return layer.backward(dout)


LOSS = {"logits": LOGITS, "targets": LABELS}
COSINES = {"cosines": LOGITS, "targets": LABELS}
LINEAR = {"features": FEATURES, "weight": WEIGHT, "targets": LABELS}
FUNCTIONS = {  # each public name, how to call it, and arguments that are right
    "softmax": (sl.softmax, {"logits": LOGITS}),
    "log_softmax": (sl.log_softmax, {"logits": LOGITS}),
    "logsumexp": (sl.logsumexp, {"logits": LOGITS}),
    "cross_entropy": (sl.cross_entropy, LOSS),
    "cross_entropy_and_grad": (sl.cross_entropy_and_grad, LOSS),
    "metrics": (sl.metrics, LOSS),
    "log_probs": (sl.log_probs, LOSS),
    "log_probs_and_grad": (sl.log_probs_and_grad, LOSS),
    "fit_temperature": (sl.fit_temperature, LOSS),
    "hessian_diagonal": (sl.hessian_diagonal, LOSS),
    "hvp": (sl.hvp, {**LOSS, "vector": LOGITS}),
    "jvp": (sl.jvp, {**LOSS, "vector": LOGITS}),
    "margin_cross_entropy": (sl.margin_cross_entropy, COSINES),
    "margin_cross_entropy_and_grad": (sl.margin_cross_entropy_and_grad, COSINES),
    "summarize": (sl.summarize, LOSS),
    "warmup": (sl.warmup, {"dtypes": "float64"}),
    "linear_cross_entropy": (sl.linear_cross_entropy, LINEAR),
    "linear_cross_entropy_and_grad": (sl.linear_cross_entropy_and_grad, LINEAR),
    "linear_metrics": (sl.linear_metrics, LINEAR),
    "linear_log_probs": (sl.linear_log_probs, LINEAR),
    "linear_log_probs_and_grad": (sl.linear_log_probs_and_grad, LINEAR),
    "Sampled": (sl.Sampled, {}),
    "SoftmaxWithLoss": (softmax_with_loss, {"x": LOGITS, "t": LABELS}),
    "AffineSoftmaxWithLoss": (affine_softmax_with_loss, {"weight": WEIGHT, "x": FEATURES, "t": LABELS}),
    "check_gradient": (sl.check_gradient, {"layer": sl.SoftmaxWithLoss(), "x": LOGITS, "t": LABELS}),
    "set_num_threads": (sl.set_num_threads, {"n": 1}),
}
NOT_HERE = {
    "SoftmaxClassifier": "refuses in fit, as scikit-learn does: test_classifier.py",
    "Explanation": "a result",
    "ExplorerPage": "a result",
    "LinearGradients": "a result",
    "LogProbs": "a result",
    "explain": "takes one row: test_explain.py",
    "explore": "takes nothing",
    "Metrics": "a result",
    "RowSummary": "a result",
    "merge": "takes summaries: test_summary.py",
    "get_num_threads": "takes nothing",
    "linear_hvp": "takes a vector of three parts: test_head.py",
    "load_model": "takes a file: test_model_file.py",
}
# What the layers of the textbooks call x, t and dout is, in messages, called by what it has to be.
IN_LAYERS = {"logits": "x", "features": "x", "targets": "t", "upstream": "dout"}


def parameters_of(name):
    """Return the names of what a public function takes; a layer takes what its methods do, too."""
    public = getattr(sl, name)
    functions = [public, public.forward, public.backward] if hasattr(public, "forward") else [public]
    parameters = [p for function in functions for p in inspect.signature(function).parameters.values()]
    names = {p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names |= set(inspect.signature(sl.cross_entropy).parameters) - {"logits", "targets", "axis"}
    return names


def names_in(name):
    """Return the parameters of a function as WRONG calls them, and as the function does."""
    takes = parameters_of(name)
    x = "features" if "weight" in takes else "logits"
    in_layers = {
        general: own for general, own in IN_LAYERS.items() if own in takes and general in {x, "targets", "upstream"}
    }
    return in_layers | {own: own for own in takes - set(in_layers.values())}
