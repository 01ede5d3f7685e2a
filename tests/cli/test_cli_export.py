"""`softmaxloss export`: onnxruntime predicts what the model of the command line predicts."""

import json

import numpy as np
import polars as pl
import pytest

from data_sets import data
from exported import onnx, run
from softmaxloss import load_model
from softmaxloss.cli import main
from softmaxloss.cli.data import read_table
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.model_file import read_model_file

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


def test_what_the_command_cannot_export_is_said_in_one_line(command, tmp_path):
    frame, labels = table_with_gaps()
    words = pl.DataFrame({"island": ["x", "y", "z"] * 50, "day": ["2020-01-01", "2021-02-03"] * 75})
    pl.concat([frame, words], how="horizontal").with_columns(kind=labels).fill_nan(None).write_csv("t.csv")
    assert command("train t.csv --date day --out m --test-size 0")[0] == 0
    code, _, error = command("export m")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "from the words or dates in 'island', 'day'; train without these columns" in error
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
