"""A fitted classifier as an ONNX model: the features of a table, scaling, a linear layer, softmax, and the label."""

from __future__ import annotations

import json
from itertools import product
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
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from sklearn.impute import SimpleImputer

    from softmaxloss.preparation import TablePreparation

__all__ = ["to_onnx"]

OLDEST_OPSET = 13  # the first whose Softmax works along a single axis
ML_OPSET = 2  # the first whose LabelEncoder turns texts into integers
OUTPUTS = ("label", "probabilities")


def to_onnx(classifier: Any, *, opset: int = OLDEST_OPSET, metadata: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Return a fitted classifier as an ONNX model with the same labels and probabilities.

    The input ``X`` has shape (samples, features). The outputs are ``label``, shape (samples,), and ``probabilities``,
    shape (samples, classes), with columns in the order of `classes_`.

    A model of `softmaxloss train` that learned from texts or dates has one input for each column of its table instead,
    of shape (samples, 1) and with the name of the column. Texts and truth values are texts without spaces around
    them, "" where they are missing. Numbers are float64, NaN where they are missing. Dates are days since 1970-01-01,
    float64, NaN where they are missing.

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
        More entries for the model's metadata: texts, or values that JSON can hold.

    Returns
    -------
    onnx.ModelProto
        ``X`` and the probabilities are float32 if the classifier was fitted on float32 data, else float64. A model of
        `softmaxloss train` takes float64, like the tables, but returns float32. Labels are integers, texts, floats or
        bools. The metadata holds "format", "scikit_learn" and, if the columns have names, "features", in the order of
        the inputs. An input is named ``label_`` if its column is named ``label``, as an output has this name, and
        likewise ``probabilities_``.

    Raises
    ------
    TypeError
        If the classifier or a step before it is of another kind, or ONNX cannot hold its labels.
    ValueError
        If `opset` is out of range.
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
    *before, last = _steps(classifier)
    if not isinstance(last, SoftmaxClassifier):
        raise TypeError(
            f"classifier must be a SoftmaxClassifier, or a pipeline that ends with one, got {type(last).__name__}"
        )
    check_is_fitted(last)
    classes = _labels(last.classes_)
    coef, intercept = all_classes(last.coef_, last.intercept_)

    graph, names = _Graph(), getattr(classifier, "feature_names_in_", None)
    if before and type(before[0]).__module__ == "softmaxloss.preparation":  # not imported here: it needs polars
        preparation, *before = before
        names = preparation.columns
        value = _prepared(graph, preparation)
        value = graph.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(coef.dtype))
    else:
        value = graph.input("X", coef.dtype, coef.shape[1])
    for step in before:
        if isinstance(step, StandardScaler):
            value = _scaled(graph, value, step, coef.dtype)
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
    outputs = [_value("label", classes.dtype, ["samples"]), _value("probabilities", coef.dtype, ["samples", len(coef)])]
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


class _Graph:
    """Inputs, nodes and constants, in the order in which they were added."""

    def __init__(self) -> None:
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = {"", *OUTPUTS}  # ONNX reads "" as no value

    def input(self, name: str, dtype: Any, width: int, says: str = "") -> str:
        """Add an input of shape (samples, width), described by `says`, and return its name."""
        own = self._unique(name)
        says = says if own == name else f"column {name!r}: {says}"
        self.inputs.append(_value(own, np.dtype(dtype), ["samples", width], says))
        return own

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = output or self._unique(f"{kind.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        """Add a constant and return its name."""
        name = self._unique(f"constant_{len(self.constants)}")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def joined(self, values: Sequence[str]) -> str:
        """Put the columns of values side by side."""
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=1)

    def _unique(self, name: str) -> str:
        """Return a name that nothing else has: a column of a table may have any name."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _steps(estimator: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline and of pipelines in it; anything else is a single step."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _steps(step)
    else:
        yield estimator


def _scaled(graph: _Graph, value: str, scaler: StandardScaler, dtype: np.dtype[Any]) -> str:
    """Add the nodes for a scaler, in the precision in which the scaler computes."""
    check_is_fitted(scaler)
    if scaler.with_mean:
        value = graph.node("Sub", value, graph.constant(scaler.mean_.astype(dtype)))
    if scaler.with_std:
        value = graph.node("Div", value, graph.constant(scaler.scale_.astype(dtype)))
    return value


def _prepared(graph: _Graph, preparation: TablePreparation) -> str:
    """Add the inputs of a table and the nodes that make features of them; return the features, in float64."""
    check_is_fitted(preparation)
    texts: dict[str, str] = {}
    if preparation.words or preparation.dates:
        number, text = "float64, NaN if missing", "text without spaces around it, empty if missing"
        columns = [graph.input(name, float, 1, number) for name in preparation.numbers]
        texts = {name: graph.input(name, object, 1, text) for name in preparation.words}
        date = "float64, days since 1970-01-01, NaN if missing"
        dates = [graph.input(name, float, 1, date) for name in preparation.dates]
        columns += [part for days in dates for part in _of_date(graph, days)]
    else:
        columns = [graph.input("X", float, len(preparation.numbers))]
    numbers = graph.joined(columns) if columns else ""
    word_features = preparation.word_features
    parts, place = [], 0
    for names, (imputer, last) in preparation.parts_:
        if isinstance(last, StandardScaler):
            places = graph.constant(np.arange(place, place := place + len(names)))
            parts.append(_of_numbers(graph, graph.node("Gather", numbers, places, axis=1), imputer, last))
        else:
            for name, usual in zip(names, imputer.statistics_, strict=True):
                parts.append(_of_words(graph, texts[name], word_features[name], usual))
    return graph.joined(parts)


def _of_numbers(graph: _Graph, numbers: str, imputer: SimpleImputer, scaler: StandardScaler) -> str:
    """Add the nodes that fill missing numbers, add features that mark them, and scale."""
    missing = graph.node("IsNaN", numbers)
    features = graph.node("Where", missing, graph.constant(imputer.statistics_), numbers)
    marked = () if imputer.indicator_ is None else imputer.indicator_.features_
    if len(marked):
        marks = graph.node("Gather", missing, graph.constant(np.asarray(marked, np.int64)), axis=1)
        features = graph.joined([features, graph.node("Cast", marks, to=onnx.TensorProto.DOUBLE)])
    return _scaled(graph, features, scaler, np.dtype(np.float64))


def _of_words(graph: _Graph, texts: str, features: Sequence[str | None], usual: str) -> str:
    """Add the nodes of a column of words: one feature for each word, and one (None) for all others.

    LabelEncoder looks up a text as it stands, so it is given all spellings of missing and truth values.
    """
    from softmaxloss.columns import MISSING  # noqa: PLC0415 - it needs polars, as the preparation does

    places = {word: place for place, word in enumerate(features)}
    other = places.pop(None, -1)  # no feature is at -1
    spelled = [(text, usual) for text in MISSING] + [(text, text) for text in ("true", "false")]
    words = {word: word for word in places} | {
        "".join(letters): word
        for text, word in spelled
        for letters in product(*zip(text.lower(), text.upper(), strict=True))
    }
    place = graph.node(
        "LabelEncoder",
        texts,
        domain="ai.onnx.ml",
        keys_strings=list(words),
        values_int64s=[places.get(word, other) for word in words.values()],
        default_int64=other,
    )
    one_hot = graph.node("Equal", place, graph.constant(np.arange(len(features), dtype=np.int64)))
    return graph.node("Cast", one_hot, to=onnx.TensorProto.DOUBLE)


def _of_date(graph: _Graph, days: str) -> list[str]:
    """Add the nodes of a date, given as days since 1970-01-01: these days, the month and the weekday, as numbers.

    The calendar repeats after 146097 days, in 400 years. Counted from a 1st of March, leap days end their years and the
    lengths of months follow the line (153 * month + 2) / 5.
    """

    def computed(value: str, *steps: tuple[str, float]) -> str:
        for kind, number in steps:
            attributes: dict[str, Any] = {"fmod": 1} if kind == "Mod" else {}  # ONNX asks for it with floats
            value = graph.node(kind, value, graph.constant(float(number)), **attributes)
        return value

    def floor(value: str) -> str:
        return graph.node("Floor", value)

    day = floor(days)
    march = computed(day, ("Add", 719_468 + 1000 * 146_097))  # since a 1st of March before all years that have a name
    day_of_century = floor(computed(march, ("Mul", 4), ("Add", 3), ("Mod", 146_097), ("Div", 4)))
    day_of_year = floor(computed(day_of_century, ("Mul", 4), ("Add", 3), ("Mod", 1461), ("Div", 4)))
    months_since_march = floor(computed(day_of_year, ("Mul", 5), ("Add", 2), ("Div", 153)))
    month = computed(months_since_march, ("Add", 2), ("Mod", 12), ("Add", 1))
    weekday = computed(march, ("Add", 2), ("Mod", 7), ("Add", 1))
    return [day, month, weekday]


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


def _value(name: str, dtype: np.dtype[Any], shape: list[Any], says: str = "") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape, says)


def _text(entry: Any) -> str:
    return entry if isinstance(entry, str) else json.dumps(entry)
