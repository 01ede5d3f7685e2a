"""Train, evaluate and predict, in this process: what they write and say is consistent and complete."""

import io
import json

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_iris

from softmaxloss.cli import main
from softmaxloss.cli.data import read_table
from softmaxloss.cli.options import TrainOptions
from softmaxloss.cli.train import split
from softmaxloss.model_file import read_model_file

pytestmark = pytest.mark.usefixtures("empty_pictures")
RESULTS = {"model.safetensors", "metrics.json", "learning_curve.png", "confusion.png", "reliability.png"}
IRIS = load_iris()
NAMES = ["sl", "sw", "pl", "pw"]
FRAME = pl.DataFrame(IRIS.data, schema=NAMES).with_columns(kind=pl.Series(IRIS.target_names[IRIS.target]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    FRAME.write_csv(folder / "iris.csv")
    assert main(["train", str(folder / "iris.csv"), "--out", str(folder / "model")]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder and give what it printed; MODEL and IRIS stand for the trained ones."""
    names = {"MODEL": str(trained / "model"), "IRIS": str(trained / "iris.csv")}
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = main([names.get(word, word) for word in line.split()])
        output, error = capsys.readouterr()
        assert (code, error) == (0, "")
        return output

    return run


def scaler_of(model):
    return model.preparation.parts_[0][1][-1]


def predictions(text):
    return pl.read_csv(io.StringIO(text))


def test_training_writes_five_files_and_says_where(run, tmp_path):
    output = run("train iris")
    assert {path.name for path in (tmp_path / "softmaxloss-iris").iterdir()} == RESULTS
    assert {path.name for path in tmp_path.iterdir()} == {"softmaxloss-iris"}
    assert "iris: 150 rows, 4 feature columns, 3 classes in column 'target'" in output
    assert "converged after" in output
    for name in RESULTS:
        assert name in output
    assert output.rstrip().endswith("to softmaxloss-iris")


@pytest.mark.parametrize("out", ["results", "deep/er/results", "."])
def test_training_makes_the_folder_it_is_told(run, tmp_path, out):
    run(f"train IRIS --out {out}")
    assert {path.name for path in (tmp_path / out).iterdir()} == RESULTS


def test_training_again_replaces_its_own_files_and_no_others(run, tmp_path):
    run("train iris --out results")
    before = (tmp_path / "results" / "metrics.json").read_text()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    run("train iris --out results --C 0.1")
    assert (tmp_path / "results" / "metrics.json").read_text() != before
    assert (tmp_path / "results" / "notes.txt").read_text() == "mine"
    assert {path.name for path in (tmp_path / "results").iterdir()} == RESULTS | {"notes.txt"}


def test_the_same_seed_gives_the_same_model_and_another_does_not(run, tmp_path):
    models = []
    for seed in (1, 1, 2):
        run(f"train iris --out m --seed {seed}")
        models.append(read_model_file(tmp_path / "m" / "model.safetensors").classifier.coef_)
    np.testing.assert_array_equal(models[0], models[1])
    assert (models[0] != models[2]).any()


def test_metrics_agree_with_the_table_and_with_evaluating_the_parts(run, trained):
    metrics = json.loads((trained / "model" / "metrics.json").read_text())
    figures = metrics["figures"]
    assert [figures[part]["rows"] for part in ("train", "test", "baseline")] == [120, 30, 30]
    assert figures["baseline"]["accuracy"] == pytest.approx(1 / 3)
    assert metrics["converged"]
    assert metrics["iterations"] + 1 == len(metrics["loss_curve"])
    assert metrics["options"]["data"].endswith("iris.csv")
    output = run("evaluate MODEL IRIS")
    together = sum(figures[part]["loss"] * figures[part]["rows"] for part in ("train", "test")) / 150
    assert f"{together:.4f}" in output
    assert "expect worse figures on new rows" in output


def test_training_data_are_known_by_any_of_their_names(run, tmp_path):
    for name in ("a.csv", "b.csv"):
        FRAME.write_csv(tmp_path / name)
    run("train a.csv --out m")
    (tmp_path / "link.csv").symlink_to("a.csv")
    for name in ("a.csv", "./a.csv", "m/../a.csv", str(tmp_path / "a.csv"), "link.csv"):
        assert f"the model was trained on rows of {name}: expect worse figures on new rows" in run(f"evaluate m {name}")
    assert "worse figures" not in run("evaluate m b.csv")
    assert str(tmp_path).encode() not in (tmp_path / "m" / "model.safetensors").read_bytes()


def test_the_table_speaks_of_calibration_and_a_note_explains(run):
    for command in ("train iris", "evaluate MODEL IRIS"):
        table, note, _ = run(command).partition("\ncalibration error: mean gap between confidence and accuracy (ECE")
        assert "\ncalibration error " in table
        assert "ECE" not in table
        assert note


def test_the_test_part_never_reaches_the_model(run, tmp_path):
    parts = split(read_table("iris"), IRIS.target, TrainOptions())
    models = {}
    for changed in ("nothing", "test", "train"):
        features = IRIS.data.copy()
        if changed != "nothing":
            features[parts[changed]] *= 7
        np.savez(tmp_path / "t.npz", X=features, y=IRIS.target)
        run(f"train t.npz --out {changed}")
        models[changed] = read_model_file(tmp_path / changed / "model.safetensors")
    means = {name: scaler_of(model).mean_.tolist() for name, model in models.items()}
    assert means["test"] == means["nothing"] != means["train"]
    np.testing.assert_array_equal(models["test"].classifier.coef_, models["nothing"].classifier.coef_)


def test_features_are_standardised_and_constant_columns_left_alone(run, tmp_path):
    FRAME.with_columns(sl=pl.col("sl") * 1e-3 + 1e6, still=0.1).select(*NAMES, "still", "kind").write_csv(
        tmp_path / "shifted.csv"
    )
    run("train shifted.csv --out m")
    model = read_model_file(tmp_path / "m" / "model.safetensors")
    assert scaler_of(model).scale_[NAMES.index("sl")] == pytest.approx(0.82e-3, rel=0.05)
    assert scaler_of(model).scale_[4] == 1
    shifted, plain = (predictions(run(f"predict {words} --proba")) for words in ("m shifted.csv", "MODEL IRIS"))
    np.testing.assert_allclose(shifted.drop("prediction"), plain.drop("prediction"), rtol=1e-3, atol=1e-5)


def test_columns_may_come_in_any_order_with_or_without_the_target(run, tmp_path):
    expected = run("predict MODEL IRIS --proba")
    FRAME.select("pw", "kind", "sl", "pl", "sw").write_csv(tmp_path / "other.csv")
    FRAME.select("pw", "pl", "sw", "sl").write_parquet(tmp_path / "bare.parquet")
    FRAME.with_columns(kind=pl.lit(None)).write_csv(tmp_path / "untold.csv")
    for name in ("other.csv", "bare.parquet", "untold.csv"):
        assert run(f"predict MODEL {name} --proba") == expected


def test_nameless_arrays_are_matched_by_position(run, tmp_path):
    np.savez(tmp_path / "rows.npz", X=FRAME.select(NAMES).to_numpy())
    assert run("predict MODEL rows.npz") == run("predict MODEL IRIS")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "npz"])
def test_predictions_are_the_same_in_every_format(run, tmp_path, suffix):
    printed = predictions(run("predict MODEL IRIS --proba"))
    assert printed.columns == ["prediction", *(f"probability_{kind}" for kind in IRIS.target_names)]
    assert run(f"predict MODEL IRIS --proba --out p.{suffix}") == ""
    run(f"predict MODEL IRIS --proba --out p.{suffix}")  # its own file may be replaced
    path = tmp_path / f"p.{suffix}"
    if suffix == "npz":
        arrays = np.load(path)
        assert arrays["prediction"].tolist() == printed["prediction"].to_list()
        assert arrays["classes"].tolist() == IRIS.target_names.tolist()
        np.testing.assert_allclose(arrays["probability"], printed.drop("prediction").to_numpy(), rtol=1e-6)
        return
    written = pl.read_parquet(path) if suffix == "parquet" else pl.read_csv(path, separator=",\t"[suffix == "tsv"])
    assert written.columns == printed.columns
    assert written["prediction"].equals(printed["prediction"])
    np.testing.assert_allclose(written.drop("prediction").to_numpy(), printed.drop("prediction").to_numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("classes", "shown"),
    [([3, 7, 10], ["3", "7", "10"]), ([False, True], ["false", "true"]), (["1", "02", "b"], ["1", "02", "b"])],
)
def test_classes_come_back_as_they_were(run, tmp_path, classes, shown):
    labels = [classes[number % len(classes)] for number in IRIS.target]
    np.savez(tmp_path / "t.npz", X=IRIS.data, y=np.array(labels))
    run("train t.npz --out m")
    printed = run("predict m t.npz").split()
    assert printed[0] == "prediction"
    assert set(printed[1:]) <= set(shown)
    assert len(set(printed[1:])) == len(classes)
    run("predict m t.npz --out p.npz")
    assert np.load(tmp_path / "p.npz")["prediction"].dtype.kind == np.array(labels).dtype.kind
    assert "accuracy" in run("evaluate m t.npz")


def test_text_classes_are_compared_as_text_even_if_a_file_holds_digits_only(run, tmp_path):
    (tmp_path / "mixed.csv").write_text("a,kind\n" + "1,01\n2,1\n3,x\n" * 5)
    (tmp_path / "digits.csv").write_text("a,kind\n2,1\n2,1\n")
    run("train mixed.csv --out m")
    assert "100.00%" in run("evaluate m digits.csv")


def test_the_only_row_of_a_class_is_trained_on(run, tmp_path):
    lone = FRAME.head(1).with_columns(kind=pl.lit("lone"), sl=pl.lit(30.0))
    pl.concat([FRAME, lone]).write_csv(tmp_path / "lone.csv")
    output = run("train lone.csv --out m")
    assert "classes with a single row: 1; they are trained on, but not tested" in output
    model = read_model_file(tmp_path / "m" / "model.safetensors")
    assert model.class_counts.tolist() == [1, 40, 40, 40]


def test_every_class_is_trained_on_even_if_most_rows_are_kept_out(run, tmp_path):
    pair = FRAME.head(2).with_columns(kind=pl.lit("pair"))
    pl.concat([FRAME, pair]).write_csv(tmp_path / "pair.csv")
    for seed in range(3):
        run(f"train pair.csv --out m --test-size 0.9 --seed {seed}")
        assert (read_model_file(tmp_path / "m" / "model.safetensors").class_counts > 0).all()


def test_all_rows_can_be_trained_on(run, tmp_path):
    output = run("train iris --test-size 0 --out m")
    assert "no rows were kept out to test with: expect worse figures on new rows" in output
    assert set(json.loads((tmp_path / "m" / "metrics.json").read_text())["figures"]) == {"train", "baseline"}


def test_options_reach_the_classifier_and_the_model_file(run, tmp_path):
    coefficients = {}
    for option in ("", "--C 0.01", "--label-smoothing 0.3", "--max-iter 2", "--class-weight balanced"):
        FRAME.head(120).write_csv(tmp_path / "uneven.csv")
        output = run(f"train uneven.csv --out m {option}")
        model = read_model_file(tmp_path / "m" / "model.safetensors")
        coefficients[option] = model.classifier.coef_.tobytes()
        assert ("not converged: stopped at the limit of 2 iterations" in output) == (option == "--max-iter 2")
    assert len(set(coefficients.values())) == 5
    assert model.options["class_weight"] == "balanced"
