"""Exported models, checked by ONNX and run by onnxruntime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(content, x):
    """Return the labels and probabilities of a model, for samples that are cast to the dtypes that it asks for.

    Samples are an array, or a list of columns in the order of the inputs: each cell is a number, a text or None, and a
    day of a column of days is a number, too.
    """
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": object}
    feed = {}
    if isinstance(x, list):
        for given, column in zip(session.get_inputs(), x, strict=True):
            assert given.shape[1:] == [1]
            gap = "" if given.type == "tensor(string)" else np.nan
            cells = [gap if cell is None else cell for cell in column]
            feed[given.name] = np.array(cells, dtypes[given.type]).reshape(-1, 1)
    else:
        (given,) = session.get_inputs()
        feed["X"] = np.asarray(x).astype(dtypes[given.type])
    return session.run(["label", "probabilities"], feed)
