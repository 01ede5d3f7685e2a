"""The additive-margin softmax against PyTorch's autograd on the formula, finite differences and laws."""

import ml_dtypes
import numpy as np
import pytest
import torch

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from torch_oracle import one_thread

SHAPES = [((6, 5), -1), ((2, 5, 3, 4), 1), ((10, 4), 0), ((3, 1000), -1), ((4,), 0), ((0, 3), -1)]
over_shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)


def problem(shape, axis=-1, dtype=np.float64):
    """Return cosines and labels."""
    rng = np.random.default_rng(len(shape))
    return rng.uniform(-1, 1, shape).astype(dtype), rng.integers(0, shape[axis], tuple(np.delete(shape, axis)))


@one_thread()
def from_formula(cosines, labels, axis, margin, scale, **options):
    """Return loss and gradient of the formula as it is written, in float64, by PyTorch."""
    x = torch.tensor(cosines.astype(np.float64), requires_grad=True)
    t = torch.tensor(labels)
    one_hot = torch.movedim(torch.nn.functional.one_hot(t.clamp(min=0), x.shape[axis]).to(x), -1, axis)
    z = torch.movedim(scale * (x - margin * one_hot), axis, -1).reshape(-1, x.shape[axis])
    loss = torch.nn.functional.cross_entropy(z, t.reshape(-1), ignore_index=-1, **options)
    loss.backward()
    return loss.item(), x.grad.numpy()


@over_shapes
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_loss_and_gradient_are_those_of_the_formula(shape, axis, dtype):
    cosines, labels = problem(shape, axis, dtype)
    options = {"axis": axis, "margin": 0.2, "scale": 8.0, "label_smoothing": 0.1, "reduction": "sum"}
    loss, d_cosines = sl.margin_cross_entropy_and_grad(cosines, labels, **options)
    right, d_right = from_formula(cosines, labels, **options)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert loss == sl.margin_cross_entropy(cosines, labels, **options)
    assert loss == pytest.approx(right, rel=1e-14 if dtype == np.float64 else 1e-6)
    assert d_cosines.dtype == dtype
    assert_close(d_cosines, d_right, eps if cosines.itemsize == 2 else 16 * eps)


def test_the_defaults_are_those_of_the_paper_in_plain_numpy():
    cosines, labels = problem((6, 5))
    z = 30 * (cosines - 0.35 * np.eye(5)[labels])
    right = (np.log(np.exp(z).sum(1)) - z[np.arange(6), labels]).mean()
    assert sl.margin_cross_entropy(cosines, labels) == pytest.approx(right, rel=1e-13)


def test_the_gradient_is_the_finite_difference():
    cosines, labels = problem((4, 5))
    options = {"reduction": "none", "class_weight": [1, 2, 3, 4, 5], "z_loss": 0.01, "scale": 4.0}
    upstream = np.array([1.0, -2.0, 0.5, 3.0])
    _, d_cosines = sl.margin_cross_entropy_and_grad(cosines, labels, upstream=upstream, **options)
    steps = 1e-6 * np.eye(5)
    moved = [[sl.margin_cross_entropy(cosines + s * step, labels, **options) for step in steps] for s in (1, -1)]
    assert_close(d_cosines, (upstream * np.subtract(*moved) / 2e-6).T, 1e-8)


@over_shapes
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_margin_0_is_cross_entropy_to_the_last_bit(shape, axis, dtype):
    cosines, labels = problem(shape, axis, dtype)
    options = {"axis": axis, "reduction": "none", "label_smoothing": 0.1}
    loss, d_cosines = sl.margin_cross_entropy_and_grad(cosines, labels, margin=0, scale=10, **options)
    right, d_right = sl.cross_entropy_and_grad(cosines, labels, temperature=0.1, **options)
    assert_same_bits(loss, right)
    assert_same_bits(d_cosines, d_right)


def test_a_constant_added_to_all_cosines_changes_nothing_and_a_larger_margin_never_lowers_the_loss():
    cosines, labels = problem((50, 5))
    losses = [sl.margin_cross_entropy(cosines, labels, margin=m, reduction="none") for m in (-0.2, 0, 0.1, 0.35, 2)]
    assert np.all(np.diff(losses, axis=0) > 0)
    assert_close(sl.margin_cross_entropy(cosines + 3, labels, margin=2, reduction="none"), losses[-1], 1e-13)


def test_ignored_rows_are_never_read_and_one_hot_rows_are_class_indices():
    cosines, labels = problem((6, 5))
    labels[::2] = -1
    loss, d_cosines = sl.margin_cross_entropy_and_grad(cosines, labels, ignore_index=-1)
    right, d_right = from_formula(cosines, labels, axis=-1, margin=0.35, scale=30.0)
    assert loss == pytest.approx(right, rel=1e-14)
    assert_close(d_cosines, d_right, 1e-14)
    cosines.view(np.int64)[::2] = 0x7FF4 << 48  # a signalling NaN, of which NumPy warns when it is read
    one_hot, weight = labels[:, None] == np.arange(5), labels >= 0
    for targets, options in (labels, {"ignore_index": -1}), (one_hot, {"sample_weight": weight}):
        result, d_result = sl.margin_cross_entropy_and_grad(cosines, targets, **options)
        assert result == loss
        assert_same_bits(d_result, d_cosines)
        assert np.all(d_result[::2] == 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_cosines_are_written_only_as_out(dtype):
    cosines, labels = problem((6, 5), dtype=dtype)
    before = cosines.copy()
    _, right = sl.margin_cross_entropy_and_grad(cosines, labels)
    sl.margin_cross_entropy(cosines, labels)
    assert_same_bits(cosines, before)
    for out in np.zeros((5, 6), dtype).T, cosines:
        assert sl.margin_cross_entropy_and_grad(cosines, labels, out=out)[1] is out
        assert_same_bits(np.ascontiguousarray(out), right)


def test_soft_rows_and_options_that_scale_takes_over_are_refused():
    cosines, labels = problem((6, 5))
    with pytest.raises(ValueError, match="soft row at position 0; 6 of 6"):
        sl.margin_cross_entropy(cosines, np.full((6, 5), 0.2))
    for option, reason in {"temperature": "scale", "softcap": "bounded"}.items():
        with pytest.raises(TypeError, match=f"{option} is not an option of this function: .*{reason}"):
            sl.margin_cross_entropy_and_grad(cosines, labels, **{option: 1.0})
