"""Under np.seterr(all="raise") nothing raises: overflow to inf and underflow to 0 are what results mean to be."""

import inspect
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from ml_dtypes import bfloat16
from sklearn.pipeline import Pipeline

import softmaxloss as sl
from calls import FUNCTIONS
from softmaxloss.model_file import TableModel, model_to_bytes
from softmaxloss.preparation import TablePreparation
from thorough import over_pairs

INF, NAN = np.inf, np.nan
LABELS = np.array([0, 2, 1, 0])
# Rows whose results are beyond the range of single or half precision on either side, or are no numbers at all.
HARD = {
    "far apart": [[0.0, -30.0, -60.0], [50.0, 0.0, -50.0], [-10.0, 12.0, -10.0], [6e4, -6e4, 0.0]],
    "tiny": [[1e-7, 0.0, -6e-8], [1e-30, 1e-38, 0.0], [1e-300, 5e-324, 0.0], [0.0, 1e-45, -1e-45]],
    "huge": [[6e4, -6e4, 6e4], [1e38, -1e38, 3e38], [1e300, -1e308, 1e308], [-6e4, 6e4, 6e4]],
    "not finite": [[INF, 0.0, 1.0], [-INF, 0.0, 1.0], [NAN, 1.0, 2.0], [-INF, -INF, -INF]],
}
WEIGHT = [[1.0, -1e-3, 3e-8], [0.25, 1e3, 0.0], [1e-5, 0.0, -2.0]]
DTYPES = [np.float64, np.float32, np.float16, bfloat16]


def arguments(name, hard, dtype):
    """Return the arguments of a public function with hard values, and labels for as many rows."""
    with np.errstate(all="ignore"):
        values, weight = (np.array(numbers).astype(dtype) for numbers in (HARD[hard], WEIGHT))
    hard_ones = {"logits": values, "cosines": values, "features": values, "vector": values, "targets": LABELS}
    in_layers = {"x": values, "t": LABELS}
    return {
        key: {**hard_ones, **in_layers, "weight": weight}.get(key, value) for key, value in FUNCTIONS[name][1].items()
    }


OPTIONS = {
    "plain": {},
    "options": {"softcap": 30.0, "temperature": 1e-3, "sample_weight": np.array([1e-30, 0.0, 1e30, 1.0])},
    "more options": {"label_smoothing": 0.1, "z_loss": 1e-4, "class_weight": [1e-20, 1.0, 1e20]},
    "largest": {"class_weight": [1e308] * 3, "sample_weight": [1e308] * 4, "label_smoothing": 0.1},
    "upstream": {"upstream": 1e-30},
    "sampled": {"backward": sl.Sampled(0.5)},
}


def called(name, hard, dtype, options):
    function = FUNCTIONS[name][0]
    try:
        return function(**arguments(name, hard, dtype), **options)
    except ValueError as refused:
        return str(refused)


def leaves(result):
    """Return the arrays and numbers of a result, as bytes."""
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in leaves(part)]
    if isinstance(result, sl.Metrics):
        return [leaf for part in vars(result).values() for leaf in leaves(part)]
    return [str(result) if isinstance(result, dict | str | sl.Sampled) else np.asarray(result).tobytes()]


CALLS = {
    f"{name}: {kind}": (name, options)
    for name in FUNCTIONS
    for kind, options in OPTIONS.items()
    if kind == "plain" or options.keys() <= set(inspect.signature(FUNCTIONS[name][0]).parameters)
}


@over_pairs(call=CALLS, hard=list(HARD), dtype={np.dtype(dtype).name: dtype for dtype in DTYPES})
def test_no_function_raises_floating_point_errors(call, hard, dtype):
    name, options = call
    right = called(name, hard, dtype, options)
    with np.errstate(all="raise"):
        got = called(name, hard, dtype, options)
    assert leaves(got) == leaves(right)


FEATURES, VECTOR = np.array(HARD["far apart"]), np.array(HARD["tiny"])
HALF_FEATURES, HALF_WEIGHT = FEATURES.astype(np.float16), np.array(WEIGHT).astype(np.float16)


def every_step_explained():
    near, far = sl.explain([0.0, -1e-310, -600.0], 0), sl.explain([0.0, 3e4, -3e4], [0.0, 1.0, 0.0], temperature=1e-3)
    soft = sl.explain([0.0, 800.0], [1e-310, 1.0])
    return str(near), str(far), str(soft), near.markdown(), far.dx, soft.terms, [n.gradient for n in near.graph.nodes]


def fitted_to(features):
    labels = [0, 1, 2, 0]
    classifier = sl.SoftmaxClassifier(C=1e6).fit(features, labels)
    return classifier.coef_, classifier.predict_proba(features), classifier.predict_log_proba(1e3 * features)


def summaries_merged():
    parts = [sl.summarize(z, LABELS % 2, first_class=2 * i, n_classes=6) for i, z in enumerate(np.split(BOTH, 3, 1))]
    whole = sl.merge(parts)
    return whole, whole.losses(z_loss=1.0), whole.lse(1e-30), whole.cost()


def softmax_of_layers():
    layers = sl.SoftmaxWithLoss(), sl.AffineSoftmaxWithLoss(FEATURES.astype("f"))
    for layer, x in zip(layers, (FEATURES, 1e30 * FEATURES.astype("f")[:, :3]), strict=True):
        layer.forward(x, LABELS)
    return [layer.y for layer in layers]


def predictions_of_a_loaded_model():
    table = {"x": [0.0, 1e150, -1e150, 1e-320, None], "word": ["a", "b", None, "a", "b"]}
    preparation = TablePreparation(["x"], ["word"])
    classifier = sl.SoftmaxClassifier().fit(preparation.fit_transform(table), [0, 1, 0, 1, 1])
    pipeline = Pipeline([("preparation", preparation), ("classifier", classifier)])
    model = TableModel(
        pipeline=pipeline,
        target_name="t",
        class_counts=np.array([2, 3], np.int64),
        id_columns=[],
        column_names=["x", "word", "t"],
        options={},
    )
    with TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").write_bytes(model_to_bytes(model))
        return sl.load_model(folder).predict_proba(table)


BOTH = np.hstack([HARD["far apart"], HARD["huge"]])
OTHERS = {
    "explain": every_step_explained,
    "Explanation": lambda: sl.explain([0.0, -700.0], 1).loss,
    "explore": lambda: str(sl.explore()),
    "ExplorerPage": lambda: sl.explore()._repr_html_()[:100],
    "linear_hvp": lambda: sl.linear_hvp(
        HALF_FEATURES, HALF_WEIGHT, LABELS, (VECTOR, np.array(WEIGHT), VECTOR[2]), np.zeros(3, np.float16)
    ),
    "merge": summaries_merged,
    "RowSummary": summaries_merged,
    "SoftmaxClassifier": lambda: (fitted_to(FEATURES), fitted_to(1e-160 * FEATURES), fitted_to(1e140 * FEATURES)),
    "load_model": predictions_of_a_loaded_model,
    "LinearGradients": lambda: sl.LinearGradients(None, None, None),
    "LogProbs": lambda: sl.LogProbs(0.0, 0.0),
    "Metrics": lambda: str(sl.metrics([[0.0, 1e300]], [0])),
    "get_num_threads": sl.get_num_threads,
    "layers' y": softmax_of_layers,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_raises_floating_point_errors(name):
    right = OTHERS[name]()
    with np.errstate(all="raise"):
        got = OTHERS[name]()
    assert leaves(got) == leaves(right)


def test_every_public_name_is_tried():
    assert {*FUNCTIONS, *OTHERS} - {"layers' y"} == set(sl.__all__)
