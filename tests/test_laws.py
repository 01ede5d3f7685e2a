"""Laws that hold for every case of the table."""

import numpy as np
import pytest
import torch

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over, over_cases
from softmaxloss import reference

over_index_cases = over([case for case in CASES if case.has_indices])
over_float64_cases = over([case for case in CASES if case.logits.dtype == np.float64])


@over_cases
def test_everything_equals_the_reference(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    right_loss, right_d_logits = reference.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_close(loss, right_loss, case.precision)
    assert_close(d_logits, right_d_logits, case.precision)


@over_float64_cases
def test_everything_equals_pytorch(case):
    batch, n_classes = case.logits.shape[:-1], case.logits.shape[-1]
    options = dict(case.options)
    reduction = options.pop("reduction", "mean")
    class_weight = np.asarray(options.pop("class_weight", np.ones(n_classes)), np.float64)
    weight = np.where(case.dead, 0.0, options.pop("sample_weight", np.ones(batch)))
    upstream = torch.tensor(np.broadcast_to(options.pop("upstream", 1.0), batch).reshape(-1))
    one_hot = np.arange(n_classes) == case.targets[..., None] if case.has_indices else case.targets
    total = np.sum(weight * (one_hot @ class_weight))
    targets = case.targets.reshape(-1) if case.has_indices else case.targets.reshape(-1, n_classes)

    logits = torch.tensor(case.logits.reshape(-1, n_classes), requires_grad=True)
    losses = torch.nn.functional.cross_entropy(
        logits,
        torch.tensor(targets.astype(np.int64 if case.has_indices else np.float64)),
        weight=torch.tensor(class_weight),
        reduction="none",
        **options,
    ) * torch.tensor(weight.reshape(-1))
    if reduction == "mean":
        losses = losses / (total if total > 0 else np.inf)
    (losses * upstream).sum().backward()
    right_loss = losses.detach().numpy().reshape(batch)

    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_close(loss, right_loss if reduction == "none" else right_loss.sum(), 1e-12)
    assert_close(d_logits, logits.grad.numpy().reshape(case.logits.shape), 1e-12)


@over_cases
def test_the_loss_alone_is_the_loss_that_comes_with_the_gradient(case):
    loss = sl.cross_entropy(case.logits, case.targets, **case.loss_options)
    with_gradient, _ = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_same_bits(loss, with_gradient)


@over_cases
def test_results_have_the_promised_shapes_and_dtypes(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    if case.options.get("reduction") == "none":
        assert (loss.shape, loss.dtype) == (case.logits.shape[:-1], case.logits.dtype)
    else:
        assert type(loss) is float
    assert (d_logits.shape, d_logits.dtype) == (case.logits.shape, case.logits.dtype)


@over_cases
def test_no_argument_is_changed(case):
    arguments = {"logits": case.logits.copy(), "targets": case.targets.copy()}
    arguments |= {name: np.copy(value) for name, value in case.options.items() if np.ndim(value)}
    sl.cross_entropy_and_grad(**{**case.options, **arguments})
    originals = {"logits": case.logits, "targets": case.targets, **case.options}
    for name, value in arguments.items():
        assert_same_bits(value, originals[name])


@over_cases
def test_no_loss_is_negative(case):
    assert np.all(np.asarray(sl.cross_entropy(case.logits, case.targets, **case.loss_options)) >= 0)


@over_cases
def test_the_same_number_on_all_logits_changes_nothing(case):
    logits = np.round(case.logits * 256) / 256  # so that the sum is exact in both dtypes
    loss, d_logits = sl.cross_entropy_and_grad(logits, case.targets, **case.options)
    shifted_loss, shifted_d_logits = sl.cross_entropy_and_grad(logits + 64, case.targets, **case.options)
    assert_same_bits(shifted_loss, loss)
    assert_same_bits(shifted_d_logits, d_logits)


@over_cases
def test_the_order_of_the_classes_does_not_matter(case):
    order = np.random.default_rng(0).permutation(case.logits.shape[-1])
    options = dict(case.options)
    if "class_weight" in options:
        options["class_weight"] = options["class_weight"][order]
    if case.has_indices:
        options |= {"ignore_index": -1} if "ignore_index" in options else {}
        targets = np.where(case.dead, -1, np.argsort(order)[np.where(case.dead, 0, case.targets)])
    else:
        targets = case.targets[..., order]
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    new_loss, new_d_logits = sl.cross_entropy_and_grad(case.logits[..., order], targets, **options)
    assert_close(new_loss, loss, case.precision)
    assert_close(new_d_logits, d_logits[..., order], case.precision)


def stacked_options(case, first_weight):
    """Return the options for all rows of a case twice, the first time with other sample weights."""
    options = {**case.options, "sample_weight": np.stack([first_weight, sample_weight(case)])}
    if np.ndim(options.get("upstream", 0)):
        options["upstream"] = np.stack([options["upstream"]] * 2)
    return options


def sample_weight(case):
    return case.options.get("sample_weight", np.ones(case.logits.shape[:-1]))


@over_cases
def test_a_duplicate_row_is_a_row_of_weight_2(case):
    heavy = {**case.options, "sample_weight": sample_weight(case) * 2}
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **heavy)
    losses, d_logits_twice = sl.cross_entropy_and_grad(
        np.stack([case.logits] * 2),
        np.stack([case.targets] * 2),
        **stacked_options(case, sample_weight(case)),
    )
    assert_close(np.sum(losses, axis=0) if np.ndim(losses) else losses, loss, case.precision)
    assert_close(d_logits_twice.sum(0), d_logits, case.precision)


@over_cases
def test_a_row_that_takes_no_part_is_as_if_deleted(case):
    nowhere = np.full_like(case.logits, np.nan)
    if "ignore_index" in case.options:
        dead_weight = sample_weight(case)
        dead_targets = np.full(case.targets.shape, case.options["ignore_index"])
    else:
        dead_weight = np.zeros(case.logits.shape[:-1])
        dead_targets = np.full(case.targets.shape, 77_777 if case.has_indices else np.nan)

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
    assert_close(both_d_logits[1], d_logits, case.precision / 10)


@over([case for case in CASES if case.dead.any()])
def test_rows_that_take_no_part_have_no_loss_and_no_gradient(case):
    options = {**case.options, "reduction": "none"}
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options)
    assert np.all(loss[case.dead] == 0)
    assert np.all(d_logits[case.dead] == 0)


@over_index_cases
@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64])
def test_an_index_is_its_one_hot_row_to_the_last_bit(case, dtype):
    one_hot = (case.targets[..., None] == np.arange(case.logits.shape[-1])).astype(dtype)
    options = {**case.options, "sample_weight": np.where(case.dead, 0, sample_weight(case))}
    options.pop("ignore_index", None)
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    one_hot_loss, one_hot_d_logits = sl.cross_entropy_and_grad(case.logits, one_hot, **options)
    assert_same_bits(one_hot_loss, loss)
    assert_same_bits(one_hot_d_logits, d_logits)


@over_float64_cases
def test_the_gradient_is_the_slope_of_the_loss(case):
    step = np.random.default_rng(0).normal(scale=1e-5, size=case.logits.shape)
    ahead = sl.cross_entropy(case.logits + step, case.targets, **case.loss_options)
    behind = sl.cross_entropy(case.logits - step, case.targets, **case.loss_options)
    rise = np.sum(np.subtract(ahead, behind) * case.options.get("upstream", 1.0))
    _, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    terms = 2 * step * d_logits
    rounding = 1e-14 * np.sum(np.abs(ahead))
    assert rise == pytest.approx(terms.sum(), rel=0, abs=1e-7 * np.abs(terms).sum() + rounding)


@over_cases
def test_the_gradient_of_a_row_sums_to_zero(case):
    _, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    size = np.max(np.abs(d_logits), initial=0.0)
    assert np.all(np.abs(d_logits.sum(-1, dtype=np.float64)) <= case.precision * size)


@over_cases
def test_a_row_has_the_same_bits_whatever_the_other_rows_hold(case):
    options = {**case.options, "reduction": "none"}
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options)
    rows = list(np.ndindex(loss.shape))
    for row in rows[:: max(1, len(rows) // 5)]:
        of_row = {
            name: value[row] if name in {"sample_weight", "upstream"} and np.ndim(value) else value
            for name, value in options.items()
        }
        alone = sl.cross_entropy_and_grad(case.logits[row], case.targets[row], **of_row)
        assert_same_bits(alone[0], loss[row])
        assert_same_bits(alone[1], d_logits[row])


@over_cases
def test_out_receives_the_same_bits(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    elsewhere, in_place = np.full_like(case.logits, np.nan), case.logits.copy()
    for logits, out in [(case.logits, elsewhere), (in_place, in_place)]:
        out_loss, result = sl.cross_entropy_and_grad(logits, case.targets, out=out, **case.options)
        assert result is out
        assert_same_bits(out_loss, loss)
        assert_same_bits(out, d_logits)
