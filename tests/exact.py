"""The layer in exact arithmetic: 1600-bit numbers, on the values as they are given.

A row of any length is cheap as long as it holds few distinct values, so the hard rows of the tests do.
"""

from typing import NamedTuple

import mpmath
import numpy as np

BITS = 1600  # exp(-800), below all doubles, still leaves 1 - exp(-800) with 400 good bits


class Exact(NamedTuple):
    """Numbers as unevaluated sums ``high + low`` of two float64, about 106 bits."""

    high: np.ndarray
    low: np.ndarray


class Row(NamedTuple):
    """What is to be computed for one row of logits z and effective targets q."""

    softmax: Exact
    log_softmax: Exact
    logsumexp: Exact
    loss: Exact
    d_logits: Exact
    d_scale: np.ndarray  # w * (mass * p_j + q_j), the size of the terms of each entry of d_logits


def row(logits, target, *, class_weight=None, label_smoothing=0.0, weight=1.0):
    """Compute one row; `target` is a distribution or the index of a class."""
    z = np.asarray(logits, np.float64)
    n_classes = len(z)
    r = np.ones(n_classes) if class_weight is None else np.asarray(class_weight, np.float64)
    target = np.arange(n_classes) == target if np.ndim(target) == 0 else np.asarray(target, np.float64)
    distinct, inverse, counts = np.unique(np.stack([z, target, r]), axis=1, return_inverse=True, return_counts=True)

    with mpmath.workprec(BITS):
        z, target, r, counts = ([mpmath.mpf(float(x)) for x in values] for values in (*distinct, counts))
        eps, w = mpmath.mpf(label_smoothing), mpmath.mpf(weight)
        q = [r_j * ((1 - eps) * t_j + eps / n_classes) for r_j, t_j in zip(r, target, strict=True)]
        mass = mpmath.fdot(counts, q)

        peak = max(z)
        odds = [mpmath.exp(z_j - peak) if z_j - peak > -BITS / 2 else mpmath.mpf(0) for z_j in z]
        total = mpmath.fdot(counts, odds)
        log_rest = mpmath.log1p(total - 1)
        dot = mpmath.fsum(n * q_j * (z_j - peak) for n, q_j, z_j in zip(counts, q, z, strict=True) if q_j != 0)
        p = [odds_j / total for odds_j in odds]

        def expand(values):
            exact = _exact(values)
            return Exact(exact.high[inverse], exact.low[inverse])

        return Row(
            softmax=expand(p),
            log_softmax=expand([z_j - peak - log_rest for z_j in z]),
            logsumexp=_exact(peak + log_rest),
            loss=_exact(w * (mass * log_rest - dot)),
            d_logits=expand([w * (mass * p_j - q_j) for p_j, q_j in zip(p, q, strict=True)]),
            d_scale=expand([w * (mass * p_j + q_j) for p_j, q_j in zip(p, q, strict=True)]).high,
        )


def _exact(values):
    values = np.array(values, dtype=object)
    high = values.astype(np.float64)
    low = np.where(np.isfinite(high), values - high, 0).astype(np.float64)
    return Exact(high, low)


def ulps(got, exact, *, scale=None):
    """Largest error in units of the last place (of the dtype of `got`) of the exact value, or of `scale`.

    Below the smallest normal number any value not above it will do.
    """
    got = np.asarray(got)
    info = np.finfo(got.dtype)
    high, low = exact
    scale = np.abs(high if scale is None else scale)
    tiny = float(info.smallest_normal)

    last_place = np.ldexp(1.0, np.frexp(np.maximum(scale, tiny))[1] - 1 - info.nmant)
    infinite = np.isinf(got) & (got == np.where(np.abs(high) > info.max, np.copysign(np.inf, high), high))
    may_be_zero = (scale <= tiny * (1 + 4 * info.eps)) & (np.abs(got) <= tiny)
    with np.errstate(invalid="ignore"):  # inf - inf where both are infinite, as they should
        error = np.abs(got.astype(np.float64) - high - low) / last_place
    return float(np.max(np.where(infinite | may_be_zero, 0.0, error), initial=0.0))
