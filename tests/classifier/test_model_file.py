"""A model survives its file to the last bit, and a file that is not whole is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from softmaxloss import SoftmaxClassifier
from softmaxloss.model_file import ModelFileError, TableModel, load_model, model_to_bytes

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(60, 3)).astype(np.float32)
CLASSES = {
    "text": ["a", "b, “c”", "d\n"],
    "integers": [-3, 0, 7],
    "two integers": [0, 1],
    "booleans": [False, True],
}


def fitted(classes):
    labels = np.array(classes)[np.arange(60) % len(classes)]
    return TableModel(
        classifier=SoftmaxClassifier(C=0.5).fit(FEATURES, labels),
        mean=np.array([0.1, 1e300, -2.0]),
        scale=np.array([1.0, 1e-300, 3.0]),
        feature_names=["x", "y z", "größe"],
        target_name="t",
        class_counts=np.full(len(classes), 60 // len(classes)),
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
    loaded = load_model(path)
    before, after = model.classifier, loaded.classifier
    assert after.classes_.tolist() == CLASSES[kind]
    assert [type(value) for value in after.classes_.tolist()] == [type(value) for value in CLASSES[kind]]
    np.testing.assert_array_equal(after.predict(FEATURES), before.predict(FEATURES))
    np.testing.assert_array_equal(after.predict_proba(FEATURES), before.predict_proba(FEATURES))
    assert (after.n_iter_, after.loss_curve_) == (before.n_iter_, before.loss_curve_)
    for name in ("mean", "scale", "class_counts"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    for name in ("feature_names", "target_name", "options"):
        assert getattr(loaded, name) == getattr(model, name)


def test_any_safetensors_reader_can_open_the_file(path):
    tensors = load(path.read_bytes())
    assert tensors["weight"].shape == (3, 3)
    assert tensors["weight"].dtype == np.float32
    header = json.loads(path.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    assert json.loads(header["__metadata__"]["classes"]) == [0, 1, 2]


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
        with pytest.raises(ModelFileError, match="damaged, or not a safetensors file"):
            load_model(path)


def test_another_programs_file_is_refused(path):
    path.write_bytes(save({"weight": np.ones((3, 3))}, {"format": "pt"}))
    with pytest.raises(ModelFileError, match="was not written by softmaxloss"):
        load_model(path)


def test_another_version_is_named(path):
    path.write_bytes(path.read_bytes().replace(b'"format_version":"1"', b'"format_version":"2"'))
    with pytest.raises(ModelFileError, match="has format version 2; this softmaxloss reads version 1"):
        load_model(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        load_model(tmp_path / "no.safetensors")
