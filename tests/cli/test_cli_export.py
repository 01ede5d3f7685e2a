"""`softmaxloss export`: onnxruntime predicts what the model of the command line predicts."""

import json
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.pipeline import make_pipeline

from data_sets import data
from exported import onnx, onnxruntime, run
from softmaxloss import SoftmaxClassifier, load_model
from softmaxloss.cli import main
from softmaxloss.cli.data import read_table
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.model_file import read_model_file
from softmaxloss.onnx import to_onnx
from softmaxloss.onnx.graph import Graph
from softmaxloss.onnx.tables import of_date
from softmaxloss.preparation import TablePreparation
from tables import GAPS, make_tables

pytestmark = pytest.mark.usefixtures("empty_pictures")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(line):
        code = main(line.split())
        return code, *capsys.readouterr()

    return command


def table_with_gaps():
    """Iris with gaps in two of its columns, 18 more columns of numbers, and labels of text."""
    x, y = data("iris", standardised=False)
    random = np.random.default_rng(0)
    x = np.hstack([x * [1e6, 1, 1e-3, 1] + [1e9, 0, 0, 0], random.normal(size=(len(x), 18))])
    x[random.random(x.shape) < 0.1 * (np.arange(x.shape[1]) % 5 == 1)] = np.nan
    return pl.DataFrame(x, schema=[f"column {k}" for k in range(x.shape[1])]), np.array(["a", "b", "c d"])[y]


def test_a_model_of_the_command_line_fills_gaps_and_scales_as_before(command, tmp_path):
    frame, labels = table_with_gaps()
    frame.with_columns(kind=labels).fill_nan(None).write_csv(tmp_path / "table.csv")
    assert command("train table.csv --out m --test-size 0")[0] == 0
    code, output, error = command("export m --out model.onnx")
    assert (code, error) == (0, "")
    assert "wrote model.onnx; its input X has 22 columns of float64: column 0, column 1" in output
    model = load_model(tmp_path / "m")
    content = (tmp_path / "model.onnx").read_bytes()
    labels, probabilities = run(content, frame.to_numpy())
    right = model.predict_proba(frame)
    assert labels.tolist() == model.predict(frame).tolist()
    np.testing.assert_allclose(probabilities, right, rtol=0, atol=1e-6)

    frame = frame.with_columns(pl.lit(np.nan).alias("column 0"))  # a gap where training saw none
    np.testing.assert_allclose(run(content, frame.to_numpy())[1], model.predict_proba(frame), rtol=0, atol=1e-6)
    table = read_model_file(tmp_path / "m")
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(props["features"]) == frame.columns
    assert props["target_name"] == "kind"
    assert json.loads(props["class_counts"]) == table.class_counts.tolist()
    assert json.loads(props["options"]) == json.loads(json.dumps(table.options))


@pytest.mark.parametrize("name", ["digits", "wine"])
def test_models_of_known_data_are_exported_by_the_command(command, tmp_path, name):
    assert command(f"train {name} --out m")[0] == 0
    assert command("export m")[0] == 0
    frame = read_table(name, TextOptions()).frame
    model = load_model(tmp_path / "m")
    samples = frame.select(model[0].columns).to_numpy()
    labels, probabilities = run((tmp_path / "model.onnx").read_bytes(), samples)
    assert labels.tolist() == model.predict(frame).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), rtol=0, atol=1e-6)


def cells(preparation, frame):
    """Return the columns of a table as an exported model wants them: numbers, texts as they stand, days since 1970."""
    columns = [[number(cell) for cell in frame[name]] for name in preparation.numbers]
    columns += [[None if cell is None else str(cell) for cell in frame[name]] for name in preparation.words]
    return columns + [[day(cell) for cell in frame[name]] for name in preparation.dates]


def number(cell):
    try:
        return float(cell)
    except (TypeError, ValueError):
        assert cell is None or cell in GAPS
        return None


def day(cell):
    if cell is None or cell in GAPS:
        return None
    return (date.fromisoformat(str(cell)) - date(1970, 1, 1)).days


def assert_same(content, model, frame):
    labels, probabilities = run(content, cells(model[0], frame))
    assert labels.tolist() == model.predict(frame).tolist()
    right = model.predict_proba(frame)
    assert probabilities.dtype == right.dtype
    np.testing.assert_allclose(probabilities, right, rtol=0, atol=1e-6)


def damaged(frame, names, others=(*GAPS, "unseen", "Ünseen, 未")):
    """Return a table where a third of the cells of some columns are gaps, or words that training never saw."""
    random = np.random.default_rng(0)
    columns = [[random.choice(others) if random.random() < 1 / 3 else cell for cell in frame[name]] for name in names]
    return frame.with_columns(pl.Series(name, column) for name, column in zip(names, columns, strict=True))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    make_tables(folder, large=(10, 2))
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("penguins", ""),
        ("titanic", "--target Survived"),
        ("census", ""),
        ("dates", "--date sold"),
        ("quotes", ""),
        ("quotes", "--features note"),
    ],
)
def test_a_model_of_texts_gaps_and_dates_answers_as_before(command, tmp_path, tables, name, options):
    path = tables / f"{name}.csv"
    assert command(f"train {path} --out m {options}")[0] == 0
    code, output, error = command("export m")
    assert (code, error) == (0, "")
    model, frame = load_model(tmp_path / "m"), read_table(str(path), TextOptions()).frame
    content = (tmp_path / "model.onnx").read_bytes()
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(props["features"]) == model[0].columns
    assert json.loads(props["column_names"]) == frame.columns
    assert [line.split(":")[0].strip() for line in output.splitlines()[1:]] == model[0].columns
    assert_same(content, model, frame)
    assert_same(content, model, damaged(damaged(frame, model[0].words), model[0].dates, GAPS))
    numbers = [pl.lit(None, dtype=pl.Float64).alias(one) for one in model[0].numbers]
    assert_same(content, model, frame.with_columns(numbers))


def fitted(frame, numbers=(), words=(), dates=()):
    """Return a pipeline that was fitted on a table, and its ONNX model."""
    labels = np.random.default_rng(1).choice(["a", "b", "c"], len(frame))
    preparation = TablePreparation(numbers, words, dates)
    model = make_pipeline(preparation, SoftmaxClassifier()).fit(frame, labels)
    return model, to_onnx(model).SerializeToString()


def test_truth_values_categories_and_dates_that_are_no_text_are_texts_and_days():
    n = 120
    frame = pl.DataFrame(
        {
            "flag": [[True, False, None][k % 3] for k in range(n)],
            "said": [["True", "FALSE", "false", "n/a", "maybe"][k % 5] for k in range(n)],
            "category": pl.Series([f"{k % 4}w" for k in range(n)], dtype=pl.Categorical),
            "level": [[1, 2, 7, None][k % 4] for k in range(n)],
            "share": [[0.5, None, 1.0][k % 3] for k in range(n)],
            "empty": pl.Series([None] * n, dtype=pl.String),
            "day": [None if k % 7 == 0 else date(1950, 2, 27) + timedelta(k * 97) for k in range(n)],
        }
    )
    model, content = fitted(frame, ["share"], ["flag", "said", "category", "level", "empty"], ["day"])
    assert_same(content, model, frame)
    assert run(content, cells(model[0], frame.clear()))[1].shape == (0, 3)
    without = frame.with_columns(pl.lit(None).cast(frame[name].dtype).alias(name) for name in frame.columns)
    assert_same(content, model, without)
    assert_same(content, model, frame.with_columns(empty=pl.lit("word"), said=pl.lit("TrUe")))


def test_rare_words_and_unseen_words_are_pooled_as_in_training():
    names = [f"word {k}" for k in range(150)]
    frame = pl.DataFrame(
        {
            "many": [names[int(k**0.7)] for k in range(900)],  # more words than features
            "none rare": ["x", "y"] * 450,
            "gaps": [f"{k // 3}" if k % 2 else None for k in range(900)],  # these make one rare word a common one
            "only rare": [f"{k // 4}" for k in range(900)],
            "rare truth": ["TRUE" if k < 3 else "xy"[k % 2] for k in range(900)],
        }
    )
    model, content = fitted(frame, words=frame.columns)
    features = model[0].get_feature_names_out().tolist()
    assert ("many = other" in features, sum(name.startswith("many") for name in features)) == (True, 100)
    assert "none rare = other" not in features
    assert {"only rare = other"} == {name for name in features if name.startswith("only")}
    assert_same(content, model, frame)
    assert_same(content, model, damaged(frame, frame.columns))


@pytest.mark.parametrize("opset", range(13, 22))
def test_every_opset_from_13_on_takes_texts_and_dates(opset):
    frame = pl.DataFrame({"word": ["x", "y", None] * 20, "day": [f"2024-0{1 + k % 9}-29" for k in range(60)]})
    model, _ = fitted(frame, words=["word"], dates=["day"])
    exported = to_onnx(model, opset=opset)
    assert {entry.domain: entry.version for entry in exported.opset_import} == {"": opset, "ai.onnx.ml": 2}
    assert_same(exported.SerializeToString(), model, frame)


def test_columns_may_have_any_name():
    exported = to_onnx(fitted(pl.DataFrame({"x": ["a", "b"] * 20}), words=["x"])[0])
    names = {name for node in exported.graph.node for name in [*node.input, *node.output]}
    names = names - {""} | {"label_", "probabilities_", "samples", "X", "a b\n", "größe"}
    random = np.random.default_rng(0)
    frame = pl.DataFrame({name: random.choice(["u", "v", "w"], 60) for name in sorted(names)})
    model, content = fitted(frame, words=frame.columns)
    assert_same(content, model, frame)
    inputs = {one.name: one.doc_string for one in onnx.load_from_string(content).graph.input}
    assert {"X", "a b\n", "größe", "label__", "label_"} <= set(inputs)
    assert inputs["größe"] == "text without spaces around it, empty if missing"
    assert inputs["label_"] == "column 'label': text without spaces around it, empty if missing"


def test_months_and_weekdays_of_every_day_of_800_years_are_those_of_the_calendar():
    graph = Graph()
    parts = of_date(graph, graph.input("day", float, 1))
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["samples", 1]) for name in parts]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "dates", graph.inputs, outputs, graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
        ir_version=7,
    )
    days = np.arange(np.datetime64("1580-01-01"), np.datetime64("2380-01-01"))
    days = np.concatenate([days, [date.min, date.max]]).astype("M8[D]")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    since_1970 = days.astype(np.int64)
    results = session.run(None, {"day": since_1970[:, None] + 0.75})  # a time of day changes nothing
    right = [(since_1970[k], one.month, one.isoweekday()) for k, one in enumerate(days.tolist())]
    np.testing.assert_array_equal(np.hstack(results), right)
    assert np.isnan(session.run(None, {"day": [[np.nan]]})).all()


def test_what_the_command_cannot_export_is_said_in_one_line(command, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"of someone else")
    assert command("train iris --out n")[0] == 0
    for line, message in {
        "export n --out model.txt": "must end in .onnx",
        "export n --out nowhere/model.onnx": "the folder nowhere of --out nowhere/model.onnx does not exist",
        "export n --out other.onnx": "other.onnx is there already and was not written by this command",
        "export nothing": "nothing: No such file",
    }.items():
        code, _, error = command(line)
        assert code == 2
        assert message in error
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"other.onnx"}
    assert (tmp_path / "other.onnx").read_bytes() == b"of someone else"
    assert [command("export n")[0] for _ in range(2)] == [0, 0]  # our own file may be replaced
