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
    """What is to be computed for one row of logits x.

    Probabilities are those of z, the logits after cap and temperature; derivatives are with respect to x. The scales
    are the sizes of the terms of each entry, which may cancel. The last fields are there if their arguments are given.
    """

    softmax: Exact
    log_softmax: Exact
    logsumexp: Exact
    entropy: Exact
    log_probability: Exact  # of the target: sum_j P_j * log p_j
    loss: Exact
    d_logits: Exact
    d_scale: np.ndarray
    d_log_probs: Exact | None = None  # d_log_prob times the gradient of log_probability, d_entropy times entropy's
    d_log_probs_scale: np.ndarray | None = None  # the largest term
    hessian_diagonal: Exact | None = None
    hessian_scale: np.ndarray | None = None
    hvp: Exact | None = None  # Hessian times vector
    hvp_scale: np.ndarray | None = None
    jvp: Exact | None = None  # slope of the loss along the vector
    jvp_scale: float | None = None


def row(
    logits,
    target,
    *,
    class_weight=None,
    class_mask=None,
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    temperature=1.0,
    weight=1.0,
    vector=None,
    d_log_prob=None,
    d_entropy=None,
):
    """Compute one row; `target` is a distribution or the index of a class."""
    n_classes = len(logits)
    exists = np.ones(n_classes, bool) if class_mask is None else np.asarray(class_mask)
    target = np.arange(n_classes) == target if np.ndim(target) == 0 else target
    columns = [logits, target, 1 if class_weight is None else class_weight, 0 if vector is None else vector]
    columns = np.stack([np.broadcast_to(np.asarray(column, np.float64), n_classes)[exists] for column in columns])
    distinct, inverse, counts = _unique(columns)

    def expand(values, absent=0.0):
        exact = _exact(values)
        high, low = np.full(n_classes, absent), np.zeros(n_classes)
        high[exists], low[exists] = exact.high[inverse], exact.low[inverse]
        return Exact(high, low)

    with mpmath.workprec(BITS):  # arrays stand before numbers, which would first try to make a number of an array
        x, target, r, v, counts = (np.array([mpmath.mpf(float(c)) for c in column]) for column in (*distinct, counts))
        eps, zeta, w = mpmath.mpf(label_smoothing), mpmath.mpf(z_loss), mpmath.mpf(weight)
        z, slope, bend = _map(x, softcap, mpmath.mpf(temperature))
        q = r * (target * (1 - eps) + eps / int(exists.sum()))
        mass = counts @ q

        winner = max(range(len(z)), key=lambda j: z[j])
        gap = z - z[winner]
        odds = np.array([mpmath.exp(gap_j) if gap_j > -BITS / 2 else mpmath.mpf(0) for gap_j in gap])
        total = counts @ odds
        log_rest = mpmath.log1p(total - 1)
        p = odds / total
        lse = z[winner] + log_rest
        b = 2 * zeta * lse
        a = mass + b
        dz, dz_size = p * a - q, p * abs(a) + q

        entropy = log_rest - _total(counts * p, gap)
        first = Row(
            softmax=expand(p),
            log_softmax=expand(gap - log_rest, absent=-np.inf),
            logsumexp=_exact(lse),
            entropy=_exact(entropy),
            log_probability=_exact(_total(counts * target, gap - log_rest)),
            loss=_exact((mass * log_rest - _total(counts * q, gap) + zeta * lse**2) * w),
            d_logits=expand(dz * slope * w),
            d_scale=expand(dz_size * slope * w).high,
        )
        if d_log_prob is not None:
            d_p, d_h = mpmath.mpf(float(d_log_prob)), mpmath.mpf(float(d_entropy))
            log_p = np.array([gap_j - log_rest if p_j else mpmath.mpf(0) for p_j, gap_j in zip(p, gap, strict=True)])
            terms = np.array([d_p * target, -d_p * p, -d_h * p * log_p, -d_h * p * entropy])
            first = first._replace(
                d_log_probs=expand(terms.sum(0) * slope), d_log_probs_scale=expand(abs(terms).max(0) * slope).high
            )
        if vector is None:
            return first

        s = slope * v
        s_w = s[winner]
        d, d_size = s - s_w, np.where(np.arange(len(s)) == winner, mpmath.mpf(0), abs(s) + abs(s_w))
        m, m_size = (counts * p) @ d, (counts * p) @ d_size  # the mean of s is s_w + m
        spread, square = p * (1 - p), p**2 * (2 * zeta)
        along = (d - m) * a + 2 * zeta * (s_w + m)
        along_size = (d_size + m_size) * abs(a) + 2 * zeta * (abs(s_w) + m_size)
        return first._replace(
            hessian_diagonal=expand(((spread * a + square) * slope**2 + dz * bend) * w),
            hessian_scale=expand(((spread * abs(a) + square) * slope**2 + dz_size * abs(bend)) * w).high,
            hvp=expand((p * along * slope + dz * bend * v) * w),
            hvp_scale=expand((p * along_size * slope + dz_size * abs(bend * v)) * w).high,
            jvp=_exact((b * s_w + a * m - (counts * q) @ d) * w),
            jvp_scale=float((abs(b * s_w) + abs(a) * m_size + (counts * q) @ d_size) * w),
        )


def _unique(columns):
    """Return the distinct columns, which of them each column is, and how often each occurs."""
    order = np.lexsort(columns)
    ordered = columns[:, order]
    first = np.flatnonzero(np.r_[True, (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)])
    counts = np.diff(first, append=len(order))
    inverse = np.empty(len(order), int)
    inverse[order] = np.repeat(np.arange(len(first)), counts)
    return ordered[:, first], inverse, counts


def _map(x, softcap, temperature):
    """Return the capped and tempered logits, and their first and second derivatives."""
    one = mpmath.mpf(1)
    if softcap is None:
        return x / temperature, np.full_like(x, one / temperature), np.full_like(x, 0 * one)
    cap = mpmath.mpf(softcap)
    tanh = np.array([mpmath.tanh(x_j / cap) for x_j in x])
    slope = np.array([mpmath.sech(x_j / cap) ** 2 for x_j in x])  # 1 - tanh**2 would cancel
    return tanh * (cap / temperature), slope / temperature, tanh * slope * (-2 / (cap * temperature))


def _total(weights, values):
    """Return sum_j weights_j * values_j, where 0 * -inf is 0."""
    return mpmath.fsum(weight * value for weight, value in zip(weights, values, strict=True) if weight != 0)


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
