"""Laws of rows among rows, for every case of the table: their order, duplicates, and rows that take no part."""

import numpy as np

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over, over_cases, without


def stacked_options(case, first_weight):
    """Return the options for all rows of a case twice, the first time with other sample weights."""
    options = {**case.options, "sample_weight": np.stack([first_weight, case.sample_weight])}
    if np.ndim(options.get("upstream", 0)):
        options["upstream"] = np.stack([options["upstream"]] * 2)
    return options


@over_cases
def test_a_duplicate_row_is_a_row_of_weight_2(case):
    heavy = {**case.options, "sample_weight": case.sample_weight * 2}
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **heavy)
    losses, d_logits_twice = sl.cross_entropy_and_grad(
        np.stack([case.logits] * 2),
        np.stack([case.targets] * 2),
        **stacked_options(case, case.sample_weight),
    )
    assert_close(np.sum(losses, axis=0) if np.ndim(losses) else losses, loss, case.precision)
    assert_close(d_logits_twice.sum(0, dtype=np.float64), d_logits, case.rounding)


@over_cases
def test_a_row_that_takes_no_part_is_as_if_deleted(case):
    nowhere = case.with_nan(np.True_)
    if "ignore_index" in case.options:
        dead_weight = case.sample_weight
        dead_targets = np.full(case.targets.shape, case.options["ignore_index"])
    else:
        dead_weight = np.zeros(case.batch_shape)
        dtype = np.int64 if case.has_indices else np.result_type(case.targets, np.float32)
        dead_targets = np.full(case.targets.shape, 77_777 if case.has_indices else np.nan, dtype)

    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    losses, both_d_logits = sl.cross_entropy_and_grad(
        np.stack([nowhere, case.logits]),
        np.stack([dead_targets, case.targets]),
        **stacked_options(case, dead_weight),
    )
    if case.options.get("reduction") == "none":
        assert np.all(losses[0] == 0)
        assert_same_bits(losses[1], loss)
    else:
        assert_close(losses, loss, 1e-15)
    assert np.all(both_d_logits[0] == 0)
    assert_close(both_d_logits[1], d_logits, case.rounding / 10)


@over([case for case in CASES if case.dead.any()])
def test_rows_that_take_no_part_have_no_loss_and_no_gradient(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options_per_row)
    assert np.all(loss[case.dead] == 0)
    assert np.all(case.by_row(d_logits)[case.dead] == 0)


def of_row(options, row):
    return {
        name: value[row] if name in {"sample_weight", "upstream"} and np.ndim(value) else value
        for name, value in options.items()
    }


@over_cases
def test_a_row_has_the_same_bits_whatever_the_other_rows_hold(case):
    options = case.options_per_row
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options)
    rows = list(np.ndindex(loss.shape))
    for row in rows[:: max(1, len(rows) // 5)]:
        others = np.ones((*case.batch_shape, 1), bool)
        others[row] = False
        among_nan = sl.cross_entropy_and_grad(case.with_nan(case.by_axis(others)), case.targets, **options)
        assert_same_bits(among_nan[0][row], loss[row])
        assert_same_bits(case.by_row(among_nan[1])[row], case.by_row(d_logits)[row])
        if not case.class_major:
            targets = case.targets[row] if case.has_indices else case.by_row(case.targets)[row]
            alone = sl.cross_entropy_and_grad(
                case.by_row(case.logits)[row], targets, **of_row(without(options, "axis"), row)
            )
            assert_same_bits(alone[0], loss[row])
            assert_same_bits(alone[1], case.by_row(d_logits)[row])


@over_cases
def test_the_order_of_the_rows_does_not_change_their_bits(case):
    backwards = (slice(None, None, -1),) * len(case.batch_shape)
    logits = case.by_axis(case.by_row(case.logits)[backwards])
    targets = case.targets[backwards] if case.has_indices else case.by_axis(case.by_row(case.targets)[backwards])
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options_per_row)
    new_loss, new_d_logits = sl.cross_entropy_and_grad(logits, targets, **of_row(case.options_per_row, backwards))
    assert_same_bits(new_loss[backwards], loss)
    assert_same_bits(case.by_row(new_d_logits)[backwards], case.by_row(d_logits))
