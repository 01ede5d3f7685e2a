"""Exported models, checked by ONNX and run by onnxruntime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(content, x):
    """Return the labels and probabilities of a model, for samples that are cast to the dtype that it asks for."""
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}[given.type]
    return session.run(["label", "probabilities"], {"X": np.asarray(x).astype(dtype)})
