"""Laws that hold for every case of the table."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import scipy.special

import softmaxloss as sl
import torch_oracle
from agree import assert_close, assert_same_bits
from cases import CASES, OPTIONS, over, over_cases, without
from softmaxloss import reference

over_index_cases = over([case for case in CASES if case.has_indices])
over_float64_cases = over([case for case in CASES if case.logits.dtype == np.float64])
over_half_cases = over([case for case in CASES if case.is_half and "softcap" not in case.options])
over_full_cases = over([case for case in CASES if not case.is_half])
over_one_upstream = over([case for case in CASES if np.ndim(case.options.get("upstream", 1)) == 0])
over_logits = over([case for case in CASES if ", index, none" in case.name or ", index, sum" in case.name])
over_functions = pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])


def test_every_option_is_a_row_of_the_table():
    parameters = inspect.signature(sl.cross_entropy_and_grad).parameters
    assert {*OPTIONS, "reduction"} == set(parameters) - {"logits", "targets", "axis", "out"}


@over_cases
def test_everything_equals_the_reference(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    right_loss, right_d_logits = reference.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_close(loss, right_loss, case.precision)
    assert_close(d_logits, right_d_logits, case.rounding)


@over_float64_cases
def test_everything_equals_pytorch(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    right_loss, right_d_logits = torch_oracle.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_close(loss, right_loss, 1e-12)
    assert_close(d_logits, right_d_logits, 1e-12)


@over_cases
def test_the_loss_alone_is_the_loss_that_comes_with_the_gradient(case):
    loss = sl.cross_entropy(case.logits, case.targets, **case.loss_options)
    with_gradient, _ = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    assert_same_bits(loss, with_gradient)


@over_cases
def test_results_have_the_promised_shapes_and_dtypes(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    if case.options.get("reduction") == "none":
        assert (loss.shape, loss.dtype) == (case.batch_shape, np.float32 if case.is_half else case.logits.dtype)
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


@over_half_cases
def test_half_precision_is_computed_in_single_and_rounded_once(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    in_single = sl.cross_entropy_and_grad(case.logits.astype(np.float32), case.targets, **case.options)
    assert_same_bits(loss, in_single[0])
    assert_same_bits(d_logits, in_single[1].astype(case.logits.dtype))


@over_cases
def test_the_same_number_on_all_logits_changes_nothing_but_under_z_loss_or_a_cap(case):
    step = max(1 / 256, 64 * case.rounding)  # so that the sum is exact in all dtypes
    logits = np.round(case.logits.astype(np.float64) / step) * step
    options = without(case.options, "z_loss", "softcap")
    loss, d_logits = sl.cross_entropy_and_grad(logits.astype(case.logits.dtype), case.targets, **options)
    shifted = (logits + 64).astype(case.logits.dtype)
    shifted_loss, shifted_d_logits = sl.cross_entropy_and_grad(shifted, case.targets, **options)
    assert_close(shifted_loss, loss, case.precision)
    assert_close(shifted_d_logits, d_logits, case.rounding)


def with_other_labels(case, new_label):
    """Return targets and options of an index case after its classes got other numbers."""
    options = dict(case.options)
    options |= {"ignore_index": -1} if "ignore_index" in options else {}
    return np.where(case.dead, -1, new_label[np.where(case.dead, 0, case.targets)]), options


@over_cases
def test_the_order_of_the_classes_does_not_matter(case):
    order = np.random.default_rng(0).permutation(case.n_classes)
    if case.has_indices:
        targets, options = with_other_labels(case, np.argsort(order))
    else:
        targets, options = np.take(case.targets, order, case.axis), dict(case.options)
    options |= {name: options[name][order] for name in ("class_weight", "class_mask") if name in options}
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    new_loss, new_d_logits = sl.cross_entropy_and_grad(np.take(case.logits, order, case.axis), targets, **options)
    assert_close(new_loss, loss, case.precision)
    assert_close(new_d_logits, np.take(d_logits, order, case.axis), case.rounding)


@over_index_cases
@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64])
def test_an_index_is_its_one_hot_row_to_the_last_bit(case, dtype):
    one_hot = case.by_axis((case.targets[..., None] == np.arange(case.n_classes)).astype(dtype))
    options = without(case.options, "ignore_index") | {"sample_weight": np.where(case.dead, 0, case.sample_weight)}
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
def test_the_gradient_of_a_row_sums_to_zero_or_to_what_z_loss_adds(case):
    case = replace(case, options=without(case.options_per_row, "softcap"))
    _, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    lse = scipy.special.logsumexp(case.as_seen(case.logits), case.axis)
    d_lse = 2 * case.options.get("z_loss", 0.0) * np.where(case.dead, 0.0, case.sample_weight) * lse
    right = d_lse * case.options.get("upstream", 1.0) / case.options.get("temperature", 1.0)
    rows = case.by_row(d_logits).astype(np.float64)
    size = np.max(np.abs(rows).sum(-1), initial=0.0)
    assert np.all(np.abs(rows.sum(-1) - right) <= case.rounding * size)


@over_cases
def test_z_loss_adds_the_square_of_lse(case):
    options = without(case.options_per_row, "z_loss", "upstream")
    lse = scipy.special.logsumexp(case.as_seen(case.logits), case.axis)
    more = 0.3 * np.where(case.dead, 0.0, case.sample_weight) * lse**2
    right = sl.cross_entropy(case.logits, case.targets, **options) + more
    assert_close(sl.cross_entropy(case.logits, case.targets, **options, z_loss=0.3), right, case.precision)


@over_one_upstream
def test_a_normalizer_divides_the_sum(case):
    options = without(case.options, "normalizer", "reduction")
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options, normalizer=7.0)
    total, d_total = sl.cross_entropy_and_grad(case.logits, case.targets, **options, reduction="sum")
    assert_close(loss, total / 7, 1e-15)
    assert_close(d_logits, d_total.astype(np.float64) / 7, case.rounding)


@over_cases
def test_a_mask_that_is_all_true_is_no_mask_to_the_last_bit(case):
    options = without(case.options, "class_mask")
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options)
    masked = sl.cross_entropy_and_grad(case.logits, case.targets, **options, class_mask=np.ones(case.n_classes, bool))
    assert_same_bits(masked[0], loss)
    assert_same_bits(masked[1], d_logits)


@over([case for case in CASES if not case.exists.all()])
def test_a_masked_class_is_as_if_deleted(case):
    exists = case.exists
    if case.has_indices:
        targets, options = with_other_labels(case, np.cumsum(exists) - 1)
    else:
        targets, options = np.compress(exists, case.targets, case.axis), dict(case.options)
    del options["class_mask"]
    if "class_weight" in options:
        options["class_weight"] = options["class_weight"][exists]
    logits = case.with_nan(case.by_axis(np.broadcast_to(~exists, (*case.batch_shape, case.n_classes))))
    loss, d_logits = sl.cross_entropy_and_grad(logits, case.targets, **case.options)
    right = sl.cross_entropy_and_grad(np.compress(exists, case.logits, case.axis), targets, **options)
    assert_close(loss, right[0], case.precision)
    assert_close(np.compress(exists, d_logits, case.axis), right[1], case.rounding)
    assert np.all(np.compress(~exists, d_logits, case.axis) == 0)


@over_full_cases
def test_half_the_temperature_is_twice_the_logits(case):
    options = without(case.options, "temperature", "softcap")
    cap, temperature = case.options.get("softcap"), case.options.get("temperature", 1.0)
    hot = {"temperature": temperature, "softcap": cap and 2 * cap}
    cool = {"temperature": temperature / 2, "softcap": cap}
    loss, d_logits = sl.cross_entropy_and_grad(2 * case.logits, case.targets, **options, **hot)
    cool_loss, cool_d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options, **cool)
    assert_same_bits(cool_loss, loss)
    assert_close(cool_d_logits, 2 * d_logits, case.precision)


@over_cases
def test_a_soft_cap_far_above_the_logits_is_none(case):
    options = without(case.options, "softcap")
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options)
    capped_loss, capped_d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **options, softcap=1e9)
    assert_close(capped_loss, loss, case.precision)
    assert_close(capped_d_logits, d_logits, case.rounding)


@over([case for case in CASES if case.axis != -1])
def test_the_axis_of_the_classes_may_be_moved(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    from_front = {**case.options, "axis": case.axis + case.logits.ndim}
    same_loss, same_d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **from_front)
    assert_same_bits(same_loss, loss)
    assert_same_bits(same_d_logits, d_logits)

    targets = case.targets if case.has_indices else case.by_row(case.targets)
    last = sl.cross_entropy_and_grad(case.by_row(case.logits), targets, **without(case.options, "axis"))
    if case.class_major:
        assert_close(last[0], loss, case.precision)
        assert_close(last[1], case.by_row(d_logits), case.rounding)
    else:
        assert_same_bits(last[0], loss)
        assert_same_bits(np.ascontiguousarray(last[1]), np.ascontiguousarray(case.by_row(d_logits)))


@over_cases
def test_out_receives_the_same_bits(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    elsewhere, in_place = case.with_nan(np.True_), case.logits.copy()
    for logits, out in [(case.logits, elsewhere), (in_place, in_place)]:
        out_loss, result = sl.cross_entropy_and_grad(logits, case.targets, out=out, **case.options)
        assert result is out
        assert_same_bits(out_loss, loss)
        assert_same_bits(out, d_logits)


@over_logits
@over_functions
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_softmax_functions_over_any_axis_at_any_temperature_equal_the_reference(case, function, temperature):
    options = {"axis": case.axis, "temperature": temperature}
    right = getattr(reference, function)(case.logits, **options)
    got = getattr(sl, function)(case.logits, **options)
    assert_close(got, right, case.rounding if got.dtype == case.logits.dtype else case.precision)
    if function != "logsumexp":
        in_place = case.logits.copy()
        getattr(sl, function)(in_place, out=in_place, **options)
        assert_same_bits(in_place, got)
