"""An ONNX graph, to which inputs, nodes and constants are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from sklearn.preprocessing import StandardScaler

OUTPUTS = ("label", "probabilities")


class Graph:
    """Inputs, nodes and constants, in the order in which they were added."""

    def __init__(self) -> None:
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = {"", *OUTPUTS}  # "" means no value in ONNX

    def input(self, name: str, dtype: Any, width: int, says: str = "") -> str:
        """Add an input of shape (samples, width), described by `says`, and return its name."""
        own = self._unique(name)
        says = says if own == name else f"column {name!r}: {says}"
        self.inputs.append(value_info(own, np.dtype(dtype), ["samples", width], says))
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
        """Add a node that puts the columns of values side by side, and return its name."""
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=1)

    def _unique(self, name: str) -> str:
        """Return a name that is not taken yet. A column of a table may have any name, even one of ours."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def scaled(graph: Graph, value: str, scaler: StandardScaler, dtype: np.dtype[Any]) -> str:
    """Add the nodes for a scaler, in the precision in which the scaler computes."""
    check_is_fitted(scaler)
    if scaler.with_mean:
        value = graph.node("Sub", value, graph.constant(scaler.mean_.astype(dtype)))
    if scaler.with_std:
        value = graph.node("Div", value, graph.constant(scaler.scale_.astype(dtype)))
    return value


def value_info(name: str, dtype: np.dtype[Any], shape: list[Any], says: str = "") -> onnx.ValueInfoProto:
    """Return the description of an input or output."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape, says)
