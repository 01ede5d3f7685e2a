"""A model survives its file to the last bit, and a file that is not whole is refused."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load, save
from sklearn.pipeline import Pipeline

from softmaxloss import SoftmaxClassifier, model_file
from softmaxloss.model_file import ModelFileError, TableModel, load_model, model_to_bytes, read_model_file
from softmaxloss.preparation import TablePreparation

RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "x": [None if k % 7 == 0 else value for k, value in enumerate(RNG.normal(size=60))],
        "y z": RNG.normal(size=60) * 1e-300 + 1e-300,
        "größe": ["selten" if k in {11, 12} else ["klein", "groß", None][k % 3] for k in range(60)],
        "day": [f"2020-0{1 + k % 9}-11" for k in range(60)],
    }
)
CLASSES = {
    "text": ["a", "b, “c”", "d\n"],
    "integers": [-3, 0, 7],
    "two integers": [0, 1],
    "booleans": [False, True],
}


def fitted(classes):
    labels = np.array(classes)[np.arange(60) % len(classes)]
    preparation = TablePreparation(["x", "y z"], ["größe"], ["day"])
    classifier = SoftmaxClassifier(C=0.5).fit(preparation.fit_transform(TABLE), labels)
    return TableModel(
        pipeline=Pipeline([("preparation", preparation), ("classifier", classifier)]),
        target_name="t",
        class_counts=np.full(len(classes), 60 // len(classes)),
        id_columns=["id"],
        column_names=["id", *TABLE.columns, "t"],
        options={"C": 0.5, "class_weight": None},
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_to_bytes(fitted([0, 1, 2])))
    return path


@pytest.mark.parametrize("kind", CLASSES)
def test_a_saved_model_answers_as_before_to_the_last_bit(tmp_path, kind):
    model = fitted(CLASSES[kind])
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_to_bytes(model))
    loaded = read_model_file(path)
    before, after = model.classifier, loaded.classifier
    assert after.classes_.tolist() == CLASSES[kind]
    assert [type(value) for value in after.classes_.tolist()] == [type(value) for value in CLASSES[kind]]
    np.testing.assert_array_equal(loaded.pipeline.predict(TABLE), model.pipeline.predict(TABLE))
    np.testing.assert_array_equal(loaded.pipeline.predict_proba(TABLE), model.pipeline.predict_proba(TABLE))
    names = loaded.preparation.get_feature_names_out().tolist()
    assert names == model.preparation.get_feature_names_out().tolist()
    assert {"x", "x is missing", "größe = klein", "größe = other", "day (month)"} <= set(names)
    assert (after.n_iter_, after.loss_curve_) == (before.n_iter_, before.loss_curve_)
    np.testing.assert_array_equal(loaded.class_counts, model.class_counts)
    for name in ("target_name", "id_columns", "column_names", "options"):
        assert getattr(loaded, name) == getattr(model, name)


def test_any_safetensors_reader_can_open_the_file(path):
    tensors = load(path.read_bytes())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    (_, pipeline) = json.loads(metadata["model"])["pipeline"]
    assert pipeline[0] == "Pipeline"
    assert '["class_weight", null]' in metadata["model"]
    assert any(tensor.dtype == np.float32 and tensor.shape[0] == 3 for tensor in tensors.values())


def test_a_class_that_is_not_listed_is_never_made(path):
    tensors = load(path.read_bytes())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    metadata["model"] = metadata["model"].replace('"OneHotEncoder"', '"Popen"')
    metadata["sha256"] = model_file._digest({k: v for k, v in metadata.items() if k != "sha256"}, tensors)
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(ModelFileError, match="holds a value of unknown kind 'estimator'"):
        load_model(path)


def test_the_folder_of_the_model_will_do(path):
    np.testing.assert_array_equal(load_model(path.parent).predict(TABLE), load_model(str(path)).predict(TABLE))


@pytest.mark.parametrize("kind", ["pandas", "nullable pandas", "lazy", "categories", "dict", "structured", "array"])
def test_a_loaded_model_takes_tables_of_any_library(path, kind):
    rows = TABLE.with_columns(more=1)
    if kind.endswith("pandas"):
        pd = pytest.importorskip("pandas")
        given = pd.DataFrame(rows.to_dict(as_series=False))
        given = given.convert_dtypes() if kind == "nullable pandas" else given
    elif kind == "lazy":
        given = rows.lazy()
    elif kind == "categories":
        given = rows.with_columns(pl.col("größe").cast(pl.Categorical), pl.col("day").str.to_date())
    elif kind == "dict":
        given = rows.to_dict(as_series=False)
    elif kind == "structured":
        given = np.array(rows.rows(), dtype=[(name, object) for name in rows.columns])
    else:
        given = np.array(TABLE.rows(), dtype=object)
    model = load_model(path)
    np.testing.assert_array_equal(model.predict_proba(given), model.predict_proba(TABLE))
    with pytest.raises(ValueError, match="X lacks the column 'größe'"):
        model.predict(rows.drop("größe"))
    with pytest.raises(ValueError, match="column 'x' holds 'many' where a number belongs in data row 1"):
        model.predict(rows.with_columns(x=pl.lit("many")))


def test_every_damaged_byte_is_noticed(path):
    content = path.read_bytes()
    for position in range(0, len(content), 5):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(ModelFileError):
            load_model(path)


def test_a_file_that_ends_early_is_refused(path):
    content = path.read_bytes()
    for length in range(0, len(content), 17):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="damaged, or not a model"):
            load_model(path)


def test_another_programs_file_is_refused(path):
    path.write_bytes(save({"weight": np.ones((3, 3))}, {"format": "pt"}))
    with pytest.raises(ModelFileError, match="was not written by softmaxloss"):
        load_model(path)


def test_another_version_is_named(path):
    path.write_bytes(path.read_bytes().replace(b'"format_version":"4"', b'"format_version":"1"'))
    with pytest.raises(ModelFileError, match="has format version 1, but this softmaxloss reads version 4"):
        load_model(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        load_model(tmp_path / "no.safetensors")
