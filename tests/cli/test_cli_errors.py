"""Whatever is wrong with the input: one line on standard error, exit code 2, and no file written.

The file has over 300 lines because of its table of wrong inputs.
"""

import errno
import io
import re
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save
from sklearn.datasets import load_iris

from softmaxloss.cli import main
from thorough import thorough

IRIS = load_iris()
NAMES = ["sl", "sw", "pl", "pw"]
FRAME = pl.DataFrame(IRIS.data, schema=NAMES).with_columns(kind=pl.Series(IRIS.target_names[IRIS.target]))
TEXT = FRAME.write_csv()


def with_cell(cell):
    """Put something else into column sw, data row 3."""
    lines = TEXT.splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([cells[0], cell, *cells[2:]])
    return "\n".join(lines)


def written(save, what, *, first=False):
    """Return the bytes that a function writes."""
    file = io.BytesIO()
    save(*((what, file) if first else (file, what)))
    return file.getvalue()


TABLES = {
    "text.csv": (with_cell("abc"), "'abc'"),
    "inf.csv": (with_cell("-inf"), "column 'sw' is infinite in data row 3"),
    "empty.csv": ("", "is empty"),
    "blank.csv": ("\n\n", "is empty"),
    "header.csv": (TEXT.splitlines()[0], "holds no rows"),
    "ragged.csv": (f"{TEXT}1,2,3,4,a,6\n", "data row 151 has 6 cells, but the first line names 5 columns"),
    "twice.csv": (TEXT.replace("sl,sw", "sw,sw"), "has more than one column 'sw'"),
    "nameless.csv": (TEXT.replace("sl,sw", ",sw"), "column 1 has no name"),
    "empty.npz": (b"", "is not a readable NPZ file (damaged)"),
    "empty.parquet": (b"", "is not a readable Parquet file"),
    "table.xlsx": (b"PK", "is neither a bundled data set"),
    "bytes.csv": (b"a,kind\n1,\0\n", "bytes.csv is not a text file: it holds bytes that are 0; if it is compressed"),
    "quote.csv": ('a,kind\n1,x\n2,"y\n', 'line 3 of the table opens a quote (") that is not closed'),
    "mixed.csv": ("a;b\nx\ny\n", "has one column only, 'a;b', when it is separated by comma; give the right character"),
    "plain.csv.gz": (TEXT, "is not a readable gzip file; if it is not compressed, rename it without .gz"),
    "bare.npz": (written(np.save, np.zeros((3, 2))), "is one bare array (.npy)"),
}
ONLY_TRAINING = {
    "one.csv": (FRAME.head(50).write_csv(), "column 'kind' holds one class only, 'setosa'"),
    "decimal.csv": (
        FRAME.drop("kind").write_csv(),
        "the last one, 'pw', holds 22 different numbers",
    ),
    "target.csv": (
        TEXT.replace("virginica", ""),
        "column 'kind' has 50 missing labels, first in data row 101",
    ),
    "few.csv": (FRAME[::30].write_csv(), "5 rows of 3 classes are too few to keep a share of 0.2 out"),
    "single.csv": ("kind\na\nb\n", "has one column only ('kind'); add columns"),
    "ids.csv": ("id,kind\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(30)), "no column is left to learn from"),
    "half.parquet": (
        written(pl.DataFrame.write_parquet, pl.DataFrame({"x": [1, 2], "class": [0.5, 1.0]}), first=True),
        "column 'class' holds 0.5 in data row 1; a class is text, a whole number, or true or false; correct the cell",
    ),
    "dates.parquet": (
        written(pl.DataFrame.write_parquet, pl.DataFrame({"x": [1, 2], "kind": [date(2020, 1, 1)] * 2}), first=True),
        "column 'kind' holds Date values; a class is text, a whole number, or true or false; convert the column",
    ),
    "huge.csv": (TEXT.replace("5.1,", "1e300,"), "column 'sl' holds 1e+300, too large"),
    "spans.parquet": (
        written(pl.DataFrame.write_parquet, FRAME.with_columns(span=pl.duration(days=1)), first=True),
        "column 'span' holds Duration(time_unit='us') values where numbers or words belong",
    ),
}
ONLY_PREDICTING = {
    "missing.csv": (FRAME.drop("sw", "pl").write_csv(), "missing.csv lacks 'sw', 'pl', which the model was trained on"),
    "both.csv": (TEXT.replace("sl,", "x,"), "both.csv lacks 'sl', which the model was trained on; it has 'x'"),
    "far.csv": (
        with_cell("1e300"),
        "column 'sw' holds 1e+300, too large or too far from",
    ),
    "wide.csv": ("1,2,3,4,5,6\n" * 2, "wide.csv has 6 columns without names; the model was trained on 4"),
}
ONLY_EVALUATING = {
    "unknown.csv": (TEXT.replace("virginica", "rosa"), "'rosa' in data row 101, a class the model does not know"),
    "untold.csv": (FRAME.drop("kind").write_csv(), "'pw'; add it, or use softmaxloss predict"),
    "unlabelled.csv": (FRAME.with_columns(kind=pl.lit("")).write_csv(), "column 'kind' has 150 missing labels"),
}
ARRAYS = {
    "objects.npz": ({"X": np.array([[1, "a"]], dtype=object)}, "its arrays hold Python objects"),
    "images.npz": ({"X": np.zeros((3, 2, 2)), "y": np.arange(3)}, "got shape (3, 2, 2) of float64"),
    "letters.npz": ({"X": np.array([["a"]]), "y": np.arange(1)}, "X must hold numbers"),
    "nameless.npz": ({"Z": np.zeros((3, 2))}, "has no array X; it holds 'Z'"),
    "names.npz": (
        {"X": np.zeros((3, 2)), "feature_names": ["a"]},
        "one name for each of the 2 columns of X, got shape (1,)",
    ),
    "same.npz": ({"X": np.zeros((3, 2)), "feature_names": ["a", "a"]}, "must differ from each other and from y"),
    "long.npz": ({"X": np.zeros((3, 2)), "y": np.arange(4)}, "one class for each of the 3 rows"),
}
COMMANDS = {
    "trian digits": 'Unknown command "trian"',
    "train": "train needs DATA; see softmaxloss train --help",
    "train iris extra": "train takes no further argument, got extra",
    "train iris --test-size 1": "--test-size",
    "train iris --test-size -0.1": "--test-size",
    "train iris --C 0": "--C",
    "train iris --max-iter 0": "--max-iter",
    "train iris --max-iter many": "--max-iter",
    "train iris --label-smoothing 1": "--label-smoothing",
    "train iris --class-weight equal": "--class-weight",
    "train iris --seed -1": "--seed",
    "train iris --target kind": "'target'; name one of them with --target",
    "train here": "did you mean here.csv?",
    "train heere.csv": "heere.csv: No such file or directory; did you mean here.csv?",
    "train digit": "did you mean digits?",
    "train here.csv --target knd": "it has 'sl', 'sw', 'pl', 'pw', 'kind'; did you mean kind?",
    "train here.csv --bogus": "Unknown option: --bogus. Did you mean --out? See softmaxloss train --help",
    "train --bogus": "Unknown option: --bogus; see softmaxloss --help",
    "train iris --C small": "--C must be a number above 0, or auto, got small; see softmaxloss train --help",
    "train iris --seed 0.5": "--seed: must be a whole number, got 0.5; see softmaxloss train --help",
    "train here.csv --separator ab": "--separator must be one character or one of comma, semicolon, tab, bar, space",
    "train here.csv --encoding nosuch": "--encoding nosuch is not known; use for example utf-8",
    "train here.csv --encoding utf-32": "here.csv is not text in utf-32; leave --encoding out",
    "train target.csv --target sl --drop-unlabelled --drop kind --C auto": "at least two rows of each class",
    "train spans.parquet --target kind --id span": "--id: column 'span' holds Duration(time_unit='us') values",
    "evaluate model unlabelled.csv --drop-unlabelled": "no row has a label in column 'kind'; give some rows a label",
    "explore --out page.txt": "--out page.txt must end in .html",
    "explore --out nosuch/page.html": "the folder nosuch of --out nosuch/page.html does not exist",
    "export model --out model.txt": "--out model.txt must end in .onnx",
    "export model --out nosuch/model.onnx": "the folder nosuch of --out nosuch/model.onnx does not exist",
    "export model --opset 999": "opset must lie between 13 and",
    "train nosuch.csv": "nosuch.csv: No such file or directory; check the name",
    "train folder.csv": "folder.csv: Is a directory; name a file in it",
    "train nosuch": "nosuch is neither a bundled data set",
    "train iris --out here.csv": "here.csv is a file, not a folder",
    "train iris --out here.csv/deeper": "here.csv is a file, not a folder",
    "evaluate nosuch.safetensors iris": "nosuch.safetensors: No such file or directory",
    "evaluate folder.csv iris": "model.safetensors: No such file or directory",
    "evaluate here.csv iris": "here.csv is damaged, or not a model; pass the folder",
    "evaluate foreign.safetensors iris": "foreign.safetensors was not written by softmaxloss",
    "predict model here.csv --out result.txt": "must end in one of .csv, .tsv, .npz, .parquet",
    "predict model here.csv --out nosuch/result.csv": "the folder nosuch of --out nosuch/result.csv does not exist",
    "predict model here.csv --out here.csv": "here.csv is there already and was not written by this command",
}


def fill(folder):
    """Write the tables, and a model, to a folder."""
    everywhere = TABLES | ONLY_TRAINING | ONLY_PREDICTING | ONLY_EVALUATING | {"here.csv": (TEXT, "")}
    for name, (content, _) in everywhere.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for name, (arrays, _) in ARRAYS.items():
        np.savez(folder / name, **arrays)
    (folder / "foreign.safetensors").write_bytes(save({"weight": np.ones(3)}))
    (folder / "folder.csv").mkdir()
    assert main(["train", str(folder / "here.csv"), "--out", str(folder / "model")]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    fill(folder)
    return folder


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Run a command that must fail in one line, and change no file."""

    def files():
        return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}

    def run(*arguments, says):
        monkeypatch.chdir(folder)
        before = files()
        assert main(arguments) == 2
        assert files() == before
        output, error = capsys.readouterr()
        assert re.fullmatch(r"softmaxloss: [^\n]+\n", error)
        assert says in error
        assert "Traceback" not in output + error

    return run


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("command", ["train", "evaluate model", "predict model"])
def test_a_table_that_is_no_table_is_refused(refused, command, name):
    refused(*command.split(), name, says=TABLES[name][1])


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_table_are_refused(refused, name):
    refused("train", name, says=ARRAYS[name][1])


@pytest.mark.parametrize("name", ONLY_TRAINING)
def test_a_table_that_teaches_nothing_is_refused(refused, name):
    refused("train", name, says=ONLY_TRAINING[name][1])


@pytest.mark.parametrize("name", ONLY_PREDICTING)
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_table_with_other_columns_is_refused(refused, command, name):
    refused(command, "model", name, says=ONLY_PREDICTING[name][1])


@pytest.mark.parametrize("name", ONLY_EVALUATING)
def test_a_table_without_the_models_classes_is_not_evaluated(refused, name):
    refused("evaluate", "model", name, says=ONLY_EVALUATING[name][1])


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_cannot_be_carried_out_is_refused(refused, line):
    refused(*line.split(), says=COMMANDS[line])


@pytest.mark.parametrize("name", ["metrics.json", "model.safetensors", "confusion.png"])
def test_another_programs_file_is_never_replaced(refused, folder, name):
    other = folder / f"other {name}"
    other.mkdir()
    (other / name).write_bytes(b"something else")
    refused("train", "iris", "--out", other.name, says="was not written by this command; choose another --out")


def test_no_permission_to_write_is_said_before_the_training(refused, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("softmaxloss.cli.train.read_table", None)
    refused("train", "iris", "--out", "results", says="no permission to write in")


def test_a_file_that_may_not_be_written_is_not_replaced(refused, folder, monkeypatch):
    """Its folder would allow to put another file in its place."""
    mine = folder / "mine.csv"
    mine.touch()
    monkeypatch.setattr("os.access", lambda path, _: path != mine and str(path) != "mine.csv")
    refused(
        "predict", "model", "here.csv", "--out", "mine.csv", says="no permission to replace mine.csv; choose another"
    )


@pytest.mark.parametrize(
    ("fault", "out"),
    [
        *(("move", "deep/er"), ("write", "model")),
        *(thorough("write", "deep/er"), thorough("write", "new"), thorough("move", "new"), thorough("move", "model")),
    ],
)
def test_a_full_disk_leaves_nothing_and_changes_nothing(refused, monkeypatch, out, fault):
    """The third file does not fit, or cannot be moved into place after two that could."""
    method = "write_bytes" if fault == "write" else "replace" if out == "model" else "rename"
    original = getattr(Path, method)
    calls = []

    def fail_once(path, *arguments):
        calls.append(path)
        if len(calls) == (1 if method == "rename" else 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments)

    monkeypatch.setattr(Path, method, fail_once)
    refused("train", "here.csv", "--out", out, says=f"cannot write to {out}: No space left on device")


def test_a_missing_library_is_named(refused, monkeypatch):
    monkeypatch.delitem(sys.modules, "softmaxloss.cli.app")
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    refused("--help", says="cyclopts is not installed; the command line needs it: pip install 'softmaxloss[cli]'")


def test_line_breaks_in_names_stay_within_the_one_line(refused, folder):
    cells = "\n".join(["x,1", *(f"{k},{k % 2}" for k in range(30))])
    (folder / "break.csv").write_text(f'"a\nb",kind\n{cells}\n')
    refused("train", "break.csv", says=r"column 'a\nb' holds numbers, but 'x' in data row 1")
    refused("train", "no\nsuch.csv", says="no such.csv: No such file or directory; check the name")


def test_ctrl_c_that_c_code_turned_into_an_error_is_ctrl_c(monkeypatch, capsys):
    """It happens while pandas loads; a SystemError of another cause is a fault."""

    def interrupted(*_arguments):
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr("softmaxloss.cli.train.read_table", interrupted)
    assert main(["train", "iris", "--out", "nowhere"]) == 130
    assert capsys.readouterr() == ("", "softmaxloss: stopped by Ctrl-C\n")


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch):
    def faulty(*_args, **_options):
        raise ValueError("a bug")

    monkeypatch.setattr("softmaxloss.cli.train.read_table", faulty)
    with pytest.raises(ValueError, match="a bug"):
        main(["train", "iris", "--out", "nowhere"])
