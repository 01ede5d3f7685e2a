"""Trees of XGBoost and LightGBM that are trained with our objective; both libraries' own objectives are the oracle."""

import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.model_selection import cross_val_score

import softmaxloss as sl
from agree import assert_close
from data_sets import data
from softmaxloss import reference
from softmaxloss.boosting import SoftmaxMetric, SoftmaxObjective, start_scores

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

ROUNDS = 4
XGBOOST = {"nthread": 1, "max_depth": 4}
LIGHTGBM = {"num_threads": 1, "verbose": -1, "boost_from_average": False}


def digits(*, weighted=False):
    x, y = data("digits", standardised=False)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    return x, y, 10, weight


def made_up(n_rows):
    random = np.random.default_rng(0)
    x = random.normal(size=(n_rows, 20))
    return x, (np.tanh(x) @ random.normal(size=(20, 5)) + random.gumbel(size=(n_rows, 5))).argmax(1), 5, None


def weighted_digits():
    return digits(weighted=True)


TABLES = pytest.mark.parametrize(
    "table",
    [digits, weighted_digits, pytest.param(lambda: made_up(100_000), marks=pytest.mark.thorough, id="100,000 rows")],
)


def assert_same_xgboost(booster, other, matrix):
    trees, right = (each.trees_to_dataframe() for each in (booster, other))
    assert trees.Feature.to_list() == right.Feature.to_list()
    np.testing.assert_array_equal(trees.Split, right.Split)
    np.testing.assert_allclose(booster.predict(matrix), other.predict(matrix), rtol=0, atol=1e-6)


def assert_same_lightgbm(booster, other):
    trees, right = (each.trees_to_dataframe() for each in (booster, other))
    for column in ("split_feature", "threshold", "value"):
        np.testing.assert_array_equal(trees[column].isna(), right[column].isna())
        np.testing.assert_array_equal(trees[column].dropna(), right[column].dropna())


@TABLES
@pytest.mark.parametrize("start", ["zero", "shares"])
def test_xgboost_grows_the_trees_of_its_own_objective(table, start):
    x, y, n_classes, weight = table()
    matrix = xgboost.DMatrix(x, y, weight=weight)
    params = XGBOOST | {"num_class": n_classes, "objective": "multi:softprob"}
    scores = start_scores(y, n_classes, sample_weight=weight)
    theirs, ours = {"zero": (0.5, 0.5), "shares": (None, scores.tolist())}[start]
    right = xgboost.train(params | {"base_score": theirs}, matrix, ROUNDS)
    got = xgboost.train(params | {"base_score": ours}, matrix, ROUNDS, obj=SoftmaxObjective("xgboost"))
    assert_same_xgboost(got, right, matrix)


@TABLES
def test_lightgbm_grows_the_trees_of_its_own_objective(table):
    x, y, n_classes, weight = table()
    params = LIGHTGBM | {"num_class": n_classes}
    right = lightgbm.train(params | {"objective": "multiclass"}, lightgbm.Dataset(x, y, weight=weight), ROUNDS)
    mine = lightgbm.Dataset(x, y, weight=weight)
    got = lightgbm.train(params | {"objective": SoftmaxObjective("lightgbm")}, mine, ROUNDS)
    assert_same_lightgbm(got, right)


def test_lightgbm_starts_from_the_shares_of_the_classes_as_with_its_own_objective():
    x, y, n_classes, weight = weighted_digits()
    params = LIGHTGBM | {"num_class": n_classes, "boost_from_average": True}
    right = lightgbm.train(params | {"objective": "multiclass"}, lightgbm.Dataset(x, y, weight=weight), ROUNDS)
    start = start_scores(y, n_classes, sample_weight=weight)
    mine = lightgbm.Dataset(x, y, weight=weight, init_score=np.tile(start, (len(y), 1)))
    got = lightgbm.train(params | {"objective": SoftmaxObjective("lightgbm")}, mine, ROUNDS)
    scores = [got.predict(x, raw_score=True) + start, right.predict(x, raw_score=True)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_estimators_grow_the_trees_of_their_own_objectives(weighted):
    x, y, _, weight = digits(weighted=weighted)
    one_thread = {"n_estimators": 2, "n_jobs": 1}
    right = xgboost.XGBClassifier(**one_thread, base_score=0.5).fit(x, y, sample_weight=weight)
    got = xgboost.XGBClassifier(**one_thread, base_score=0.5, objective=SoftmaxObjective("xgboost"))
    got.fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(got.predict_proba(x), right.predict_proba(x), rtol=0, atol=1e-6)

    right = lightgbm.LGBMClassifier(**one_thread, verbose=-1, boost_from_average=False).fit(x, y, sample_weight=weight)
    got = lightgbm.LGBMClassifier(**one_thread, verbose=-1, objective=SoftmaxObjective("lightgbm"))
    got.fit(x, y, sample_weight=weight)
    assert_same_lightgbm(got.booster_, right.booster_)


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "class weights": {"class_weight": [0.5, 2.0, 0.0, 1.5]},
    "temperature": {"temperature": 2.5},
    "all": {"label_smoothing": 0.2, "class_weight": [0.5, 2.0, 1.0, 1.5], "temperature": 0.5},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradient_and_hessian_are_those_of_the_reference(options, soft, dtype):
    random = np.random.default_rng(0)
    scores = random.normal(size=(50, 4)).astype(dtype)
    labels, weight = random.integers(4, size=50), random.uniform(size=50)
    soft_labels = random.dirichlet([1.0] * 4, size=50)
    loss_options = options | {"sample_weight": weight, "reduction": "sum"}
    targets = soft_labels if soft else labels
    _, d_right = reference.cross_entropy_and_grad(scores, targets, **loss_options)
    d2_right = reference.hessian_diagonal(scores, targets, **loss_options)
    objective = SoftmaxObjective("lightgbm", hessian_factor=1.0, **options, soft_labels=soft_labels if soft else None)
    metric = SoftmaxMetric("xgboost", **options, soft_labels=objective.soft_labels)
    tolerance = 8 * np.finfo(dtype).eps
    for order in "CF":
        gradient, hessian = objective(labels.astype(np.float32), np.array(scores, order=order), weight)
        assert gradient.dtype == hessian.dtype == dtype
        np.testing.assert_allclose(gradient, d_right, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(hessian, d2_right, rtol=tolerance, atol=tolerance)
        value = metric(labels, np.array(scores, order=order), weight)
        mean = reference.cross_entropy(scores, targets, **options, sample_weight=weight)
        np.testing.assert_allclose(value, mean, rtol=tolerance)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_leaf_for_all_rows_learns_the_mean_of_the_effective_targets(options):
    soft_labels = np.random.default_rng(0).dirichlet([1.0, 2.0, 3.0, 4.0], size=200)
    matrix = xgboost.DMatrix(np.zeros((200, 1)), np.zeros(200))
    params = {"num_class": 4, "objective": "multi:softprob", "lambda": 0, "learning_rate": 1.0, "nthread": 1}
    objective = SoftmaxObjective("xgboost", soft_labels=soft_labels, **options)
    booster = xgboost.train(params, matrix, 60, obj=objective)
    scores = booster.predict(matrix, output_margin=True)[0]
    eps, r = options.get("label_smoothing", 0.0), np.array(options.get("class_weight", [1.0] * 4))
    q = r * ((1 - eps) * soft_labels.mean(0) + eps / 4)
    p = sl.softmax(scores, temperature=options.get("temperature", 1.0))
    np.testing.assert_allclose(p, q / q.sum(), rtol=0, atol=5e-3)


def test_metrics_are_those_of_the_libraries():
    x, y, n_classes, weight = weighted_digits()
    matrix, found = xgboost.DMatrix(x, y, weight=weight), {}
    xgboost.train(
        XGBOOST | {"num_class": n_classes, "objective": "multi:softprob", "eval_metric": "mlogloss"},
        matrix,
        ROUNDS,
        evals=[(matrix, "train")],
        obj=SoftmaxObjective("xgboost"),
        custom_metric=SoftmaxMetric("xgboost"),
        evals_result=found,
        verbose_eval=False,
    )
    np.testing.assert_allclose(found["train"]["cross_entropy"], found["train"]["mlogloss"], rtol=1e-6)

    found, rows = {}, lightgbm.Dataset(x, y, weight=weight)
    params = LIGHTGBM | {"num_class": n_classes, "metric": "multi_logloss"}
    recorded = [lightgbm.record_evaluation(found)]
    lightgbm.train(
        params | {"objective": "multiclass"}, rows, ROUNDS, valid_sets=[rows], valid_names=["a"], callbacks=recorded
    )
    right = found["a"]["multi_logloss"]
    lightgbm.train(
        params | {"objective": SoftmaxObjective("lightgbm"), "metric": "None"},
        lightgbm.Dataset(x, y, weight=weight),
        ROUNDS,
        valid_sets=[lightgbm.Dataset(x, y, weight=weight)],
        valid_names=["a"],
        feval=SoftmaxMetric("lightgbm"),
        callbacks=recorded,
    )
    np.testing.assert_allclose(found["a"]["cross_entropy"], right, rtol=1e-6)


def test_estimators_take_metrics_and_stop_early_on_them():
    x, y, _, _ = digits()
    objective, metric = SoftmaxObjective("xgboost"), SoftmaxMetric("xgboost")
    model = xgboost.XGBClassifier(
        n_estimators=50, learning_rate=2.0, n_jobs=1, objective=objective, eval_metric=metric, early_stopping_rounds=1
    )
    model.fit(x[:900], y[:900], eval_set=[(x[900:], y[900:])], verbose=False)
    curve = model.evals_result()["validation_0"]["cross_entropy"]
    assert len(curve) < 50
    assert model.best_score == pytest.approx(min(curve))
    assert model.predict_proba(x).shape == (len(y), 10)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))

    model = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1, objective=SoftmaxObjective("lightgbm"))
    model.fit(x, y, eval_X=x, eval_y=y, eval_metric=SoftmaxMetric("lightgbm"))
    curve = model.evals_result_["valid_0"]["cross_entropy"]
    assert curve == sorted(curve, reverse=True)


def test_objectives_work_within_cross_validation():
    x, y, _, _ = digits()
    models = [
        xgboost.XGBClassifier(n_estimators=3, n_jobs=1, objective=SoftmaxObjective("xgboost")),
        xgboost.XGBClassifier(n_estimators=3, n_jobs=1, base_score=0.5),
    ]
    np.testing.assert_allclose(*(cross_val_score(model, x, y, cv=2) for model in models), atol=1e-3)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_confident_scores_raise_no_floating_point_errors(library):
    scores = np.array([[200.0, 0.0, -200.0], [50.0, -1e30, 90.0]], np.float32)
    with np.errstate(all="raise"):
        gradient, hessian = SoftmaxObjective(library)(np.array([0, 2]), scores)
        SoftmaxMetric(library)(np.array([0, 1]), scores)
    assert np.isfinite(gradient).all()
    smallest = np.float32(1e-16) if library == "xgboost" else 0
    assert hessian.min() == smallest


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 100.0])
def test_hessians_of_tiny_weights_are_tiny_and_not_negative(library, dtype, temperature):
    objective = SoftmaxObjective(library, temperature=temperature)
    weight = np.array([1e-310, 1e-44, 1e-39, 1e-38, 1e-33, 1.0])
    scores = np.tile(np.array([0.3, 2.9, 4.0], dtype), (6, 1))
    _, hessian = objective(np.full(6, 2), scores, weight)
    p = softmax(scores[0].astype(float) / temperature)
    factor = 2.0 if library == "xgboost" else 1.5
    right = factor * weight[:, np.newaxis] * p * (1 - p) / temperature**2
    assert (hessian >= 0).all()
    np.testing.assert_allclose(hessian, right, rtol=1e-5, atol=2e-16 if library == "xgboost" else 1e-29)


def test_start_scores_of_soft_labels_are_those_of_their_mean():
    soft = np.random.default_rng(0).dirichlet([1.0, 2.0, 3.0], size=50)
    assert_close(start_scores(soft, 3), np.log(soft.mean(0)), 1e-14)
    one_hot = np.eye(4)[[0, 1, 1, 0]]
    np.testing.assert_array_equal(start_scores(one_hot, 4), start_scores([0, 1, 1, 0], 4))
    assert start_scores([0, 1, 1, 0], 4)[3] == np.log(1e-15)


SCORES = np.zeros((3, 4))
WRONG = [
    (lambda: SoftmaxObjective("catboost"), ValueError, "library must be .* got 'catboost'"),
    (lambda: SoftmaxObjective("xgboost", hessian_factor=0), ValueError, "hessian_factor must be finite and positive"),
    (lambda: SoftmaxObjective("xgboost", label_smoothing=2), ValueError, "label_smoothing must lie between 0 and 1"),
    (lambda: SoftmaxObjective("xgboost", soft_labels=[1.0]), ValueError, r"soft_labels must have shape \(rows, class"),
    (lambda: SoftmaxObjective("xgboost")(np.zeros(3), SCORES[:, 0]), ValueError, "set num_class to the number of"),
    (lambda: SoftmaxObjective("xgboost")(np.array([0, 0.5, 1]), SCORES), ValueError, "class numbers .* 0.5 at posit"),
    (
        lambda: SoftmaxObjective("xgboost")(np.array([0, 4, 1]), SCORES),
        ValueError,
        "labels must be class numbers from 0 to 3, got 4 at position 1",
    ),
    (
        lambda: SoftmaxObjective("lightgbm")(np.full((3, 4), 0.25), SCORES.copy("F")),
        ValueError,
        r"labels must have one class number for each row, shape \(3,\), got shape \(3, 4\); pass dist",
    ),
    (
        lambda: SoftmaxMetric("xgboost")(xgboost.DMatrix(SCORES).get_label(), SCORES),
        ValueError,
        r"labels must have one class number for each row, shape \(3,\), got shape \(0,\)",
    ),
    (
        lambda: SoftmaxMetric("xgboost", soft_labels=np.ones((2, 4)))(np.zeros(3), SCORES),
        ValueError,
        r"soft_labels must have one row for each row .* shape \(3, 4\), got shape \(2, 4\)",
    ),
    (lambda: start_scores([0, 1, 2], 2), ValueError, "labels must be class numbers from 0 to 1, got 2 at position 2"),
    (lambda: start_scores([10**13], 2), ValueError, "labels must be class numbers from 0 to 1, got 10000000000000"),
    (lambda: start_scores([], 2), ValueError, "must have a row with a weight above 0"),
    (lambda: start_scores(1, 2), ValueError, r"labels must have shape \(rows,\) or \(rows, 2\), got a single number"),
    (
        lambda: start_scores(SCORES, 2),
        ValueError,
        r"labels must have shape .* or \(rows, 2\), got shape \(3, 4\)",
    ),
    (lambda: start_scores(SCORES[None], 4), ValueError, r"labels must have shape .* got shape \(1, 3, 4\)"),
    (lambda: start_scores([["a", "b"]], 2), TypeError, "labels must be float16, .* got dtype <U1"),
    (lambda: start_scores(SCORES, 4, sample_weight=[1.0]), ValueError, "sample_weight must have one entry per row"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("share", [np.nan, -0.5, np.inf])
def test_soft_labels_are_refused_by_name_and_at_their_place(share):
    soft = np.full((3, 4), 0.25)
    soft[1, 2] = share
    right = rf"finite and not negative, got {share} at position \(1, 2\); 1 of 3 rows"
    for kind in (SoftmaxObjective, SoftmaxMetric):
        for scores in (SCORES, SCORES.copy("F")):
            with pytest.raises(ValueError, match=f"soft_labels must be {right}"):
                kind("lightgbm", soft_labels=soft)(np.zeros(3), scores)
    with pytest.raises(ValueError, match=f"labels must be {right}"):
        start_scores(soft, 4)


def test_labels_of_rows_without_weight_are_not_read():
    random, weight = np.random.default_rng(0), np.array([1.0, 0.0, 2.0])
    scores, soft = random.normal(size=(3, 4)), random.dirichlet(np.ones(4), size=3)
    unknown = soft * [[1.0], [np.nan], [1.0]]
    live = weight > 0
    for labels in (np.array([3, -1, 0]), np.array([3, np.nan, 0]), np.array([3, 9, 0])):
        gradient, hessian = SoftmaxObjective("lightgbm")(labels, scores, weight)
        right = SoftmaxObjective("lightgbm")(np.array([3, 0]), scores[live], weight[live])
        np.testing.assert_array_equal((gradient[live], hessian[live]), right)
        assert not gradient[1].any()
        np.testing.assert_array_equal(start_scores(labels, 4, sample_weight=weight), start_scores([3, 0, 0], 4))
    gradient, _ = SoftmaxObjective("lightgbm", soft_labels=unknown)(np.zeros(3), scores, weight)
    right, _ = SoftmaxObjective("lightgbm", soft_labels=soft)(np.zeros(3), scores, weight)
    np.testing.assert_array_equal(gradient, right)
    found = [start_scores(of, 4, sample_weight=weight) for of in (unknown, soft)]
    np.testing.assert_array_equal(*found)


def teacher():
    x, y, n_classes, _ = digits()
    return x, y, softmax(np.random.default_rng(0).normal(size=(len(y), n_classes)) + 3 * np.eye(n_classes)[y], axis=1)


def train_xgboost(x, labels, soft, tested, metric):
    train, test = xgboost.DMatrix(x, labels), xgboost.DMatrix(tested[0], tested[1])
    found, params = {}, XGBOOST | {"num_class": 10, "objective": "multi:softprob"}
    objective = SoftmaxObjective("xgboost", soft_labels=soft)
    booster = xgboost.train(
        params,
        train,
        ROUNDS,
        obj=objective,
        evals=[(test, "test")],
        custom_metric=metric,
        evals_result=found,
        verbose_eval=False,
    )
    return booster.predict(test, output_margin=True), found["test"]["cross_entropy"][-1]


def train_lightgbm(x, labels, soft, tested, metric):
    train, test = lightgbm.Dataset(x, labels), lightgbm.Dataset(*tested)
    params, found = LIGHTGBM | {"num_class": 10, "metric": "None", "bagging_fraction": 0.5, "bagging_freq": 1}, {}
    booster = lightgbm.train(
        params | {"objective": SoftmaxObjective("lightgbm", soft_labels=soft)},
        train,
        ROUNDS,
        valid_sets=[test],
        valid_names=["test"],
        feval=metric,
        callbacks=[lightgbm.record_evaluation(found)],
    )
    return booster.predict(tested[0], raw_score=True), found["test"]["cross_entropy"][-1]


@pytest.mark.parametrize(("library", "train"), [("xgboost", train_xgboost), ("lightgbm", train_lightgbm)])
def test_soft_labels_take_the_place_of_the_labels_of_a_data_set(library, train):
    x, y, soft = teacher()
    first, then = slice(0, 1200), slice(1200, None)
    tested = x[then], y[then]
    right, _ = train(x[first], np.zeros(1200), np.eye(10)[y[first]], tested, SoftmaxMetric(library))
    hard, of_labels = train(x[first], y[first], None, tested, SoftmaxMetric(library))
    np.testing.assert_allclose(right, hard, rtol=0, atol=1e-6)
    np.testing.assert_allclose(of_labels, reference.cross_entropy(hard.astype(float), y[then]), rtol=1e-6)
    metric = SoftmaxMetric(library, soft_labels=soft[then])
    scores, loss = train(x[first], y[first], soft[first], tested, metric)
    unlabelled, _ = train(x[first], np.zeros(1200), soft[first], tested, metric)
    np.testing.assert_array_equal(scores, unlabelled)
    np.testing.assert_allclose(loss, reference.cross_entropy(scores.astype(float), soft[then]), rtol=1e-6)
    assert loss < np.log(10)


@pytest.mark.parametrize(("library", "train"), [("xgboost", train_xgboost), ("lightgbm", train_lightgbm)])
def test_soft_labels_of_other_rows_than_those_of_the_data_set_are_refused(library, train):
    x, y, soft = teacher()
    metric = SoftmaxMetric(library, soft_labels=soft[:5])
    with pytest.raises(ValueError, match=r"one row for each row .* shape \(100, 10\), got shape \(99, 10\)"):
        train(x[:100], y[:100], soft[:99], (x[:5], y[:5]), metric)
    with pytest.raises(ValueError, match=r"one row for each row of the data .* shape \(6, 10\), got shape \(5, 10\)"):
        train(x[:100], y[:100], soft[:100], (x[:6], y[:6]), metric)
