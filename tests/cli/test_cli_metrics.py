"""The figures are what scikit-learn computes, and the calibration error what its definition says."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    classification_report,
    log_loss,
    roc_auc_score,
    top_k_accuracy_score,
)

from softmaxloss.cli import metrics
from softmaxloss.cli.metrics import (
    baseline_scores,
    calibration,
    class_figures,
    print_classes,
    print_table,
    score,
    sum_up,
)


def random_scores(classes, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(classes, 0.3), rows).clip(1e-9)
    proba /= proba.sum(axis=1, keepdims=True)
    target = rng.integers(0, classes, rows)
    return proba, target, score(lambda block: np.log(proba[block]), target, classes)


@pytest.mark.parametrize("classes", [2, 5, 6, 30])
def test_figures_agree_with_scikit_learn(classes):
    proba, target, scores = random_scores(classes)
    figures = sum_up(scores)
    labels = np.arange(classes)
    assert figures.rows == 200
    assert figures.loss == pytest.approx(log_loss(target, proba, labels=labels), rel=1e-12)
    assert figures.accuracy == accuracy_score(target, proba.argmax(axis=1))
    assert figures.balanced_accuracy == pytest.approx(balanced_accuracy_score(target, proba.argmax(axis=1)), rel=1e-12)
    if classes == 2:
        assert figures.auc == pytest.approx(roc_auc_score(target, proba[:, 1]), rel=1e-12)
        assert figures.average_precision == pytest.approx(average_precision_score(target, proba[:, 1]), rel=1e-12)
    else:
        assert (figures.auc, figures.average_precision) == (None, None)
    report = classification_report(target, proba.argmax(axis=1), labels=labels, output_dict=True, zero_division=0)
    for one in class_figures(scores, labels.tolist()):
        expected = report[str(one["class"])]
        assert [one[name] for name in ("precision", "recall", "f1", "rows")] == pytest.approx([*expected.values()])
    if classes > 5:
        assert figures.top5_accuracy == top_k_accuracy_score(target, proba, k=5, labels=labels)
    else:
        assert figures.top5_accuracy is None


def test_a_class_that_is_never_predicted_is_named(capsys):
    proba = np.tile([0.9, 0.1], (50, 1))
    print_classes(score(lambda block: np.log(proba[block]), np.arange(50) // 49, 2), ["honest", "fraud"], "test part")
    output = capsys.readouterr().out
    assert "warning: the model never predicts fraud; try train --class-weight balanced" in output
    assert [line.split()[:3] for line in output.splitlines()[1:3]] == [["honest", "49", "50"], ["fraud", "1", "0"]]


def test_of_many_classes_the_worst_are_listed(capsys):
    scores = random_scores(30)[2]
    print_classes(scores, [f"c{k}" for k in range(30)], "test part")
    lines = capsys.readouterr().out.splitlines()
    worst = sorted(one["f1"] for one in class_figures(scores, range(30)))[:5]
    shown = [float(line.split()[-1].rstrip("%")) for line in lines[1:6]]
    assert shown == pytest.approx([100 * f1 for f1 in worst], abs=0.01)


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    _, _, whole = random_scores(7)
    monkeypatch.setattr(metrics, "BLOCK", 40)
    _, _, blocks = random_scores(7)
    for name in ("predicted", "loss", "confidence", "rank"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))


def test_calibration_error_is_the_mean_gap_of_the_bins():
    proba = np.array([[0.9, 0.1], [0.91, 0.09], [0.7, 0.3], [0.7, 0.3], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        scores = score(lambda block: np.log(proba[block]), np.array([0, 1, 0, 0, 0]), 2)
    # three filled bins: 0.9 and 0.91 with one of two right, 0.7 twice right, 1.0 right
    assert sum_up(scores).calibration_error == pytest.approx((abs(1.81 - 1) + abs(1.4 - 2) + 0) / 5)
    assert calibration(scores).count.tolist() == [0] * 10 + [2, 0, 0, 2, 1]


def test_the_baseline_knows_the_shares_of_the_classes_only():
    figures = sum_up(baseline_scores(np.array([30, 60, 10]), np.array([1, 1, 0, 2])))
    assert figures.accuracy == 0.5
    assert figures.loss == pytest.approx(-np.log([0.6, 0.6, 0.3, 0.1]).mean())


def test_equal_probabilities_are_ranked_by_position_not_all_counted():
    scores = score(lambda block: np.full((block.stop, 10), -np.log(10))[:10], np.arange(10), 10)
    assert sum_up(scores).top5_accuracy == 0.5


@pytest.mark.parametrize(("width", "longest"), [(20, 34), (100, 100)])
def test_the_closing_table_becomes_lines_in_a_narrow_terminal(monkeypatch, capsys, width, longest):
    monkeypatch.setenv("COLUMNS", str(width))
    figures = sum_up(random_scores(7)[2], seconds=1.5)
    print_table({"train": figures, "test": figures, "baseline": figures})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (21 if width == 20 else 8)
    assert max(map(len, lines)) <= longest
    assert sum(line.count(f"{figures.loss:.4f}") for line in lines) == 3
