"""A fitted classifier as an ONNX model: the features of a table, scaling, a linear layer, softmax, and the label."""

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
from softmaxloss.objective import all_classes

try:
    import onnx
    from onnx import helper
except ImportError as error:
    raise ImportError('softmaxloss.onnx needs the package onnx: pip install "softmaxloss[onnx]"') from error

from softmaxloss.onnx.graph import Graph, scaled, value_info
from softmaxloss.onnx.tables import prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["to_onnx"]

OLDEST_OPSET = 13  # the first version whose Softmax works along a single axis
ML_OPSET = 2  # the first version whose LabelEncoder turns texts into integers


def to_onnx(classifier: Any, *, opset: int = OLDEST_OPSET, metadata: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Return a fitted classifier as an ONNX model with the same labels and probabilities.

    The input ``X`` has shape (samples, features). The outputs are ``label``, shape (samples,), and ``probabilities``,
    shape (samples, classes), with columns in the order of `classes_`.

    A model of `softmaxloss train` that learned from texts or dates has other inputs: one for each column of its table,
    of shape (samples, 1) and with the name of the column. Texts and truth values are texts without spaces around
    them; a missing one is "". Numbers are float64. Dates are days since 1970-01-01, as float64. A missing number or
    date is NaN.

    Parameters
    ----------
    classifier : SoftmaxClassifier, or Pipeline that ends with one
        Steps before it may be `StandardScaler`, also in pipelines inside the pipeline. The pipeline that `load_model`
        returns works, too. If its model learned only from numbers, ``X`` has these columns, in the order of the
        metadata entry "features", and a missing value is NaN.
    opset : int, default 13
        Version of ONNX's operators, from 13 to the newest that the package onnx knows. More runtimes support older
        versions.
    metadata : dict, optional
        Further entries of the model's metadata: texts, or values that JSON can hold.

    Returns
    -------
    onnx.ModelProto
        ``X`` and the probabilities are float32 if the classifier was fitted on float32 data, else float64. A model of
        `softmaxloss train` takes float64, like the tables, but returns float32. Labels are integers, texts, floats or
        bools. The metadata holds "format", "scikit_learn" and, if the columns have names, "features", in the order of
        the inputs. The input of a column named ``label`` has the name ``label_``, because an output has the name
        ``label``. Likewise ``probabilities_``.

    Raises
    ------
    TypeError
        If the classifier or a step before it is of another kind, or ONNX cannot hold its labels.
    ValueError
        If `opset` is out of range.
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.
    ImportError
        If the package onnx is missing. This module raises it when it is imported.

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
    *before, last = _steps(classifier)
    if not isinstance(last, SoftmaxClassifier):
        raise TypeError(
            f"classifier must be a SoftmaxClassifier, or a pipeline that ends with one, got {type(last).__name__}"
        )
    check_is_fitted(last)
    classes = _labels(last.classes_)
    coef, intercept = all_classes(last.coef_, last.intercept_)

    graph, names = Graph(), getattr(classifier, "feature_names_in_", None)
    if before and type(before[0]).__module__ == "softmaxloss.preparation":  # not imported here: it needs polars
        preparation, *before = before
        names = preparation.columns
        value = prepared(graph, preparation)
        value = graph.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(coef.dtype))
    else:
        value = graph.input("X", coef.dtype, coef.shape[1])
    for step in before:
        if isinstance(step, StandardScaler):
            value = scaled(graph, value, step, coef.dtype)
        elif step not in {None, "passthrough"}:
            raise TypeError(
                "classifier may have the steps StandardScaler, and as the first step the preparation of tables by "
                f"softmaxloss train, before its SoftmaxClassifier, got {step!r}; apply this step before the ONNX model"
            )

    logits = graph.node("Gemm", value, graph.constant(coef), graph.constant(intercept), transB=1)
    graph.node("Softmax", logits, axis=1, output="probabilities")
    best = graph.node("ArgMax", logits, axis=1, keepdims=0)
    labels = graph.constant(classes)
    graph.node("Gather", labels, best, axis=0, output="label")
    outputs = [
        value_info("label", classes.dtype, ["samples"]),
        value_info("probabilities", coef.dtype, ["samples", len(coef)]),
    ]
    opsets = [helper.make_opsetid("", int(opset))]
    if any(node.domain for node in graph.nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "softmaxloss", graph.inputs, outputs, graph.constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="softmaxloss",
        producer_version=__version__,
    )
    entries: dict[str, Any] = {"format": "softmaxloss", "scikit_learn": sklearn.__version__}
    entries |= ({} if names is None else {"features": list(names)}) | (metadata or {})
    helper.set_model_props(model, {key: _text(entry) for key, entry in entries.items()})
    return model


def _steps(estimator: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline and of the pipelines in it. Any other estimator is a single step."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _steps(step)
    else:
        yield estimator


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


def _text(entry: Any) -> str:
    return entry if isinstance(entry, str) else json.dumps(entry)
