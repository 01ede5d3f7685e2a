"""A model survives its file to the last bit, and a file that is not whole is refused."""

import json

import numpy as np
import polars as pl
import pytest
import sklearn
from safetensors.numpy import load, save
from sklearn.exceptions import InconsistentVersionWarning
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


def changed(content, old, new):
    """Return the content of a model's file with other metadata, and the checksum of these."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    metadata = {name: text.replace(old, new) for name, text in metadata.items() if name != "sha256"}
    tensors = load(content)
    return save(tensors, metadata | {"sha256": model_file._digest(metadata, tensors)})


DAMAGES = [  # what makes another file of the content of a model's file, and what the message must be
    (lambda content: content[:-1] + bytes([content[-1] ^ 4]), "its content does not match its checksum; copy it again"),
    (lambda content: content[:99], "is damaged, or not a model; pass the folder"),
    (lambda _: save({"weight": np.ones((3, 3))}, {"format": "pt"}), "was not written by softmaxloss"),
    (
        lambda content: content.replace(b'"format_version":"4"', b'"format_version":"1"'),
        "has format version 1, but this softmaxloss reads version 4; train again",
    ),
    (lambda content: changed(content, '"OneHotEncoder"', '"Popen"'), "holds a value of unknown kind 'estimator'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_file_that_is_no_model_of_this_version_is_refused(path, damage, message):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_a_model_of_another_scikit_learn_is_read_with_a_warning_in_words(path):
    path.write_bytes(changed(path.read_bytes(), sklearn.__version__, "0.1.2"))
    message = rf"model.safetensors was written with scikit-learn 0.1.2, and is read with {sklearn.__version__}, "
    with pytest.warns(InconsistentVersionWarning, match=message):
        load_model(path)


WRONG_TABLES = [
    (TABLE.drop("größe"), "X lacks the column 'größe', which the model was trained on; add"),
    (
        TABLE.with_columns(x=pl.lit("many")),
        "column 'x' holds 'many' where a number belongs in data row 1; correct such cells",
    ),
    (np.zeros((2, 3)), "X must be a table with named columns, or an array with these 4 columns .*, got .*2, 3"),
]


@pytest.mark.parametrize(("table", "message"), WRONG_TABLES)
def test_a_table_with_other_columns_is_refused(path, table, message):
    model = load_model(path)
    with pytest.raises(ValueError, match=message):
        model.predict(table)


def test_what_no_file_can_hold_is_refused():
    with pytest.raises(TypeError, match=r"a model file must hold numbers, texts, .*, got <object"):
        model_file._described(object(), {})


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        load_model(tmp_path / "no.safetensors")
