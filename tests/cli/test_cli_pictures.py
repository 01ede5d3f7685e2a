"""Pictures are whole, whatever the number and the names of the classes."""

import io

import matplotlib.image
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from pictured import assert_no_text_is_covered
from softmaxloss.cli import pictures
from softmaxloss.cli.metrics import score

NAMES = {
    "two": [False, True],
    "three": ["setosa", "versicolor", "virginica"],
    "ten": list(range(10)),
    "sixty": [f"class number {number}" for number in range(60)],
    "three hundred": [f"word{number}" for number in range(300)],
    "odd": ["a very long name " * 9, "$\\frac$ 10", "", "line\nbreak", "中文", "<b>&amp;", "_" * 70],
}


@pytest.fixture(autouse=True)
def _all_texts_can_be_read(monkeypatch):
    png = pictures._png

    def checked(figure):
        assert_no_text_is_covered(figure)
        return png(figure)

    monkeypatch.setattr(pictures, "_png", checked)


def scores_of(classes, rows=400):
    rng = np.random.default_rng(0)
    target = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), target] += 3
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return score(lambda block: logs[block], target, classes)


def drawn(png):
    """Pixels of a picture, and that nothing touches its edge, so that no letter can be cut."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 1).all()
    assert b"softmaxloss" in png[:200]
    return pixels


@pytest.mark.parametrize("kind", NAMES)
def test_the_confusion_picture_shows_all_of_its_labels(kind):
    pixels = drawn(pictures.confusion(scores_of(len(NAMES[kind])), NAMES[kind], "test"))
    assert min(pixels.shape[:2]) > 300
    assert max(pixels.shape[:2]) < 3000


@pytest.mark.parametrize("classes", [3, 64, 65, 300])
def test_confusions_are_counted_once_and_the_worst_classes_shown(classes):
    scores = scores_of(classes, rows=3000)
    counts, shown = pictures.count_confusions(scores)
    full = confusion_matrix(scores.target, scores.predicted, labels=np.arange(classes))
    np.testing.assert_array_equal(counts[: len(shown), : len(shown)], full[np.ix_(shown, shown)])
    assert counts.sum() == 3000
    assert len(shown) == min(classes, 64)
    mistakes = full.sum(axis=0) + full.sum(axis=1) - 2 * full.diagonal()
    assert mistakes[shown].min() >= np.delete(mistakes, shown).max(initial=0)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_reliability_picture_is_whole(classes):
    drawn(pictures.reliability(scores_of(classes), "test"))
    drawn(pictures.reliability(scores_of(classes, rows=1), "train"))


@pytest.mark.parametrize("curve", [[0.7], [2.3, 0.1], list(np.geomspace(1e3, 1e-9, 500))])
def test_the_learning_curve_is_whole(curve):
    drawn(pictures.learning_curve(curve, {"train": 0.01, "test": 0.2}, curve[1:]))


@pytest.mark.parametrize("decades", [1, 7])
def test_the_picture_of_regularisation_is_whole(decades):
    curve = [{"C": C, "loss": 0.1 + 0.01 / C, "deviation": 0.2} for C in np.geomspace(10.0**-decades, 1e3, 2 * decades)]
    drawn(pictures.regularisation(curve))


@pytest.mark.parametrize(("value", "text"), [(1e-8, "10⁻⁸"), (0.01, "0.01"), (1.0, "1"), (1e12, "10¹²")])
def test_powers_of_ten_are_written_as_such_where_digits_would_be_many(value, text):
    assert pictures._power_of_ten(value, 0) == text


def test_the_learning_curve_shows_how_the_minimum_was_approached():
    pixels = drawn(pictures.learning_curve(0.2 + np.geomspace(2, 1e-9, 60), {"train": 0.1, "test": 0.2}, []))
    blue = np.isclose(pixels, np.array([0x00, 0x72, 0xB2]) / 255, atol=0.01).all(axis=-1)
    late = blue[:, int(0.7 * blue.shape[1]) : int(0.95 * blue.shape[1])]
    assert np.ptp(np.flatnonzero(late[len(blue) // 2 :].any(axis=1))) > 0.08 * len(blue)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (3, 4), (50, 100)])
def test_the_interval_of_a_share_holds_it_and_stays_within_zero_and_one(right, count):
    low, high = pictures._wilson(np.array([right / count]), np.array([count]))
    assert -1e-9 <= low[0] <= right / count <= high[0] <= 1 + 1e-9
