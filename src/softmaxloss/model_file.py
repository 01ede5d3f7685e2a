"""A classifier trained on a table as one safetensors file: plain arrays and JSON, nothing that is executed.

The metadata entry `model` describes the pipeline as JSON. It gives the class and the attributes of each estimator; the
class must be one of those listed here. Numeric arrays are tensors of the file, and the description refers to them by
name. Other metadata entries are format, format_version, scikit_learn (the version that made the estimators) and sha256
(the checksum of metadata and tensors).
"""

import json
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from softmaxloss.classifier import SoftmaxClassifier
from softmaxloss.preparation import TablePreparation

FORMAT = "softmaxloss"
FORMAT_VERSION = "4"
MODEL_NAME = "model.safetensors"
_REMEDY = f"pass the folder that softmaxloss train wrote, or the file {MODEL_NAME} in it"
ESTIMATORS = {
    kind.__name__: kind
    for kind in (
        MissingIndicator,
        OneHotEncoder,
        Pipeline,
        SimpleImputer,
        SoftmaxClassifier,
        StandardScaler,
        TablePreparation,
    )
}


class ModelFileError(ValueError):
    """The file is damaged, or not a model of this library."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TableModel:
    """A fitted pipeline and facts about its training.

    Attributes
    ----------
    pipeline : Pipeline
        A `TablePreparation`, then a `SoftmaxClassifier` whose classes are the labels of the table.
    target_name : str
        The column with the labels.
    class_counts : ndarray of int64, shape (V,)
        Training rows of each class.
    id_columns : list of str
        Columns that are copied into predictions.
    column_names : list of str
        All columns of the table, in its order.
    options : dict
        The options of the training, as values that JSON can hold.
    """

    pipeline: Pipeline
    target_name: str
    class_counts: NDArray[np.int64]
    id_columns: list[str]
    column_names: list[str]
    options: dict[str, Any]

    @property
    def preparation(self) -> TablePreparation:
        """The first step of the pipeline."""
        return self.pipeline[0]  # type: ignore[no-any-return]

    @property
    def classifier(self) -> SoftmaxClassifier:
        """The last step of the pipeline."""
        return self.pipeline[-1]  # type: ignore[no-any-return]


def load_model(path: str | Path) -> Pipeline:
    """Read a model that `softmaxloss train` wrote: a scikit-learn pipeline whose input is a table.

    Parameters
    ----------
    path : str or Path
        The folder that `softmaxloss train` wrote, or the file model.safetensors in it.

    Returns
    -------
    Pipeline
        Its `predict` and `predict_proba` take a polars or pandas data frame, a dict of columns, or a structured array,
        with the columns that the model was trained on. Cells may be empty or hold unknown words; other columns are
        ignored.

    Raises
    ------
    ModelFileError
        The file is damaged, was not written by this library, or has a format version that this version of the library
        cannot read.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> model = softmaxloss.load_model("softmaxloss-penguins")  # doctest: +SKIP
    >>> model.predict(polars.read_csv("new.csv"))  # doctest: +SKIP
    array(['Adelie', 'Gentoo'], dtype=object)
    """
    return read_model_file(path).pipeline


class _OtherVersionWarning(InconsistentVersionWarning):  # type: ignore[misc]
    """The warning of scikit-learn about another version, with a text that fits a model file, which is no pickle."""

    def __init__(self, path: str, here: str, made_by: str) -> None:
        super().__init__(estimator_name=path, current_sklearn_version=here, original_sklearn_version=made_by)

    def __str__(self) -> str:
        return (
            f"{self.estimator_name} was written with scikit-learn {self.original_sklearn_version}, and is read with "
            f"{self.current_sklearn_version}, whose predictions may differ; train again, or install "
            f"scikit-learn=={self.original_sklearn_version}"
        )


def model_to_bytes(model: TableModel) -> bytes:
    """Return the content of the model's file."""
    tensors: dict[str, NDArray[Any]] = {}
    described = {
        "pipeline": _described(model.pipeline, tensors),
        "target_name": model.target_name,
        "class_counts": model.class_counts.tolist(),
        "id_columns": model.id_columns,
        "column_names": model.column_names,
        "options": model.options,
    }
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "scikit_learn": sklearn.__version__}
    metadata["model"] = json.dumps(described)
    return save(tensors, metadata | {"sha256": _digest(metadata, tensors)})


def read_model_file(path: str | Path) -> TableModel:
    """Read a model's file; see `load_model`."""
    path = Path(path)
    path = path / MODEL_NAME if path.is_dir() else path
    with path.open("rb"):  # raises an OSError that names the file
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_origin(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iteration)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is damaged, or not a model; {_REMEDY}") from error
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise ModelFileError(
            f"{path} is damaged: its content does not match its checksum; copy it again, or train again"
        )
    made_by, here = metadata["scikit_learn"], sklearn.__version__
    if made_by.split(".")[:2] != here.split(".")[:2]:
        warnings.warn(_OtherVersionWarning(str(path), here, made_by), stacklevel=2)
    described = json.loads(metadata["model"])
    return TableModel(
        pipeline=_restored(described["pipeline"], tensors),
        target_name=described["target_name"],
        class_counts=np.array(described["class_counts"], np.int64),
        id_columns=described["id_columns"],
        column_names=described["column_names"],
        options=described["options"],
    )


def _described(value: Any, tensors: dict[str, NDArray[Any]]) -> Any:  # noqa: C901, PLR0911 - a line for each kind
    """Return a value in a form that JSON can hold: a constant as it is, anything else as [kind, content]."""
    if isinstance(value, np.generic):
        return ["number", [value.dtype.str, value.item()]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        name = f"array_{len(tensors)}"
        tensors[name] = np.ascontiguousarray(value)
        return ["array", [name, list(value.shape)]]
    if isinstance(value, np.ndarray):
        return ["objects", [value.dtype.str, _described(value.tolist(), tensors)]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_described(item, tensors) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[key, _described(item, tensors)] for key, item in value.items()]]
    if isinstance(value, slice):
        return ["slice", [value.start, value.stop, value.step]]
    if isinstance(value, np.dtype):
        return ["dtype", value.str]
    if isinstance(value, type) and issubclass(value, np.generic):
        return ["type", np.dtype(value).str]
    if isinstance(value, BaseEstimator) and type(value).__name__ in ESTIMATORS:
        kept = {name: of for name, of in vars(value).items() if name != "_past"}  # only partial_fit needs it
        return ["estimator", [type(value).__name__, _described(kept, tensors)]]
    raise TypeError(f"a model file must hold numbers, texts, arrays and estimators of `train`, got {value!r}")


def _restored(described: Any, tensors: dict[str, NDArray[Any]]) -> Any:  # noqa: C901, PLR0911 - a line for each kind
    """Return the value that was described."""
    if not isinstance(described, list):
        return described
    kind, content = described
    if kind == "number":
        return np.dtype(content[0]).type(content[1])
    if kind == "array":
        return tensors[content[0]].reshape(content[1])
    if kind == "objects":
        items = _restored(content[1], tensors)
        if content[0] != "|O":
            return np.array(items, content[0])
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array
    if kind in {"list", "tuple"}:
        items = [_restored(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _restored(item, tensors) for key, item in content}
    if kind == "slice":
        return slice(*content)
    if kind == "dtype":
        return np.dtype(content)
    if kind == "type":
        return np.dtype(content).type
    if kind == "estimator" and content[0] in ESTIMATORS:
        estimator = ESTIMATORS[content[0]].__new__(ESTIMATORS[content[0]])
        vars(estimator).update(_restored(content[1], tensors))
        return estimator
    raise ModelFileError(f"the model file holds a value of unknown kind {kind!r}; train again")


def _check_origin(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path} was not written by softmaxloss; {_REMEDY}")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}, but this softmaxloss reads version {FORMAT_VERSION}; train again"
        )


def _digest(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of metadata and tensors, so that a damaged file is refused."""
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
