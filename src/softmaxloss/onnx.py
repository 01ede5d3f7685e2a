"""A fitted classifier as an ONNX model: scaling, a linear layer, softmax, and the label of the most probable class."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from softmaxloss import __version__
from softmaxloss.classifier import SoftmaxClassifier
from softmaxloss.core import checks
from softmaxloss.linear_fit import all_classes

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError('softmaxloss.onnx needs the package onnx: pip install "softmaxloss[onnx]"') from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxloss.preparation import TablePreparation

__all__ = ["to_onnx"]

OLDEST_OPSET = 13  # the first whose Softmax works along a single axis


def to_onnx(classifier: Any, *, opset: int = OLDEST_OPSET, metadata: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Return a fitted classifier as an ONNX model with the same labels and probabilities.

    The input ``X`` has shape (samples, features). The outputs are ``label``, shape (samples,), and ``probabilities``,
    shape (samples, classes), with columns in the order of `classes_`.

    Parameters
    ----------
    classifier : SoftmaxClassifier, or Pipeline that ends with one
        Steps before it may be `StandardScaler`. The pipeline in a model of `softmaxloss train` works, too, if the model
        learned only from columns of numbers. ``X`` then has these columns, in the order of the metadata entry
        "features", and a missing value is NaN.
    opset : int, default 13
        Version of ONNX's operators, from 13 to the newest that the package onnx knows. More runtimes support older
        versions.
    metadata : dict, optional
        More entries for the model's metadata: texts, or values that JSON can hold.

    Returns
    -------
    onnx.ModelProto
        ``X`` and the probabilities are float32 if the classifier was fitted on float32 data, else float64. A model of
        `softmaxloss train` takes float64, like the tables, but returns float32. Labels are integers, texts, floats or
        bools. The metadata holds "format", "scikit_learn" and, if the columns have names, "features".

    Raises
    ------
    TypeError
        If the classifier or a step before it is of another kind, or ONNX cannot hold its labels.
    ValueError
        If `opset` is out of range, or the model learned from words or dates.
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.
    ImportError
        When this module is imported without the package onnx.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from softmaxloss import SoftmaxClassifier
    >>> from softmaxloss.onnx import to_onnx
    >>> model = to_onnx(make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(*load_iris(return_X_y=True)))
    >>> [node.op_type for node in model.graph.node]
    ['Sub', 'Div', 'Gemm', 'Softmax', 'ArgMax', 'Gather']
    >>> onnx.save(model, "iris.onnx")  # doctest: +SKIP
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= checks.integer("opset", opset) <= newest:
        raise ValueError(
            f"opset must lie between {OLDEST_OPSET} and {newest}, the newest that the package onnx knows, got {opset}"
        )
    *before, last = [step for _, step in classifier.steps] if isinstance(classifier, Pipeline) else [classifier]
    if not isinstance(last, SoftmaxClassifier):
        raise TypeError(
            f"classifier must be a SoftmaxClassifier, or a pipeline that ends with one, got {type(last).__name__}"
        )
    check_is_fitted(last)
    classes = _labels(last.classes_)
    coef, intercept = all_classes(last.coef_, last.intercept_)

    graph, value, samples = _Graph(), "X", _value("X", coef.dtype, ["samples", coef.shape[1]])
    names = getattr(classifier, "feature_names_in_", None)
    for step in before:
        if type(step).__module__ == "softmaxloss.preparation":  # not imported here: it needs polars
            names = _columns(step)
            samples = _value("X", np.dtype(np.float64), ["samples", len(names)])
            value = _prepared(graph, value, step)
            value = graph.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(coef.dtype))
        elif isinstance(step, StandardScaler):
            value = _scaled(graph, value, step, coef.dtype)
        elif step not in {None, "passthrough"}:
            raise TypeError(
                f"classifier must have no other steps than StandardScaler and SoftmaxClassifier, got {step!r}; export "
                "the SoftmaxClassifier alone, and apply the other steps before it"
            )

    logits = graph.node("Gemm", value, graph.constant(coef), graph.constant(intercept), transB=1)
    graph.node("Softmax", logits, axis=1, output="probabilities")
    best = graph.node("ArgMax", logits, axis=1, keepdims=0)
    labels = graph.constant(classes)
    graph.node("Gather", labels, best, axis=0, output="label")
    outputs = [_value("label", classes.dtype, ["samples"]), _value("probabilities", coef.dtype, ["samples", len(coef)])]
    opsets = [helper.make_opsetid("", int(opset))]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "softmaxloss", [samples], outputs, graph.constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="softmaxloss",
        producer_version=__version__,
    )
    entries: dict[str, Any] = {"format": "softmaxloss", "scikit_learn": sklearn.__version__}
    entries |= ({} if names is None else {"features": list(names)}) | (metadata or {})
    helper.set_model_props(model, {key: _text(entry) for key, entry in entries.items()})
    return model


class _Graph:
    """Nodes and constants, in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _scaled(graph: _Graph, value: str, scaler: StandardScaler, dtype: np.dtype[Any]) -> str:
    """Add the nodes for a scaler, in the precision in which the scaler computes."""
    check_is_fitted(scaler)
    if scaler.with_mean:
        value = graph.node("Sub", value, graph.constant(scaler.mean_.astype(dtype)))
    if scaler.with_std:
        value = graph.node("Div", value, graph.constant(scaler.scale_.astype(dtype)))
    return value


def _columns(preparation: TablePreparation) -> list[str]:
    """Return the columns of numbers that a model learned from; ValueError if it learned from others, too."""
    check_is_fitted(preparation)
    others = [*preparation.words, *preparation.dates]
    if others:
        raise ValueError(
            "classifier must have learned from numbers alone to be exported, got one that learned from the words or "
            f"dates in {', '.join(map(repr, others))}; train without these columns (softmaxloss train --drop), or use "
            "load_model"
        )
    return list(preparation.numbers)


def _prepared(graph: _Graph, value: str, preparation: TablePreparation) -> str:
    """Add the nodes that fill missing values, add features that mark them, and scale each part of a table."""
    columns = list(preparation.numbers)
    missing, parts = graph.node("IsNaN", value), []
    for names, (imputer, scaler) in preparation.parts_:
        places = np.array([columns.index(name) for name in names])
        some, gaps = (graph.node("Gather", of, graph.constant(places), axis=1) for of in (value, missing))
        features = graph.node("Where", gaps, graph.constant(imputer.statistics_), some)
        marked = () if imputer.indicator_ is None else imputer.indicator_.features_
        if len(marked):
            marks = graph.node("Gather", gaps, graph.constant(np.asarray(marked, np.int64)), axis=1)
            marks = graph.node("Cast", marks, to=onnx.TensorProto.DOUBLE)
            features = graph.node("Concat", features, marks, axis=1)
        parts.append(_scaled(graph, features, scaler, np.dtype(np.float64)))
    return graph.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _labels(classes: NDArray[Any]) -> NDArray[Any]:
    """Return classes in a form that ONNX can hold."""
    if classes.dtype.kind == "b":
        return classes
    if classes.dtype.kind in "iu" and (len(classes) == 0 or classes.max() <= np.iinfo(np.int64).max):
        return classes.astype(np.int64)
    if classes.dtype.kind == "f":
        return classes.astype(np.float64)
    if all(isinstance(label, str) for label in classes):
        return classes.astype(object)
    raise TypeError(
        f"classifier must have labels that are integers, texts, floats or bools to be exported, got {classes[0]!r}; "
        "train it with such labels"
    )


def _value(name: str, dtype: np.dtype[Any], shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def _text(entry: Any) -> str:
    return entry if isinstance(entry, str) else json.dumps(entry)
