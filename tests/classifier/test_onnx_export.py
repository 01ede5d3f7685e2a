"""onnxruntime gives the labels and probabilities of the classifier that was exported."""

import sys

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from data_sets import data
from exported import run
from softmaxloss import SoftmaxClassifier

polars = pytest.importorskip("polars")
to_onnx = pytest.importorskip("softmaxloss.onnx").to_onnx


def assert_same(classifier, x, **options):
    labels, probabilities = run(to_onnx(classifier, **options).SerializeToString(), x)
    assert labels.tolist() == classifier.predict(x).tolist()
    right = classifier.predict_proba(x)
    assert probabilities.dtype == right.dtype
    # both round the logits in their own way, which changes a probability by at most this
    rounding = 8 * np.finfo(right.dtype).eps * max(1.0, np.abs(classifier.decision_function(x)).max())
    np.testing.assert_allclose(probabilities, right, rtol=0, atol=rounding)


LABELS = {
    "integers": lambda y: y * 10 - 5,
    "texts": lambda y: np.char.add("class ", y.astype(str)),
    "objects": lambda y: np.array([f"{label} é" for label in y], object),
    "bytes": lambda y: y.astype(np.uint8),
    "floats": lambda y: y * 2.0,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", ["iris", "wine", "digits", "breast_cancer"])
def test_labels_and_probabilities_are_those_of_the_classifier(name, labels, dtype):
    x, y = data(name, standardised=False)
    x, y = x.astype(dtype), labels(y)
    classifier = make_pipeline(StandardScaler(), SoftmaxClassifier(C=0.1)).fit(x, y)
    assert_same(classifier, x)
    elsewhere = x[::-1] * np.array(1.5, dtype)
    assert_same(classifier, elsewhere)


@pytest.mark.parametrize("opset", range(13, 22))
def test_every_opset_from_13_on_gives_the_same(opset):
    x, y = data("iris")
    classifier = SoftmaxClassifier().fit(x, y > 0)
    assert to_onnx(classifier, opset=opset).opset_import[0].version == opset
    assert_same(classifier, x, opset=opset)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_1629_classes(dtype):
    random = np.random.default_rng(0)
    centres = random.normal(size=(1629, 32))
    y = np.arange(3258) % 1629
    x = (centres[y] + 0.1 * random.normal(size=(len(y), 32))).astype(dtype)
    classifier = SoftmaxClassifier(C=100.0, max_iter=4)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        classifier.fit(x, np.char.add("person ", y.astype(str)))
    assert_same(classifier, x)


@pytest.mark.parametrize(
    "scaler", [StandardScaler(with_mean=False), StandardScaler(with_std=False), None, "passthrough"], ids=str
)
def test_parts_of_the_scaling_can_be_left_out(scaler):
    x, y = data("iris", standardised=False)
    classifier = make_pipeline(scaler, SoftmaxClassifier()).fit(x, y)
    assert_same(classifier, x)


def test_pipelines_may_stand_in_pipelines():
    x, y = data("iris", standardised=False)
    inner = make_pipeline(StandardScaler(with_std=False), make_pipeline(StandardScaler(), SoftmaxClassifier()))
    assert_same(make_pipeline(make_pipeline("passthrough"), inner).fit(x, y), x)


def test_names_of_features_and_metadata_are_kept():
    x, y = data("iris")
    frame = polars.DataFrame(x, schema=["a", "b", "c", "d"])
    model = to_onnx(
        make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(frame, y), metadata={"note": "n", "k": [1]}
    )
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "format": "softmaxloss",
        "scikit_learn": sklearn.__version__,
        "features": '["a", "b", "c", "d"]',
        "note": "n",
        "k": "[1]",
    }
    assert model.producer_name == "softmaxloss"


FITTED = SoftmaxClassifier().fit([[0.0], [1.0]], [0, 1])
OBJECTS = SoftmaxClassifier().fit([[0.0], [1.0]], [0, 1])
OBJECTS.classes_ = np.array([("a",), ("b",)], object)


WRONG_EXPORTS = [
    (LogisticRegression(), {}, TypeError, "that ends with one, got LogisticRegression"),
    (SoftmaxClassifier(), {}, NotFittedError, "not fitted"),
    (
        make_pipeline(MinMaxScaler(), FITTED),
        {},
        TypeError,
        r"may have the steps StandardScaler.* MinMaxScaler\(\); apply",
    ),
    (make_pipeline(StandardScaler(), FITTED), {}, NotFittedError, "StandardScaler"),
    (FITTED, {"opset": 12}, ValueError, "opset must lie between 13 and .* got 12"),
    (OBJECTS, {}, TypeError, "labels that are integers, texts, floats or bools to be exported, got array"),
]


@pytest.mark.parametrize(("classifier", "options", "error", "message"), WRONG_EXPORTS)
def test_what_cannot_be_exported_is_refused(classifier, options, error, message):
    with pytest.raises(error, match=message):
        to_onnx(classifier, **options)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "softmaxloss.onnx")
    with pytest.raises(ImportError, match=r'pip install "softmaxloss\[onnx\]"'):
        import softmaxloss.onnx  # noqa: F401
