"""What arrives at the logits by local rules is the gradient of the layer, and tables and pictures say so."""

import io
import itertools
import re
import xml.etree.ElementTree as ET
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from matplotlib.patches import Circle

import softmaxloss as sl
from agree import assert_close
from softmaxloss.cli import main
from softmaxloss.explanation.drawing import BLUE, _Drawing, draw, fonts
from softmaxloss.explanation.graph import RULES, Graph
from thorough import parametrize, thorough

CAT = {"labels": ["cat", "dog", "bird"]}
PROBLEMS = {
    "the example": ([0.3, 2.9, 4.0], 2, {}),
    "two classes": ([1.5, -2.0], 0, {}),
    "one class": ([3.0], 0, {}),
    "soft": ([0.1, 0.2, -3.0, 1.0], [0.25, 0.25, 0.5, 0.0], {}),
    "smoothed, tempered": ([0.3, 2.9, 4.0, -1.0], 1, {"label_smoothing": 0.2, "temperature": 1.7}),
    "ten classes": (np.linspace(-4, 5, 10), 3, {"temperature": 0.5}),
    "far apart": ([0.0, 30.0, -400.0], 0, {}),
    "out of reach": ([0.0, -800.0, 5.0], 2, {}),
    "many": (np.sin(np.arange(500)), 77, {}),
}


@pytest.mark.parametrize(("logits", "target", "options"), PROBLEMS.values(), ids=PROBLEMS)
def test_backpropagation_through_the_graph_ends_in_the_gradient_of_the_layer(logits, target, options):
    explained = sl.explain(logits, target, **options)
    loss, d_logits = sl.cross_entropy_and_grad(np.array(logits, np.float64), target, **options)
    graph = explained.graph
    arrived = [node.gradient for node in graph.stages["logits"]]
    np.testing.assert_allclose(arrived, d_logits, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(explained.dx, (explained.y - explained.t) / explained.temperature, rtol=0, atol=2e-15)
    assert_close(graph.loss.value, loss, 1e-13)
    assert explained.loss == loss
    assert_close(explained.terms.sum(), loss, 1e-13)
    assert_close([node.value for node in graph.stages["softmax"]], explained.y, 1e-13)


@pytest.mark.parametrize("kind", RULES)
def test_each_local_rule_is_the_derivative_of_its_node(kind):
    rule, rng = RULES[kind], np.random.default_rng(0)
    constants = [1.3] if kind in {"shift", "divide", "times t"} else []
    inputs = rng.uniform(0.5, 2, {"sum": 4, "times": 2}.get(kind, 1))
    passed = rule.backward(0.7, rule.forward(*constants, *inputs), *constants, *inputs)
    for k, gradient in enumerate(passed):
        step = np.zeros(len(inputs))
        step[k] = 1e-6
        rise = rule.forward(*constants, *(inputs + step)) - rule.forward(*constants, *(inputs - step))
        assert gradient == pytest.approx(0.7 * rise / 2e-6, rel=1e-8)
    assert len(passed) == (0 if kind == "logit" else len(inputs))


def test_gradients_of_all_nodes_are_differences_of_the_loss():
    """Each value is moved a little, and what comes after it computed anew."""
    graph = Graph([0.3, 2.9, 4.0], [0.1, 0.2, 0.7], temperature=1.5)
    for node in graph.nodes:
        value, losses = node.value, []
        for step in (1e-6, -1e-6):
            for later in graph.nodes:
                if later is node:
                    later.value = value + step
                else:
                    later.run()
            losses.append(graph.loss.value)
        node.value = value
        for later in graph.nodes:
            later.run()
        assert node.gradient == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-7, abs=1e-9)


def test_the_command_prints_the_numbers_of_the_books(capsys):
    assert main(["explain", "--logits", "0.3,2.9,4.0", "--target", "2"]) == 0
    output, error = capsys.readouterr()
    assert not error
    rows = [line.split() for line in output.splitlines()[1:4]]
    assert [row[4] for row in rows] == ["0.018", "0.245", "0.737"]
    assert [row[-1] for row in rows] == ["0.018", "0.245", "-0.263"]
    assert "= 0.306 nats" in output


@pytest.mark.parametrize(("logits", "target", "options"), PROBLEMS.values(), ids=PROBLEMS)
def test_text_fits_eighty_columns(logits, target, options):
    labels = [f"a class of a very long name {j}" for j in range(len(logits))]
    text = str(sl.explain(logits, target, labels=labels, **options))
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 18


def test_a_table_of_many_classes_keeps_the_target_and_all_sums():
    explained = sl.explain(np.sin(np.arange(500)), 77)
    lines = [line.split() for line in explained.table().splitlines()]
    assert "77" in [line[0] for line in lines if line]
    assert ["488", "others"] in [line[:2] for line in lines]
    assert len(explained.shown) == 12


FILES = list(itertools.product([".svg", ".png", ".pdf", ".md", ".txt"], ["2", "bird", "0,0,1"]))


@parametrize(
    ["suffix", "target"],
    FILES,
    [f"{suffix}-{target}" for suffix, target in FILES],
    [target == "2" or suffix in {".md", ".txt"} for suffix, target in FILES],  # pictures take long to draw
)
def test_the_command_writes_each_kind_of_file(tmp_path, capsys, target, suffix):
    out = tmp_path / f"graph{suffix}"
    words = ["explain", "--logits", "0.3,2.9,4.0", "--target", target, "--labels", "cat,dog,bird", "--out", str(out)]
    for _ in range(2):  # the second time it replaces its own file
        assert main(words) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    content = out.read_bytes()
    assert content == sl.explain([0.3, 2.9, 4.0], 2, **CAT).content(suffix)
    if suffix == ".png":
        assert matplotlib.image.imread(io.BytesIO(content)).shape[1] > 900
    elif suffix == ".svg":
        text = " ".join(ET.fromstring(content).itertext())
        for word in ("cat", "dog", "bird", "0.306", "−0.263", "−1.358", "exp", "loss"):
            assert word in text
    elif suffix == ".md":
        assert "| bird | 4.0 | 0.0 | 1 | 0.737 | 1 | 0.306 | -0.263 |" in content.decode()


@pytest.mark.parametrize("scale", [1e-5, 1e5, 1e300])
def test_numbers_of_any_size_fit_and_are_not_made_up(scale, recwarn):
    explained = sl.explain(np.array([1.0, -1.0, 0.5]) * scale, 0)
    text = explained.table()
    assert max(map(len, text.splitlines())) <= 80
    assert float(text.splitlines()[1].split()[1]) == pytest.approx(scale, rel=1e-3)
    assert not recwarn.list


def test_a_graph_beyond_the_range_of_numbers_is_refused_and_the_table_is_right():
    explained = sl.explain([0.0, 800.0], 0)
    assert explained.loss == 800
    with pytest.raises(ValueError, match=r"y of 0, which is wanted, is exp.-800."):
        explained.plot()


def test_labels_of_other_alphabets_stand_in_columns_and_control_letters_in_no_file(recwarn):
    explained = sl.explain([1.0, 2.0, 3.0], 1, labels=["猫", "a\x01\nb", "<i>|"])
    assert explained.labels == ["猫", "a b", "<i>|"]
    assert "&lt;i&gt;\\|" in explained.markdown()
    ET.fromstring(explained.content(".svg"))
    assert not recwarn.list
    first, second = explained.table().splitlines()[1:3]
    assert len(first) + 1 == len(second)  # as that letter is two columns wide


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
@pytest.mark.parametrize("label", ["猫", "ねこ", "고양이"])
def test_a_picture_says_which_letters_no_font_has(monkeypatch, suffix, label):
    own = [font for font in fontManager.ttflist if font.fname.startswith(mpl.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)
    explained = sl.explain([1.0, 2.0], 1, labels=[label, "dog"])
    with pytest.warns(UserWarning, match="no font here has these letters of labels") as caught:
        explained.content(suffix)
    assert len(caught) == 1
    assert all(letter in str(caught[0].message) for letter in label)
    assert "dog" not in str(caught[0].message)
    explained.content(".svg")  # drawn with the fonts of whoever shows it


def test_a_picture_takes_letters_from_any_font_that_has_them(recwarn):
    assert sl.explain([1.0, 2.0], 1, labels=["Ⓐ", "dog"]).content(".png")
    assert fonts(["Ⓐ"])[0][1:]
    assert not recwarn.list


@pytest.mark.parametrize("n_classes", [1, 2, 3, *map(thorough, range(4, 10)), 10])
@pytest.mark.parametrize("temperature", [thorough(1.0), 2.0])
def test_no_text_of_a_picture_is_cut_or_covered_and_numbers_of_two_edges_stand_apart(n_classes, temperature):
    rng = np.random.default_rng(n_classes)
    options = {"temperature": temperature, "label_smoothing": 0.01, "labels": ["W" * 30] * n_classes}
    logits = 5 * rng.normal(size=n_classes)
    logits[-1] -= 50 * (n_classes > 1)  # its gradient is written as a power of ten
    figure = draw(sl.explain(logits, 0, **options))
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    circles = [
        _Box(*patch.get_window_extent().extents) for patch in figure.axes[0].patches if isinstance(patch, Circle)
    ]
    boxes = [_Box(*text.get_window_extent().extents) for text in texts]
    is_number = [re.fullmatch(r"−?[\d.e−]+", text.get_text()) is not None for text in texts]
    is_value = [text.get_color() == BLUE for text in texts]
    edges = figure.bbox
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= edges.x1 and box.y1 <= edges.y1 for box in boxes)
    pairs = itertools.combinations(range(len(texts)), 2)
    for i, j in pairs:
        of_one_edge = j == i + 1 and is_value[i]  # its value, then its gradient
        apart = 6 if is_number[i] and is_number[j] and not of_one_edge else -1
        assert not _overlap(boxes[i], boxes[j], apart), (texts[i], texts[j])
    for text, box in zip(texts, boxes, strict=True):
        for circle in circles:
            inside = circle.x0 <= box.x0 and box.x1 <= circle.x1 and circle.y0 <= box.y0 and box.y1 <= circle.y1
            assert inside or not _overlap(box, circle, -3), text  # the corners of its box are empty


class _Box(NamedTuple):
    x0: float
    y0: float
    x1: float
    y1: float


def _overlap(a, b, apart):
    """Return whether two boxes are nearer to each other than so many pixels, one above the other."""
    beside = min(a.x1, b.x1) - max(a.x0, b.x0)
    return beside > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > -apart


def test_every_edge_bears_its_value_and_its_gradient():
    explained = sl.explain([0.3, 2.9, 4.0], 2, **CAT)
    written = [text.get_text() for text in _Drawing(explained).figure.axes[0].texts]
    n_edges = sum(len(node.inputs) for node in explained.graph.nodes)
    numbers = [text for text in written if re.fullmatch(r"−?\d+\.\d{3}", text)]
    assert len(numbers) == 2 * (n_edges + 1)  # and those of the loss


def test_a_notebook_shows_a_table_in_which_labels_are_no_markup():
    page = sl.explain([0.0, 1.0], 1, labels=["<b>", "a & b"])._repr_html_()
    assert "&lt;b&gt;" in page
    assert "a &amp; b" in page
    assert "<b>" not in page


@pytest.mark.parametrize("target", [2, np.int8(2), "bird", np.str_("bird"), " bird\n", [0, 0, 1], [False, False, True]])
def test_a_target_is_a_number_a_label_or_a_distribution(target):
    explained, right = (sl.explain([0.3, 2.9, 4.0], t, **CAT) for t in (target, 2))
    assert explained.table() == right.table()
    assert explained.loss == right.loss


ROW, TWO = [0.0, 1.0], {"labels": ["a", "b"]}
WRONG = {
    "a matrix": (([ROW], [1]), {}, ValueError, "logits must be one row"),
    "no class": (([], 0), {}, ValueError, "logits must be one row"),
    "infinity": (([0.0, np.inf], 0), {}, ValueError, "logits must be finite"),
    "labels": ((ROW, 0), {"labels": ["a"]}, ValueError, "labels must be one per class, 2, got 1"),
    "a target too large": ((ROW, 2), {}, ValueError, "target must be a class from 0 to 1, got 2"),
    "a target below 0": ((ROW, -1), {}, ValueError, "target must be a class from 0 to 1, got -1"),
    "a class that is no integer": ((ROW, 1.0), {}, ValueError, "target must be a class or .* got 1.0 of dtype float64"),
    "an unknown label": ((ROW, "c"), TWO, ValueError, "target must be the label .* c is no label; labels are a, b"),
    "a label twice": ((ROW, "a"), {"labels": ["a", "a"]}, ValueError, "target must be .* a is the label of several"),
    "a target of another sum": ((ROW, [0.2, 0.2]), {}, ValueError, "target must sum to 1 .* got a sum of 0.4"),
    "a target below nothing": ((ROW, [1.2, -0.2]), {}, ValueError, "target must be .* got -0.2 at position 1"),
    "a target that is NaN": ((ROW, [1.0, np.nan]), {}, ValueError, "target must be finite"),
    "a target of another length": ((ROW, [1.0, 0, 0]), {}, ValueError, r"target must be .* got shape \(3,\)"),
    "a target of words": ((ROW, ["a", "b"]), TWO, TypeError, "target must be a class or .* got dtype <U1"),
    "no target": ((ROW, None), {}, TypeError, "target must be a class or"),
    "smoothing": ((ROW, 0), {"label_smoothing": 2}, ValueError, "label_smoothing"),
    "temperature": ((ROW, 0), {"temperature": 0}, ValueError, "temperature"),
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        sl.explain(*arguments, **options)
    assert "targets" not in str(caught.value)  # the name of another function's argument


def test_what_a_picture_cannot_hold_is_said():
    explained = sl.explain(np.zeros(11), 0)
    with pytest.raises(ValueError, match=r"at most 10 classes.*got 11"):
        explained.plot()
    with pytest.raises(ValueError, match=r"must end in.*\.gif"):
        explained.save("graph.gif")


WRONG_WORDS = {
    "nothing": ("", "either --logits and --target, or --model and --data"),
    "both": ("--logits 1,2 --target 0 --model m", "either --logits"),
    "no target": ("--logits 1,2", "--target"),
    "letters": ("--logits 1,b --target 0", "--logits must be numbers"),
    "an unknown label": ("--logits 1,2 --target c --labels a,b", "--target must be one of a, b, got c"),
    "a label without labels": ("--logits 1,2 --target c", "a number from 0 to 1, got c"),
    "too many classes for a picture": (f"--logits {','.join('0' * 11)} --target 0 --out g.svg", "at most 10 classes"),
    "an unknown ending": ("--logits 1,2 --target 0 --out g.gif", ".svg"),
    "no folder": ("--logits 1,2 --target 0 --out there/g.svg", "the folder there of --out there/g.svg does not exist"),
    "somebody's file": ("--logits 1,2 --target 0 --out mine.svg", "was not written by this command"),
    "data without a model": ("--logits 1,2 --target 0 --data iris", "--data and --row belong to --model"),
    "a row too many": ("--model MODEL --data iris --row 151", "--row must be from 1 to 150"),
    "a target beside a model": ("--model MODEL --data iris --target 1", "--target"),
    "a model without data": ("--model MODEL", "--data"),
    "a row without a model": ("--logits 1,2 --target 0 --row 3", "--data and --row belong to --model"),
    "a label twice": ("--logits 1,2 --target a --labels a,a", "--labels must differ"),
    "logits too far apart to draw": ("--logits 0,800 --target 0 --out g.svg", "so far apart"),
    "a target of another sum": ("--logits 0,8 --target 0.2,0.2", "target must sum to 1"),
    "notes that mention the loss": ("--logits 1,2 --target 0 --out notes.txt", "was not written by this command"),
    "a temperature of 0": ("--logits 1,2 --target 0 --temperature 0", "temperature"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    assert main(["train", "iris", "--quiet", "--out", str(folder / "model")]) == 0
    return str(folder / "model")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "message"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_wrong_words_are_named_in_one_line_and_nothing_is_written(words, message, folder, model, capsys):
    (folder / "mine.svg").write_text("<svg>mine</svg>")
    (folder / "notes.txt").write_text("my notes on softmaxloss: t log y is nice")
    capsys.readouterr()
    assert main(["explain", *words.replace("MODEL", model).split()]) == 2
    output, error = capsys.readouterr()
    assert not output
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["mine.svg", "notes.txt"]


def test_a_prediction_is_explained_with_the_features_that_gave_most(model, capsys):
    capsys.readouterr()
    wrong = 0
    for row in (1, 71, 84, 107, 134):
        assert main(["explain", "--model", model, "--data", "iris", "--row", str(row)]) == 0
        output = capsys.readouterr().out
        assert max(map(len, output.splitlines())) <= 80
        for name in ("setosa", "versicolor", "virginica"):
            assert name in output
        assert f"row {row} of iris: predicted " in output
        assert "petal width (cm)" in output
        wrong += "which is wrong" in output
        assert output.count("features that gave most") == 1 + ("which is wrong" in output)
    assert 0 < wrong < 5
