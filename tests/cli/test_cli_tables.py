"""Fourteen tables as people have them: each is learned in one command, as well as scikit-learn learns it.

The file has over 300 lines, as what can go wrong with a table is tried by the commands that the tables are for.
"""

import io
import json
from datetime import date, time, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import softmaxloss
from softmaxloss.cli import main
from softmaxloss.cli.options import TrainOptions
from softmaxloss.cli.train import split
from tables import GAPS, make_tables

pytestmark = pytest.mark.usefixtures("empty_pictures")
# What the command is told beside the file; how pandas must be told to read it; the columns it leaves out.
TABLES = {
    "penguins.csv": ("", {}, []),
    "titanic.csv": ("--target Survived", {}, ["PassengerId", "Name", "Ticket"]),
    "census.csv": ("", {}, []),
    "bank.csv": ("", {"sep": ";", "decimal": ","}, []),
    "fraud.csv": ("", {}, []),
    "classes2000.csv": ("", {}, []),
    "dates.csv": ("", {}, ["sold"]),
    "ids.csv": ("", {}, ["customer_id", "token"]),
    "latin1.csv": ("", {"encoding": "latin-1"}, []),
    "zipped.csv.gz": ("", {}, []),
    "headerless.data": ("", {"header": None}, []),
    "quotes.csv": ("", {}, []),
    "exponents.csv": ("", {}, []),
    "large.csv": ("", {}, []),
}
SLOW = {"classes2000.csv", "large.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    make_tables(folder, large=(20_000, 50))
    return folder


def loss_of_scikit_learn(path, target, options, left_out):
    """Return the test loss of scikit-learn's pipeline on the rows that the command keeps out."""
    frame = pd.read_csv(
        path, na_values=list(GAPS), keep_default_na=False, dtype={target: str} if target else {4: str}, **options
    )
    target = target or frame.columns[-1]
    labels = frame.pop(target).to_numpy(dtype=object)
    classes, codes = np.unique(labels.astype(str), return_inverse=True)
    parts = split(None, codes, TrainOptions())
    frame = frame.drop(columns=left_out)
    numbers = [name for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
    words = [name for name in frame.columns if name not in numbers]
    frame[words] = frame[words].astype(object).where(frame[words].notna(), None)
    pipeline = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), numbers),
            (
                make_pipeline(
                    SimpleImputer(strategy="most_frequent", missing_values=None),
                    OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist"),
                ),
                words,
            ),
        ),
        LogisticRegression(tol=1e-5, max_iter=1000),
    )
    pipeline.fit(frame.iloc[parts["train"]], codes[parts["train"]])
    proba = pipeline.predict_proba(frame.iloc[parts["test"]])
    return log_loss(codes[parts["test"]], proba, labels=range(len(classes)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in SLOW else name for name in TABLES]
)
def test_each_table_is_learned_in_one_command_as_well_as_by_scikit_learn(name, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, options, left_out = TABLES[name]
    assert main(["train", str(folder / name), "--out", "m", *words.split()]) == 0
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    target = None if "header" in options else metrics["target"]
    expected = loss_of_scikit_learn(folder / name, target, options, left_out)
    assert metrics["figures"]["test"]["loss"] == pytest.approx(expected, rel=0.01)
    assert metrics["test_loss_curve"][-1] == pytest.approx(metrics["figures"]["test"]["loss"], rel=1e-6)
    output = capsys.readouterr().out
    for column in left_out:
        assert f"column {column!r} is left out: " in output
    assert main(["evaluate", "m", str(folder / name), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    figures = metrics["figures"]
    both = sum(figures[part]["loss"] * figures[part]["rows"] for part in ("train", "test"))
    rows = figures["train"]["rows"] + figures["test"]["rows"]
    assert evaluated["figures"]["model"]["loss"] == pytest.approx(both / rows, rel=1e-5)
    assert evaluated["trained_on_these_rows"]
    assert main(["predict", "m", str(folder / name), "--out", "p.csv"]) == 0
    classes = {str(label) for label in metrics["classes"]}
    assert set((tmp_path / "p.csv").read_text().replace('""', '"').splitlines()[1:]) <= classes | {
        f'"{label}"' for label in classes
    }


def test_a_stranger_learns_an_unseen_table_in_two_commands(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    size = rng.normal(10, 3, 400)
    rows = [
        f"{k + 1},{s:.1f},{'' if k % 11 == 0 else 'red' if s + rng.normal() > 10 else 'green'},"
        f"{'ripe' if s > 10 else 'unripe'}"
        for k, s in enumerate(size)
    ]
    (tmp_path / "fruit.csv").write_text("fruit_id,size,colour,state\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "fruit.csv", "--target", "state", "--id", "fruit_id", "--C", "auto"]) == 0
    output = capsys.readouterr().out
    assert "2 columns: 1 number, 1 text with 2 values; 37 gaps filled" in output
    assert "in cross-validation" in output
    assert (tmp_path / "softmaxloss-fruit" / "regularisation.png").exists()
    (tmp_path / "new.csv").write_text("remark,colour,size,fruit_id\nx,red,14.0,A-1\ny,?,6,A-2\nz,blue,,A-3\n")
    assert main(["predict", "softmaxloss-fruit", "new.csv", "--proba"]) == 0
    done = capsys.readouterr()
    lines = [line.split(",") for line in done.out.splitlines()]
    assert lines[0] == ["fruit_id", "prediction", "probability_ripe", "probability_unripe"]
    assert [line[:2] for line in lines[1:3]] == [["A-1", "ripe"], ["A-2", "unripe"]]
    assert "not used by the model: 'remark'" in done.err
    assert "column 'colour': 1 cell holds a word new to the model" in done.err
    model = softmaxloss.load_model("softmaxloss-fruit")
    new = {"colour": ["red", None, "blue"], "size": [14.0, 6.0, None]}
    assert model.predict(new).tolist() == [line[1] for line in lines[1:]]
    np.testing.assert_allclose(model.predict_proba(new), np.array(lines)[1:, 2:].astype(float), rtol=1e-5)


def test_the_chosen_regularisation_has_the_least_loss_of_the_curve_and_the_search_looks_beyond_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "wine", "--C", "auto", "--out", "m"]) == 0
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    losses = [one["loss"] for one in metrics["C_curve"]]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1
    pipeline = softmaxloss.load_model("m")
    assert metrics["C_curve"][best]["C"] == pipeline[-1].C


def test_rows_without_a_label_are_refused_left_out_and_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = [f"{k % 7},{k % 5},{('' if k == 30 else 'NA') if k in {30, 31} else k % 3}" for k in range(90)]
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join(cells) + "\n")
    assert main(["train", "t.csv"]) == 2
    assert "has 2 missing labels, first in data row 31; leave such rows out with" in capsys.readouterr().err
    assert main(["train", "t.csv", "--drop-unlabelled", "--out", "m"]) == 0
    assert "2 rows without a label are left out" in capsys.readouterr().out
    assert main(["evaluate", "m", "t.csv"]) == 2
    assert main(["evaluate", "m", "t.csv", "--drop-unlabelled"]) == 0
    capsys.readouterr()
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join([*cells, "1,2,lynx"]) + "\n")
    for row, says in (
        (3, "predicted "),
        (31, "for a row which has no label"),
        (91, "whose label 'lynx' the model does"),
    ):
        assert main(["explain", "--model", "m", "--data", "t.csv", "--row", str(row)]) == 0
        assert says in capsys.readouterr().out


def test_a_label_of_30000_letters_costs_no_memory_beyond_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{k % 7},{k % 5},{'xy'[k % 2]}" for k in range(3000)] + [f"1,2,{'z' * 30_000}", f"2,2,{'z' * 30_000}"]
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join(rows) + "\n")
    assert main(["train", "t.csv", "--out", "m"]) == 0
    assert main(["evaluate", "m", "t.csv"]) == 0
    assert main(["predict", "m", "t.csv", "--out", "p.csv"]) == 0
    assert main(["predict", "m", "t.csv", "--out", "p.npz"]) in {0, 2}
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300


def test_predictions_that_an_array_file_cannot_hold_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"x": [1, 2, 3] * 20, "t": ["a", "a\0", "b"] * 20}).write_parquet("t.parquet")
    assert main(["train", "t.parquet", "--target", "t", "--out", "m"]) == 0
    assert main(["predict", "m", "t.parquet", "--out", "p.npz"]) == 2
    assert "--out must end in .csv or .parquet here: a text ends in a zero character" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; return its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(line, stdin=""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(line.split())
        output, error = capsys.readouterr()
        return code, output, error

    return run


def table(rows, header):
    return "\n".join([header, *rows]) + "\n"


PLAIN = table([f"{k % 7},{(k * k) % 5},{'ab'[(k % 7) > 3]}" for k in range(60)], "x,z,label")


def test_every_command_reads_standard_input(run):
    assert run("train - --out m", PLAIN)[0] == 0
    assert run("train -", PLAIN)[1].rstrip().endswith("to softmaxloss-table")
    code, output, _ = run("evaluate m -", PLAIN)
    assert code == 0
    assert "worse figures" not in output
    assert run("predict m -", PLAIN)[1].split()[0] == "prediction"
    assert "row 2 of -" in run("explain --model m --data - --row 2", PLAIN)[1]
    assert "Unknown option: --bogus" in run("train --bogus")[2]


def test_typed_columns_of_every_kind_are_taken_or_refused_by_name(run, tmp_path):
    n = 60
    frame = pl.DataFrame({"x": [k % 7 for k in range(n)], "label": ["ab"[k % 7 > 3] for k in range(n)]})
    others = {
        "cat": pl.Series([str(k % 3) + "w" for k in range(n)], dtype=pl.Categorical),
        "enum": pl.Series(["ab"[k % 2] for k in range(n)], dtype=pl.Enum(["a", "b"])),
        "flag": pl.Series([k % 2 == 0 for k in range(n)]),
        "date": pl.Series([date(2020, 1, 1)] * n),
    }
    for name, column in others.items():
        frame.with_columns(column.alias(name)).write_parquet(tmp_path / "t.parquet")
        assert run("train t.parquet --target label --out m")[0] == 0, name
    for name, column in {
        "list": pl.Series([[1]] * n),
        "duration": pl.Series([timedelta(1)] * n),
        "time": pl.Series([time(1)] * n),
        "binary": pl.Series([b"a"] * n),
    }.items():
        frame.with_columns(column.alias(name)).write_parquet(tmp_path / "t.parquet")
        for options in ("--target label", f"--target label --date {name}", f"--target {name}", ""):
            code, _, error = run(f"train t.parquet {options} --out m")
            assert code == 2, (name, options)
            assert repr(name) in error


def test_no_finite_number_gives_a_prediction_that_is_none(run, tmp_path):
    assert run("train - --out m", PLAIN)[0] == 0
    for value in ("3e38", "-1e30", "1e300"):
        (tmp_path / "far.csv").write_text(f"x,z,label\n1,2,a\n{value},1,b\n")
        for command in ("predict m far.csv --proba", "evaluate m far.csv --json"):
            code, output, error = run(command)
            assert (code, output) == (2, "")
            assert "column 'x' holds" in error
            assert "in data row 2" in error


def test_dates_are_read_in_the_form_of_training(run, tmp_path):
    days = [(1 + k % 28, 1 + k % 12) for k in range(80)]
    rows = [f"{month:02d}/{day:02d}/2020,{'ab'[month > 6]}" for day, month in days]
    (tmp_path / "us.csv").write_text(table(rows, "d,label"))
    code, _, error = run("train us.csv --date d --test-size 0 --out m --target label")
    assert code == 0, error
    forms = [run("predict m - --proba", f"d\n{day}\n")[1] for day in ("03/04/2020", "2020-03-04", "03/04/2020 12:30")]
    assert forms[0] == forms[1] == forms[2]
    assert run("predict m - --proba", "d\n04/03/2020\n")[1] != forms[0]
    assert "holds '31/12/2020' where a date belongs" in run("predict m -", "d\n31/12/2020\n")[2]


def test_columns_without_names_are_matched_by_position_with_or_without_the_label(run):
    rows = [f"{'ab'[k % 7 > 3]},{k % 7},{(k * k) % 5},{k % 3}" for k in range(60)]
    assert run("train - --no-header --target column_1 --drop column_4 --out m", "\n".join(rows))[0] == 0
    whole = run("predict m - --proba --no-header", "\n".join(rows))[1]
    bare = run("predict m - --proba --no-header", "\n".join(row[2:] for row in rows))[1]
    assert whole == bare
    code, _, error = run("predict m - --no-header", "\n".join(row[4:] + ",1,1,1,1" for row in rows))
    assert code == 2
    assert "has 6 columns without names; the model was trained on 3, beside the target" in error


def test_words_that_look_like_gaps_are_classes_at_evaluation_too(run):
    rows = [f"{k % 9},{['1', 'A', 'NA'][k % 9 // 3]}" for k in range(90)]
    assert run("train - --target l --out m", table(rows, "x,l"))[0] == 0
    some = table([row for row in rows if not row.endswith(",A")], "x,l")
    assert json.loads(run("evaluate m - --json", some)[1])["figures"]["model"]["rows"] == 60


def test_labels_that_differ_in_spaces_only_stay_apart(run):
    rows = [f'{k % 9},"{["a", " a", "b"][k % 9 // 3]}"' for k in range(90)]
    assert run("train - --target l --out m", table(rows, "x,l").replace('," a', ',"  a'))[0] == 0
    assert json.loads(Path("m/metrics.json").read_text())["classes"] == ["  a", "a", "b"]
    assert (
        json.loads(run("evaluate m - --json", table(rows, "x,l").replace('," a', ',"  a'))[1])["figures"]["model"][
            "rows"
        ]
        == 90
    )


def test_ids_and_labels_of_a_file_with_decimal_commas_come_back_as_they_were(run):
    rows = [f"{k},50;{k % 9},5;{'1,5' if k % 9 > 4 else '0,5'}" for k in range(60)]
    text = table(rows, "id;x;label")
    assert run("train - --id id --target label --out m", text)[0] == 0
    lines = run("predict m -", text)[1].splitlines()
    assert lines[1].startswith('"0,50"')
    assert {line.rsplit('"', 2)[1] for line in lines[1:]} == {"0,5", "1,5"}


CONTRADICTORY = PLAIN.replace("x,z,label", "x,prediction,label")
CONTRADICTIONS = [
    ("--features x --drop x", "column 'x' is named by both --features and --drop"),
    ("--date x --id x", "column 'x' is named by both --date and --id"),
    ("--id prediction", "--id: the output has its own column 'prediction'"),
    ("--features label", "column 'label' is the target"),
    ("--drop nosuch", "--drop: standard input has no column 'nosuch'"),
]


@pytest.mark.parametrize(("options", "says"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(run, options, says):
    code, _, error = run(f"train - --target label {options}", CONTRADICTORY)
    assert code == 2
    assert says in error
    assert run("train - --target label --features x,x --out m", CONTRADICTORY)[0] == 0


def test_all_faulty_columns_are_named_at_prediction(run):
    assert run("train - --out m", PLAIN)[0] == 0
    code, _, error = run("predict m -", "x,z\n1,2\nbad,3\n2,worse\n")
    assert code == 2
    assert "column 'x' holds 'bad' where a number belongs in data row 2" in error
    assert "column 'z' holds 'worse' where a number belongs in data row 3" in error


def test_explain_names_a_faulty_cell_by_the_row_of_the_file(run, tmp_path):
    assert run("train - --out m", PLAIN)[0] == 0
    error = run("explain --model m --data - --row 3", "x,z\n1,2\n2,3\nbad,4\n")[2]
    assert "column 'x' holds 'bad' where a number belongs in data row 3" in error
    pl.DataFrame({"x": [1, 2], "z": [1, 2], "label": [1.0, 0.5]}).write_parquet(tmp_path / "t.parquet")
    assert "holds 0.5 in data row 2" in run("explain --model m --data t.parquet --row 2")[2]


def test_whole_numbers_as_words_are_the_same_in_files_with_types(run, tmp_path):
    rows = [f"{['1', '2', 'A', 'B'][k % 4]},{'ab'[k % 4 > 1]}" for k in range(80)]
    assert run("train - --target label --out m", table(rows, "z,label"))[0] == 0
    pl.DataFrame({"z": [1.0, 2.0, None]}).write_parquet(tmp_path / "z.parquet")
    assert run("predict m z.parquet --proba")[1] == run("predict m - --proba", "z\n1\n2\n?\n")[1]


def test_truth_values_are_the_same_labels_in_every_file(run, tmp_path):
    rows = [f"{k % 9},{k % 9 > 4}" for k in range(60)]
    assert run("train - --target y --out m", table(rows, "x,y"))[0] == 0
    pl.DataFrame({"x": [0, 8], "y": [False, True]}).write_parquet(tmp_path / "t.parquet")
    assert run("evaluate m t.parquet")[0] == 0
