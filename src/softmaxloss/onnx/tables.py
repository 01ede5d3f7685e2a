"""The features that `softmaxloss train` makes of a table, as nodes of an ONNX graph."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from softmaxloss.onnx.graph import scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sklearn.impute import SimpleImputer

    from softmaxloss.onnx.graph import Graph
    from softmaxloss.preparation import TablePreparation


def prepared(graph: Graph, preparation: TablePreparation) -> str:
    """Add the inputs of a table and the nodes that make features of them. Return the name of the features (float64)."""
    check_is_fitted(preparation)
    texts: dict[str, str] = {}
    if preparation.words or preparation.dates:
        number, text = "float64, NaN if missing", "text without spaces around it, empty if missing"
        columns = [graph.input(name, float, 1, number) for name in preparation.numbers]
        texts = {name: graph.input(name, object, 1, text) for name in preparation.words}
        date = "float64, days since 1970-01-01, NaN if missing"
        dates = [graph.input(name, float, 1, date) for name in preparation.dates]
        columns += [part for days in dates for part in of_date(graph, days)]
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


def _of_numbers(graph: Graph, numbers: str, imputer: SimpleImputer, scaler: StandardScaler) -> str:
    """Add the nodes that fill missing numbers, add features that mark them, and scale."""
    missing = graph.node("IsNaN", numbers)
    features = graph.node("Where", missing, graph.constant(imputer.statistics_), numbers)
    marked = () if imputer.indicator_ is None else imputer.indicator_.features_
    if len(marked):
        marks = graph.node("Gather", missing, graph.constant(np.asarray(marked, np.int64)), axis=1)
        features = graph.joined([features, graph.node("Cast", marks, to=onnx.TensorProto.DOUBLE)])
    return scaled(graph, features, scaler, np.dtype(np.float64))


def _of_words(graph: Graph, texts: str, features: Sequence[str | None], usual: str) -> str:
    """Add the nodes of a column of words: one feature for each word, and one (None) for all others.

    LabelEncoder looks up a text as it is written. So it gets all spellings, in capitals and small letters, of missing
    values and of truth values.
    """
    from softmaxloss.columns import MISSING  # noqa: PLC0415 - it needs polars, as the preparation does

    places = {word: place for place, word in enumerate(features)}
    other = places.pop(None, -1)  # -1 is no feature
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


def of_date(graph: Graph, days: str) -> list[str]:
    """Add the nodes of a date, given as days since 1970-01-01: these days, the month and the weekday, as numbers.

    The calendar repeats after 400 years, which are 146097 days. In years that begin on the 1st of March, a leap day is
    the last day of its year. In them month m, from 0, begins after floor((153 m + 2) / 5) days.
    """

    def computed(value: str, *steps: tuple[str, float]) -> str:
        for kind, number in steps:
            attributes: dict[str, Any] = {"fmod": 1} if kind == "Mod" else {}  # ONNX requires it for floats
            value = graph.node(kind, value, graph.constant(float(number)), **attributes)
        return value

    def floor(value: str) -> str:
        return graph.node("Floor", value)

    day = floor(days)
    march = computed(day, ("Add", 719_468 + 1000 * 146_097))  # days since a 1st of March before any date
    day_of_century = floor(computed(march, ("Mul", 4), ("Add", 3), ("Mod", 146_097), ("Div", 4)))
    day_of_year = floor(computed(day_of_century, ("Mul", 4), ("Add", 3), ("Mod", 1461), ("Div", 4)))
    months_since_march = floor(computed(day_of_year, ("Mul", 5), ("Add", 2), ("Div", 153)))
    month = computed(months_since_march, ("Add", 2), ("Mod", 12), ("Add", 1))
    weekday = computed(march, ("Add", 2), ("Mod", 7), ("Add", 1))
    return [day, month, weekday]
