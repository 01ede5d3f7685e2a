"""The oracle has oracles: PyTorch's automatic differentiation on ordinary rows, exact arithmetic on hard ones.

The file has over 300 lines, as all functions of the reference share its rows and helpers.
"""

from functools import cache
from zlib import crc32

import numpy as np
import pytest
import torch

import exact
from agree import assert_close
from softmaxloss import reference

INF, NAN = np.inf, np.nan
MASK = [True, False, True, True, True]
EXISTING = np.flatnonzero(MASK)
CLASS_WEIGHT = [0.5, 2.0, 1.5, 0.7, 1.0]

LAYOUTS = {  # shape of the logits, always 5 classes, and their axis
    "matrix": ((4, 5), -1),
    "images": ((2, 5, 3), 1),
    "classes first": ((5, 2, 3), 0),
    "classes before the last": ((2, 5, 3), -2),
    "one row": ((5,), 0),
}
EVERYTHING = {
    "class_weight": CLASS_WEIGHT,
    "sample_weight": "some 0",
    "ignore_index": 3,
    "class_mask": MASK,
    "label_smoothing": 0.2,
    "z_loss": 0.3,
    "softcap": 2.5,
    "temperature": 0.7,
}
OPTIONS = {
    **{name: {name: value} for name, value in EVERYTHING.items()},
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "normalizer": {"normalizer": 7.5},
    "smoothing over the classes that exist": {"class_mask": MASK, "label_smoothing": 0.2},
    "everything": EVERYTHING,
    "everything, summed": {**EVERYTHING, "reduction": "sum"},
    "everything, per row": {**EVERYTHING, "reduction": "none"},
    "everything, normalized": {**EVERYTHING, "normalizer": 0.4},
}
PROBLEMS = [
    *[(option, target, "images") for option in OPTIONS for target in ("index", "soft")],
    *[("everything", "index", layout) for layout in LAYOUTS if layout != "images"],
    *[("everything, per row", "soft", layout) for layout in LAYOUTS if layout != "images"],
]
over_problems = pytest.mark.parametrize("problem", PROBLEMS, ids=", ".join)
over_layouts = pytest.mark.parametrize("layout", LAYOUTS)


@cache
def arguments(option, target, layout):
    """Return logits, targets, a vector, the upstream gradient and the options of a problem."""
    rng = np.random.default_rng(crc32(f"{option}, {target}, {layout}".encode()))
    shape, axis = LAYOUTS[layout]
    batch = np.delete(shape, axis)
    options = {**OPTIONS[option], "axis": axis}
    existing = EXISTING if "class_mask" in options else np.arange(5)
    n_rows = int(np.prod(batch))
    if "sample_weight" in options:
        options["sample_weight"] = rng.permutation(np.resize([1.5, 0.0, 0.3, 2.0], n_rows)).reshape(batch)
    targets = rng.permutation(np.resize(existing, n_rows)).reshape(batch)
    if target == "soft":
        options.pop("ignore_index", None)
        soft = np.zeros((*batch, 5))
        soft[..., existing] = rng.dirichlet(np.ones(len(existing)), batch) * rng.uniform(0.5, 2, (*batch, 1))
        targets = np.moveaxis(soft, -1, axis)
    upstream = rng.normal(size=batch) if options.get("reduction") == "none" else -0.7
    return 3 * rng.normal(size=shape), targets, rng.normal(size=shape), upstream, options


def torch_loss(
    logits,
    targets,
    *,
    axis=-1,
    class_weight=(1.0,) * 5,
    sample_weight=1.0,
    ignore_index=None,
    class_mask=(True,) * 5,
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    temperature=1.0,
    reduction="mean",
    normalizer=None,
):
    """The same loss of PyTorch's own functions, on the classes that exist."""
    z = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    z = torch.movedim(z / temperature, axis, -1)[..., list(class_mask)]
    class_weight = torch.tensor(class_weight, dtype=torch.float64)[list(class_mask)]
    weight = torch.tensor(np.broadcast_to(sample_weight, z.shape[:-1]))
    if targets.ndim < logits.ndim:
        weight = torch.where(torch.tensor(targets == ignore_index), 0.0, weight)
        target = torch.tensor(np.cumsum(class_mask)[targets] - 1).reshape(-1)
        wanted = class_weight[target].reshape(weight.shape)
    else:
        target = torch.tensor(np.moveaxis(targets, axis, -1)[..., list(class_mask)]).reshape(-1, z.shape[-1])
        wanted = (target @ class_weight).reshape(weight.shape)
    losses = torch.nn.functional.cross_entropy(
        z.reshape(-1, z.shape[-1]), target, weight=class_weight, label_smoothing=label_smoothing, reduction="none"
    )
    losses = weight * (losses.reshape(weight.shape) + z_loss * torch.logsumexp(z, -1) ** 2)
    if reduction == "none":
        return losses
    total = (weight * wanted).sum().item() if normalizer is None else normalizer
    return losses.sum() / ((total or INF) if reduction == "mean" else 1)


@over_problems
def test_the_loss_and_its_gradient_equal_pytorch(problem):
    logits, targets, _, upstream, options = arguments(*problem)
    x = torch.tensor(logits, requires_grad=True)
    right = torch_loss(x, targets, **options)
    right.backward(torch.broadcast_to(torch.tensor(upstream, dtype=torch.float64), right.shape))
    loss, d_logits = reference.cross_entropy_and_grad(logits, targets, upstream=upstream, **options)
    assert_close(loss, right.detach(), 1e-14)
    assert_close(d_logits, x.grad, 1e-13)
    assert_close(reference.cross_entropy(logits, targets, **options), loss, 0)


@over_problems
def test_second_derivatives_and_slopes_equal_pytorch(problem):
    logits, targets, vector, _, options = arguments(*problem)

    def loss(x):
        return torch_loss(x, targets, **options)

    x = torch.tensor(logits)
    hessian = torch.autograd.functional.hessian(lambda x: loss(x).sum(), x).reshape(x.numel(), x.numel()).numpy()
    slopes = torch.autograd.functional.jacobian(loss, x).reshape(*loss(x).shape, -1).numpy()
    right_diagonal = np.diag(hessian).reshape(logits.shape)
    assert_close(reference.hessian_diagonal(logits, targets, **options), right_diagonal, 1e-13)
    right_hvp = (hessian @ vector.ravel()).reshape(logits.shape)
    assert_close(reference.hvp(logits, targets, vector, **options), right_hvp, 1e-13)
    value, slope = reference.jvp(logits, targets, vector, **options)
    assert_close(value, loss(x), 1e-14)
    assert_close(slope, slopes @ vector.ravel(), 1e-13)


@over_layouts
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_softmax_functions_equal_pytorch(function, temperature, layout):
    shape, axis = LAYOUTS[layout]
    logits = np.random.default_rng(0).normal(size=shape)
    got = getattr(reference, function)(logits, axis=axis, temperature=temperature)
    assert_close(got, getattr(torch, function)(torch.tensor(logits) / temperature, axis), 1e-14)


def test_logsumexp_is_infinite_where_a_logit_or_all_of_them_are():
    got = reference.logsumexp([[INF, -INF, 1.0], [-INF] * 3, [NAN, INF, 1.0]], temperature=0.5)
    np.testing.assert_array_equal(got, [INF, -INF, NAN])


@pytest.mark.parametrize("target", ["index", "soft"])
def test_the_linear_loss_equals_pytorch_and_reads_nothing_that_takes_no_part(target):
    _, targets, _, upstream, options = arguments("everything", target, "matrix")
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=5)]
    features, weight, bias = (torch.tensor(factor, requires_grad=True) for factor in factors)
    right = torch_loss(features @ weight.T + bias, targets, **options)
    (right * upstream).backward()

    factors[0][options["sample_weight"] == 0] = NAN
    factors[1][~np.array(MASK)] = NAN
    factors[2][~np.array(MASK)] = NAN
    loss, gradients = reference.linear_cross_entropy_and_grad(
        factors[0], factors[1], targets, factors[2], upstream=upstream, **options
    )
    assert_close(loss, right.detach(), 1e-14)
    for got, factor in zip(gradients, (features, weight, bias), strict=True):
        assert_close(got, factor.grad, 1e-13)


def everything_about(logits, targets, vector, options):
    """Return losses per row and arrays of the logits' shape from all functions with these options."""
    loss, d_logits = reference.cross_entropy_and_grad(logits, targets, **options)
    _, slope = reference.jvp(logits, targets, vector, **options)
    hessian_diagonal = reference.hessian_diagonal(logits, targets, **options)
    return (loss, slope), (d_logits, hessian_diagonal, reference.hvp(logits, targets, vector, **options))


@over_layouts
def test_absent_classes_and_rows_without_weight_are_never_read(layout):
    logits, targets, vector, _, options = arguments("everything, per row", "index", layout)
    axis, dead = options["axis"], (targets == options["ignore_index"]) | (options["sample_weight"] == 0)
    unread = np.expand_dims(dead, axis) | np.moveaxis(np.broadcast_to(~np.array(MASK), (*dead.shape, 5)), -1, axis)
    assert unread.any()
    poisoned = (np.where(unread, NAN, logits), np.where(options["sample_weight"] == 0, 77_777, targets))
    per_row, per_logit = everything_about(*poisoned, np.where(unread, NAN, vector), options)
    right_per_row, right_per_logit = everything_about(logits, targets, vector, options)
    for got, right in zip((*per_row, *per_logit), (*right_per_row, *right_per_logit), strict=True):
        np.testing.assert_array_equal(got, right)
    assert all(np.all(got[dead] == 0) for got in per_row)
    assert all(np.all(got[unread] == 0) for got in per_logit)


@pytest.mark.parametrize("bad", [[NAN, 1, 0, 0, 0], [INF, 1, 0, 0, 0], [-INF, 1, -INF, -INF, -INF]], ids=str)
def test_a_row_without_a_softmax_is_nan_where_classes_exist_and_leaves_the_others_alone(bad):
    logits, targets, vector, _, options = arguments("everything, per row", "index", "matrix")
    options = {**options, "softcap": None, "sample_weight": np.ones(4), "ignore_index": None}
    with_bad = np.vstack([logits[:1], [bad], logits[2:]])
    per_row, per_logit = everything_about(with_bad, targets, vector, options)
    right_per_row, right_per_logit = everything_about(logits, targets, vector, options)
    assert all(np.isnan(got[1]) for got in per_row)
    for got in per_logit:
        np.testing.assert_array_equal(got[1], np.where(MASK, NAN, 0.0))
    for got, right in zip((*per_row, *per_logit), (*right_per_row, *right_per_logit), strict=True):
        np.testing.assert_array_equal(got[[0, 2, 3]], right[[0, 2, 3]])


def test_a_cap_makes_infinite_logits_finite_and_their_derivatives_zero():
    infinite, finite = [INF, -INF, 0.0], [2.0, -2.0, 0.0]  # before and after a cap of 2
    loss, d_logits = reference.cross_entropy_and_grad(infinite, 1, softcap=2.0)
    right_loss, right_d_logits = reference.cross_entropy_and_grad(finite, 1)
    assert loss == right_loss
    assert d_logits.tolist() == [0, 0, right_d_logits[2]]
    assert reference.hessian_diagonal(infinite, 1, softcap=2.0)[:2].tolist() == [0, 0]


def test_the_mean_over_nothing_is_zero_and_its_normalizer_may_be():
    logits, options = [[1.0, NAN]], {"ignore_index": 0, "z_loss": 0.1}
    for normalizer in (None, 0, 3.0):
        per_row, per_logit = everything_about(logits, [0], logits, {**options, "normalizer": normalizer})
        assert per_row == (0, 0)
        assert not np.any(per_logit)


HARD_ROWS = {
    **{f"margin {margin}": [0, -margin] for margin in (1e-6, 40, 200, 700)},
    "margin 200 to many": [-200] * 50 + [0] + [-200] * 49,
    "ties": [2.25, 2.25, -1, 2.25, 2.25],
    "with -inf": [-INF, 3, -INF, 2.875, -40, -INF],
    "one finite class": [-INF, 5, -INF],
    "far from zero": [1e8 + 2, 1e8 - 1, 1e8 - 60],
    "ties far below zero": [-1e8] * 100,
    "far below zero": [-1e8 + 2, -1e8 - 1, -1e8 - 60],
    "wide": np.linspace(-64, 0, 33),
}
HARD_OPTIONS = {
    "plain": {},
    "weighted": {"weight": 0.3, "class_weight": [0.7, 1.25]},
    "smoothed": {"label_smoothing": 0.1, "class_weight": [0.7, 1.25]},
    "z_loss": {"z_loss": 0.25},
    "masked": {"class_mask": [True, True, False, True]},
    "half the temperature": {"temperature": 0.5},
    "temperature": {"temperature": 0.7},
    "capped": {"softcap": 50.0, "z_loss": 0.25, "label_smoothing": 1e-3},
}
LIMIT = 6  # units in the last place, where differences of logits are exact
ROUNDED_LIMIT = {"temperature": 1000, "capped": 200}  # rounding a gap g costs exp(g) up to |g| units


@pytest.mark.parametrize("target", ["the winner", "the last class", "soft"])
@pytest.mark.parametrize("option", HARD_OPTIONS)
@pytest.mark.parametrize("name", HARD_ROWS)
def test_hard_rows_are_exact(name, option, target):
    """To a few units in the last place: for class indices of each gradient entry, else of the size of its terms."""
    logits = np.array(HARD_ROWS[name], np.float64)
    options, limit = dict(HARD_OPTIONS[option]), ROUNDED_LIMIT.get(option, LIMIT)
    for per_class in {"class_weight", "class_mask"} & options.keys():
        options[per_class] = np.resize(options[per_class], len(logits))
    mask = options.get("class_mask", np.ones(len(logits), bool))
    targets = {
        "the winner": int(np.argmax(np.where(mask, logits, -INF))),
        "the last class": int(np.flatnonzero(mask)[-1]),
        "soft": np.where(mask, np.resize([0.5, 0, 0.25], len(logits)), 0),
    }[target]
    vector = np.resize([0.7, -1.3, 0.2], len(logits))
    right = exact.row(logits, targets, vector=vector, **options)
    if "weight" in options:
        options["sample_weight"] = options.pop("weight")
    options["reduction"] = "none"

    loss, d_logits = reference.cross_entropy_and_grad(logits, targets, **options)
    _, slope = reference.jvp(logits, targets, vector, **options)
    alone = target != "soft" and not {"label_smoothing", "z_loss"} & options.keys()
    hessian_diagonal = reference.hessian_diagonal(logits, targets, **options)
    hvp = reference.hvp(logits, targets, vector, **options)
    assert exact.ulps(loss, right.loss) <= limit
    assert exact.ulps(d_logits, right.d_logits, scale=None if alone else right.d_scale) <= limit
    assert exact.ulps(hessian_diagonal, right.hessian_diagonal, scale=right.hessian_scale) <= limit
    assert exact.ulps(hvp, right.hvp, scale=right.hvp_scale) <= limit
    assert exact.ulps(slope, right.jvp, scale=right.jvp_scale) <= limit
    if target == "the last class":
        shared = {name: value for name, value in options.items() if name in {"class_mask", "softcap", "temperature"}}
        metrics = reference.metrics(logits, targets, **shared)
        assert exact.ulps(metrics.log_probability, right.log_probability) <= limit
        assert exact.ulps(metrics.entropy, right.entropy) <= limit


@over_layouts
@pytest.mark.parametrize("one_hot", [False, True], ids=["index", "one-hot"])
def test_metrics_equal_pytorch(layout, one_hot):
    logits, targets, _, _, options = arguments("everything", "index", layout)
    logits = np.round(logits)  # so that there are ties
    names = {"axis", "class_mask", "softcap", "temperature", "sample_weight"} | (set() if one_hot else {"ignore_index"})
    options = {name: value for name, value in options.items() if name in names}
    weight = options["sample_weight"] * (one_hot or targets != 3)
    live = weight > 0
    dense = np.moveaxis(targets[..., None] == np.arange(5), -1, options["axis"])
    got = reference.metrics(logits, dense if one_hot else targets, topk=(1, 2, 9), **options)

    x = torch.where(torch.tensor(MASK), torch.movedim(torch.tensor(logits), options["axis"], -1), -INF)
    order = torch.sort(x, stable=True, descending=True).indices.numpy()
    rank = np.argmax(order == targets[..., None], -1) + 1
    distribution = torch.distributions.Categorical(logits=(2.5 * torch.tanh(x / 2.5) / 0.7)[..., MASK])
    log_probability = distribution.log_prob(torch.tensor(np.cumsum(MASK)[targets] - 1)).numpy()

    def mean(values):
        return np.average(values, weights=weight) if live.any() else 0.0

    np.testing.assert_array_equal(got.argmax, np.where(live, order[..., 0], -1))
    np.testing.assert_array_equal(got.rank, np.where(live, rank, 0))
    assert_close(got.log_probability, np.where(live, log_probability, 0), 1e-14)
    assert_close([got.loss, got.perplexity], [mean(-log_probability), np.exp(mean(-log_probability))], 1e-14)
    assert_close(got.entropy, mean(distribution.entropy()), 1e-14)
    assert got.accuracy == pytest.approx(mean(rank == 1), rel=1e-15)
    assert got.top_k == pytest.approx({1: mean(rank == 1), 2: mean(rank <= 2), 9: float(live.any())}, rel=1e-15)


def test_metrics_of_rows_that_take_no_part_and_of_rows_without_a_softmax():
    logits = np.array([[NAN, NAN], [0, 1], [NAN, 1], [INF, 1], [-INF, -INF], [-INF, 0]])
    got = reference.metrics(logits, [0, 0, 1, 0, 0, 0], sample_weight=[0, 1, 1, 1, 1, 1], topk=(1, 2, 9))
    assert got.argmax.tolist() == [-1, 1, -1, -1, -1, 1]
    assert got.rank.tolist() == [0, 2, 3, 3, 3, 2]
    np.testing.assert_array_equal(got.log_probability, [0, -np.log1p(np.e), NAN, NAN, NAN, -INF])
    assert np.isnan([got.loss, got.perplexity, got.entropy]).all()
    assert got.top_k == {1: 0, 2: 0.4, 9: 0.4}

    only_good = reference.metrics(logits, [0] * 6, sample_weight=[0, 1, 0, 0, 0, 1])
    assert (only_good.loss, only_good.perplexity, only_good.accuracy) == (INF, INF, 0)


def test_a_cap_leaves_the_order_of_the_logits_to_metrics():
    """Both are 1 once capped and rounded, so that no probability tells them apart."""
    got = reference.metrics([1000.0, 2000.0, INF], 1, softcap=1.0)
    assert (got.argmax, got.rank) == (2, 2)
    assert got.log_probability == pytest.approx(-np.log(3), rel=1e-15)


@pytest.mark.parametrize("n_rows", [0, 2])
def test_metrics_of_nothing_are_zero(n_rows):
    got = reference.metrics(np.full((n_rows, 3), NAN), np.full(n_rows, -100), ignore_index=-100)
    assert (got.loss, got.perplexity, got.accuracy, got.top_k, got.entropy) == (0, 1, 0, {1: 0, 5: 0}, 0)
