"""A classifier trained on a table as one safetensors file: plain arrays and JSON, nothing that is executed.

Tensors: weight (1 or V, D) float32, bias (1 or V,) float32, mean (D,) float64, scale (D,) float64, class_counts
(V,) int64, loss_curve (iterations + 1,) float64. With two classes, weight and bias have one row: the logit of the
second class against the first. Metadata: format, format_version, and as JSON classes, feature_names, target_name,
n_iter, options; sha256 is over all of it.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from softmaxloss.classifier import SoftmaxClassifier

FORMAT = "softmaxloss"
FORMAT_VERSION = "1"


class ModelFileError(ValueError):
    """The file is damaged, or not a model of this library."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TableModel:
    """A fitted classifier and what it takes to apply it to a table.

    Attributes
    ----------
    classifier : SoftmaxClassifier
        Fitted on standardised features, ``(x - mean) / scale``.
    mean, scale : ndarray of float64, shape (D,)
        Of the features in training; scale is above 0.
    feature_names : list of str, length D
        The columns, in the order of the weights.
    target_name : str
        The column that was learned.
    class_counts : ndarray of int64, shape (V,)
        Training rows of each class.
    options : dict
        How it was trained; values that JSON can hold.
    """

    classifier: SoftmaxClassifier
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    feature_names: list[str]
    target_name: str
    class_counts: NDArray[np.int64]
    options: dict[str, Any]


def model_to_bytes(model: TableModel) -> bytes:
    """Give the content of the model's file.

    Parameters
    ----------
    model : TableModel
        Its classes may be text, integers or booleans; they keep that type.

    Returns
    -------
    bytes
        A whole safetensors file.
    """
    classifier = model.classifier
    tensors = {
        "weight": classifier.coef_,
        "bias": classifier.intercept_,
        "mean": model.mean,
        "scale": model.scale,
        "class_counts": model.class_counts,
        "loss_curve": np.asarray(classifier.loss_curve_, dtype=np.float64),
    }
    described = {
        "classes": classifier.classes_.tolist(),
        "feature_names": model.feature_names,
        "target_name": model.target_name,
        "n_iter": int(classifier.n_iter_),
        "options": model.options,
    }
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION}
    metadata |= {key: json.dumps(value) for key, value in described.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save(tensors, metadata | {"sha256": _digest(metadata, tensors)})


def load_model(path: Path) -> TableModel:
    """Read a model's file.

    Parameters
    ----------
    path : Path
        A file with the content that `model_to_bytes` gives.

    Returns
    -------
    TableModel
        It predicts as the saved one did, to the last bit.

    Raises
    ------
    ModelFileError
        The file is damaged, or was not written by this library or this version of it.
    OSError
        It cannot be read.
    """
    with path.open("rb"):  # for an OSError that names the file
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_origin(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iteration)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is damaged, or not a safetensors file") from error
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise ModelFileError(f"{path} is damaged: its content does not match its checksum")
    described = {
        key: json.loads(metadata[key]) for key in ("classes", "feature_names", "target_name", "n_iter", "options")
    }
    classifier = SoftmaxClassifier()
    classifier.coef_ = tensors["weight"]
    classifier.intercept_ = tensors["bias"]
    classifier.classes_ = np.array(described["classes"])
    classifier.n_features_in_ = len(described["feature_names"])
    classifier.n_iter_ = described["n_iter"]
    classifier.loss_curve_ = tensors["loss_curve"].tolist()
    return TableModel(
        classifier=classifier,
        mean=tensors["mean"],
        scale=tensors["scale"],
        feature_names=described["feature_names"],
        target_name=described["target_name"],
        class_counts=tensors["class_counts"],
        options=described["options"],
    )


def _check_origin(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path} was not written by softmaxloss")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(f"{path} has format version {version}; this softmaxloss reads version {FORMAT_VERSION}")


def _digest(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> str:
    """Sum up the whole content, so that a damaged file is refused before it gives wrong answers."""
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
