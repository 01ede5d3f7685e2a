"""Loss and gradient are within 4 ulp, or 5, under every combination of options, on many random rows at once.

The oracle computes in NumPy's extended precision: 64 bits of mantissa, where the platform has them, leave 1/1000 ulp
of float64 for a few dozen roundings.
"""

import itertools
import zlib

import numpy as np
import pytest

import softmaxloss as sl
from cases import OPTIONS, made

REAL = np.longdouble
pytestmark = pytest.mark.skipif(np.finfo(REAL).nmant < 63, reason="this platform has no extended precision")
ELEMENTS = 12_000


def limit(names, dtype):
    """Return the guarantee: in float64, label smoothing adds roundings of its own; 4.4 has been seen."""
    return 5 if dtype == np.float64 and "label_smoothing" in names else 4


NAMES = ("soft", *(name for name, option in OPTIONS.items() if option.to_ulp))
COMBINATIONS = [frozenset(c) for n in range(len(NAMES) + 1) for c in itertools.combinations(NAMES, n)]


def right(
    logits,
    targets,
    *,
    class_weight=1.0,
    sample_weight=1.0,
    label_smoothing=0.0,
    z_loss=0.0,
    temperature=1.0,
    upstream=1.0,
    softcap=None,
):
    """Return loss and gradient by logits (N, V), and the sizes of their terms, in extended precision."""
    z = logits.astype(REAL)
    slope_of_map = REAL(1)
    if softcap is not None:
        z, slope_of_map = softcap * np.tanh(z / softcap), 1 / np.cosh(z / softcap) ** 2
    eps, zeta, t, w, d = map(REAL, (label_smoothing, z_loss, temperature, sample_weight, upstream))
    w = w * np.ones(len(z), REAL)
    q = np.asarray(class_weight, REAL) * ((1 - eps) * targets + eps / z.shape[1])
    mass, peak = q.sum(1, keepdims=True), z.max(1, keepdims=True)
    odds = np.exp((z - peak) / t)
    others = np.where(np.arange(z.shape[1]) == z.argmax(1)[:, None], 0, odds)
    rest = others.sum(1, keepdims=True)
    p, lse, size = odds / (1 + rest), peak / t + np.log1p(rest), np.abs(peak) / t + np.log1p(rest)
    wanted = np.where(np.arange(z.shape[1]) == z.argmax(1)[:, None], q, 0).sum(1, keepdims=True)
    slope = mass + 2 * zeta * lse
    at_winner = (mass - wanted) + 2 * zeta * lse - slope * rest / (1 + rest)
    d_z = np.where((wanted > slope / 2) & (others == 0) & (odds == 1), at_winner, slope * p - q)
    factor = (w * d)[:, None] / t * slope_of_map
    loss = w * (mass * np.log1p(rest) - (q * (z - peak)).sum(1, keepdims=True) / t)[:, 0]
    with_z = [loss + w * zeta * lse_[:, 0] ** 2 for lse_ in (lse, size)]
    return with_z[0], factor * d_z, with_z[1], factor * ((mass + 2 * zeta * size) * p + q)


def ulps(got, exact, scale, per=1):
    """Return the worst error, in units of the last place of `scale` and, entry by entry, of `per` such units."""
    tiny = np.finfo(got.dtype).smallest_normal
    error = np.abs(got - exact) / np.spacing(np.maximum(scale, tiny).astype(got.dtype)) / per
    return float(np.max(np.where((scale < tiny) & (np.abs(got) <= tiny), 0, error)))


def problem(names, dtype, n_classes, scale):
    rng = np.random.default_rng(zlib.crc32(repr((sorted(names), np.dtype(dtype).name, n_classes, scale)).encode()))
    n = ELEMENTS // n_classes
    logits = (rng.normal(size=(n, n_classes)) * scale).astype(dtype)
    values = {name: OPTIONS[name].to_ulp for name in sorted(names - {"soft"})}
    options = made({name: some[rng.integers(len(some))] for name, some in values.items()}, rng, n, n_classes)
    index = rng.integers(0, n_classes, n)
    shares = rng.random((n, n_classes)) * (rng.random((n, n_classes)) < rng.choice([0.3, 0.7, 1.0]))
    targets = shares if "soft" in names else index
    dense = shares if "soft" in names else index[:, None] == np.arange(n_classes)
    return logits, targets, dense.astype(REAL), options


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_every_combination_of_options_is_exact_row_by_row_and_class_major(names, dtype):
    for n_classes, scale in itertools.product((1, 2, 3, 8, 20, 100), (0.01, 1, 30)):
        logits, targets, dense, options = problem(names, dtype, n_classes, scale)
        loss, d_logits, loss_scale, d_scale = right(logits, dense, **options)
        for axis, z, t in ((1, logits, targets), (0, logits.T, targets.T)):
            got, d_got = sl.cross_entropy_and_grad(z, t, axis=axis, reduction="none", **options)
            assert ulps(got, loss, loss_scale) <= limit(names, dtype), axis
            assert ulps(np.moveaxis(d_got, axis, 1), d_logits, d_scale) <= limit(names, dtype), axis


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("softcap", [0.5, 30.0, 1e4])
def test_a_soft_cap_costs_single_precision_nothing(softcap, dtype):
    for n_classes, scale in itertools.product((2, 20, 100), (1, 30, 300)):
        logits, targets, dense, _ = problem(frozenset(), dtype, n_classes, scale)
        loss, d_logits, loss_scale, d_scale = right(logits, dense, softcap=softcap)
        got, d_got = sl.cross_entropy_and_grad(logits, targets, softcap=softcap, reduction="none")
        assert ulps(got, loss, loss_scale) <= 1
        assert ulps(d_got, d_logits, d_scale) <= 1


@pytest.mark.parametrize("softcap", [0.3, 0.5, 30.0, 1e4])
def test_a_soft_cap_in_double_precision_costs_as_many_ulp_as_it_is_high(softcap):
    """Capped logits are rounded to float64: an error of an ulp of z is an error of z ulp of exp(z)."""
    for n_classes, scale in itertools.product((2, 20, 100), (1, 30, 300)):
        logits, targets, dense, _ = problem(frozenset(), np.float64, n_classes, scale)
        loss, d_logits, loss_scale, d_scale = right(logits, dense, softcap=softcap)
        got, d_got = sl.cross_entropy_and_grad(logits, targets, softcap=softcap, reduction="none")
        limit = 5 + 4 * min(softcap, float(np.max(np.abs(logits))))
        assert ulps(got, loss, loss_scale) <= limit
        assert ulps(d_got, d_logits, d_scale) <= limit


@pytest.mark.parametrize("lse", [1e150, -1e160, 1e170])
def test_a_z_loss_is_finite_where_lse_squared_is_not(lse):
    z_loss = 1e-40
    assert sl.cross_entropy(np.array([lse]), 0, z_loss=z_loss) == pytest.approx(
        float(REAL(lse) ** 2 * z_loss), rel=1e-15
    )


@pytest.mark.parametrize("softcap", [0.3, 7.7, 30.0, 300.0])
def test_two_classes_under_a_soft_cap_keep_the_same_bound(softcap):
    """Each of two classes has its own rounded logit: here the errors of both can add up."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(-2.0, 2.0, (100_000, 2)) * softcap
    loss, _, scale, _ = right(logits, np.tile([1.0, 0.0], (len(logits), 1)), softcap=softcap)
    got = sl.cross_entropy(logits, np.zeros(len(logits), int), softcap=softcap, reduction="none")
    assert ulps(got, loss, scale) <= 5 + 4 * softcap
