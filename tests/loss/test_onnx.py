"""The tests that ONNX publishes for its operators, through an adapter from its attributes to ours."""

from collections import Counter
from importlib import import_module

import numpy as np
import onnx.helper
import pytest
from onnx.backend.test.case import node as onnx_tests

import softmaxloss as sl


def softmax(x, *, axis=-1):
    return (sl.softmax(x, axis=axis),)


def log_softmax(x, *, axis=-1):
    return (sl.log_softmax(x, axis=axis),)


def softmax_cross_entropy(x, labels, class_weight=None, **attributes):
    return sl.cross_entropy(x, labels, axis=1, class_weight=class_weight, **attributes), sl.log_softmax(x, axis=1)


def negative_log_likelihood(x, labels, class_weight=None, *, reduction, ignore_index=None):
    """Of x as they are, -w x_t, which need not be log-probabilities: w (lse - x_t) less w lse, which cancels."""
    x = x.astype(np.float64)
    loss, _ = softmax_cross_entropy(x, labels, class_weight, reduction=reduction, ignore_index=ignore_index)
    ignored = labels == ignore_index
    of_class = np.ones(x.shape[1]) if class_weight is None else class_weight
    weight = np.where(ignored, 0.0, of_class[np.where(ignored, 0, labels)])
    excess = weight * sl.logsumexp(x, axis=1)
    return (loss - {"none": excess, "sum": excess.sum(), "mean": excess.sum() / weight.sum()}[reduction],)


ADAPTERS = {
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
}
for module in ("softmax", "logsoftmax", "softmax_cross_entropy_loss", "negativeloglikelihoodloss"):
    import_module(f"{onnx_tests.__name__}.{module}")  # adds its cases to the list
# Each also comes "expanded" into smaller operators, with the same inputs and outputs, which shows nothing more.
TESTS = [test for test in onnx_tests._NodeTestCases if test.model.graph.node[0].op_type in ADAPTERS]


def test_all_tests_that_onnx_publishes_are_found():
    found = Counter(test.model.graph.node[0].op_type for test in TESTS)
    published = {"Softmax": 7, "LogSoftmax": 7, "SoftmaxCrossEntropyLoss": 34, "NegativeLogLikelihoodLoss": 18}
    assert found >= Counter(published)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_a_published_test_passes_a_thousand_times_as_closely_as_onnx_asks(test):
    """ONNX allows a relative error of 1e-3 and an absolute one of 1e-7, which is the rounding of its numbers near 1."""
    (operator,) = test.model.graph.node
    ((inputs, outputs),) = test.data_sets
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
    if "reduction" in attributes:
        attributes["reduction"] = attributes["reduction"].decode()
    results = ADAPTERS[operator.op_type](*inputs, **attributes)
    for got, right in zip(results[: len(outputs)], outputs, strict=True):
        assert np.shape(got) == np.shape(right)
        np.testing.assert_allclose(got, right, rtol=test.rtol / 1000, atol=test.atol)
