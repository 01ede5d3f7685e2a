"""The softmax algebra of one row, seen from its target: effective target q, summary and merge, loss, gradient.

One row of logits z at temperature T against an effective target q, with t the class of the largest q, the target:

    q_j   = r_j ((1 - eps) P_j + eps / V)                 mass = sum_j q_j
    peak  = max_j z_j
    rest  = sum over j != t of exp((z_j - peak) / T)      all but the target
    dot   = sum_j q_j (peak - z_j) / T                    >= 0
    y_t   = exp((z_t - peak) / T)                         the target itself; exactly 1 where it has the highest logit
    total = rest + y_t
    cost  = log(total) = log1p(rest + (y_t - 1))          lse = peak / T + cost
    loss  = w (mass cost + dot + zeta lse**2)             no term is negative: nothing cancels
    a     = mass + 2 zeta lse
    dz_j  = w / T (a exp((z_j - peak) / T) / total - q_j)
    dz_t  = w / T ((a - q_t) - a rest / total)            used where a rest / total <= q_t: its terms are smaller there

The target is known before any logit is read. Where it has the highest logit, `rest` keeps all digits of a tiny loss.
Where another class has the highest logit, mass cost + dot is at least q_t log 2, and q_t is the largest q. So the
rounding of `cost` is small beside it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from softmaxloss.kernels.machine.compilation import by_type, fused, inline
from softmaxloss.kernels.numerics.double_double import double_double, over, plus, rounded, times, two_sum
from softmaxloss.kernels.numerics.exponential import (
    UNSCALE,
    Temperature,
    over_temperature,
    temperature_of,
    times_exp,
)
from softmaxloss.kernels.numerics.logarithm import log_one_plus

# Numba wraps negative indices around, which turns vector loads into gathers; unsigned indices need no wrapping.
UNSIGNED = np.uint64


class RowFields(NamedTuple):
    """The descriptor of N rows over V classes: all that kernels know of targets and options. It holds no logits.

    Arrays come first, then numbers, the temperature last: `rows_of` relies on it.
    """

    label: Any  # (N,) int64: the class with P = 1; or -1 - t: then P is the row of `dense`, and 0 if `dense` is None
    dense: Any  # P of the rows without a label, or None; side by side the fields of a ClassMajor, later a DenseTile
    mass: Any  # (N,), or (1,) for all rows: the sum of q over the classes
    weight: Any  # (N,), or (1,) for all rows: w; a row of weight 0 is never read
    class_weight: Any  # (V,): r, 0 for classes that do not exist; empty where all are 1
    class_mask: Any  # (V,) bool: whether a class exists; empty where all do
    keep: Any = 1.0  # q_j = r_j (keep P_j + floor): label smoothing scales P by keep and adds floor to each class
    floor: Any = 0.0
    favourite: Any = -1.0  # the class with the largest r, which smoothing may make the target of any row; or -1
    z_loss: Any = 0.0  # zeta
    softcap: Any = 0.0  # 0 for none; applied before the kernels
    temperature: Any = 1.0  # T; a kernel turns it into a Temperature


class DenseTile(NamedTuple):
    """The target distributions of a tile of rows that are computed side by side."""

    of_class: Any  # (V, rows of the tile): P


@inline
def with_dense(rows: Any, dense: Any) -> RowFields:
    """Return the same rows with other target distributions."""
    return RowFields(rows.label, dense, *rows[2:])


@inline
def rows_of(fields: Any) -> RowFields:
    """Return the descriptor inside a kernel: `fields` are its arrays, then one array of its numbers."""
    n = fields[-1]
    return RowFields(*fields[:-1], n[0], n[1], n[2], n[3], n[4], temperature_of(n[5]))  # type: ignore[call-arg]


@inline
def of_row(values: Any, i: int) -> float:
    """Return the number of row i, of an array that has one for each row, or one for all."""
    return values[UNSIGNED(i)] if values.size > 1 else values[0]


@inline
def class_weight_of(class_weight: Any, j: int) -> float:
    """Return r_j, which is 1 where no class weights are given."""
    return class_weight[UNSIGNED(j)] if class_weight.size > 0 else 1.0


@by_type
def probability_of(dense: Any, i: int, j: int, label: int) -> Any:
    """Return P_j of row i; see `q_of_class`."""
    if isinstance(dense, types.NoneType):
        return lambda dense, i, j, label: 1.0 if j == label else 0.0
    if isinstance(dense, types.Array):
        return lambda dense, i, j, label: dense[UNSIGNED(i), UNSIGNED(j)]
    return lambda dense, i, j, label: dense.of_class[UNSIGNED(j), UNSIGNED(i)]


@inline
def has_dense_q(rows: Any) -> bool:
    """Return whether q may be positive for other classes than the label."""
    return rows.floor > 0.0 or rows.dense is not None


@fused
def q_of(rows: Any, class_weight: float, probability: float) -> Any:
    """Return q of a class with weight r and probability P: r (keep P + floor)."""
    return class_weight * (rows.keep * probability + rows.floor)


@inline
def q_of_class(rows: Any, i: int, j: int, label: int) -> Any:
    """Return q_j of row i of `rows.dense`, which is row i of a tile if rows are computed side by side."""
    probability = probability_of(rows.dense, i, j, label)
    return q_of(rows, class_weight_of(rows.class_weight, j), probability)


@inline
def target_of(label: int) -> int:
    """Return the target of a row, which `favoured` may replace. A label below 0 stands for the target -1 - label."""
    return label if label >= 0 else -1 - label


@inline
def favoured(rows: Any, label: int, target: int) -> int:
    """Return the favourite class if the row has a label, and smoothing makes its q larger than that of the target.

    Otherwise return the target. `rows.favourite` must not be negative.
    """
    favourite = int(rows.favourite)
    of_favourite = q_of(rows, class_weight_of(rows.class_weight, favourite), 0.0)
    of_target = q_of(rows, class_weight_of(rows.class_weight, target), 1.0)
    return favourite if label >= 0 and of_favourite > of_target else target


@inline
def half_gap(z: float, peak: float) -> float:
    """Return (peak - z) / 2, which is finite even where peak - z overflows; inf for z = -inf, whatever the peak."""
    return 0.5 * peak - 0.5 * z if z > -math.inf else -z


@inline
def dot_of(half_dot: Any, q_target: float, target_logit: float, peak: Any, temperature: Any) -> float:
    """Return dot, given T / 2 times its sum without the target; inf where a class with q > 0 has the logit -inf."""
    at_target = times(plus(double_double(0.5 * np.float64(peak), 0.0, peak), -0.5 * target_logit), q_target)
    total = plus(half_dot, at_target) if q_target > 0.0 else half_dot
    return 2.0 * rounded(over_temperature(total, temperature))


@inline
def cost_of(rest: Any, y_target: float, peak: Any) -> Any:
    """Return log(rest + y_t)."""
    return log_one_plus(rounded(plus(rest, y_target - 1.0)), peak)


@inline
def lse_of(rows: Any, peak: Any, cost: Any) -> Any:
    """Return log(sum(exp(z / T)))."""
    return plus(over_temperature(double_double(np.float64(peak), 0.0, peak), rows.temperature), cost)


@inline
def loss_of(rows: Any, mass: float, weight: float, peak: Any, rest: Any, y_target: float, dot: float) -> Any:
    """Return the loss of a row; NaN where its logits define no softmax."""
    cost = cost_of(rest, y_target, peak)
    loss = plus(times(cost, mass), dot)
    if rows.z_loss > 0.0:
        lse = lse_of(rows, peak, cost)
        loss = plus(loss, times(times(lse, rows.z_loss), lse))  # in this order, as lse**2 may overflow
    loss = rounded(times(loss, weight))
    return loss if math.isfinite(peak) else math.nan


class Factors(NamedTuple):
    """The numbers in a row's gradient f exp((z - peak) / T) - d q, and extra = 2 zeta lse."""

    f: Any
    d: float
    extra: float


@inline
def factors_of(rows: Any, mass: float, weight: float, d_loss: float, peak: Any, rest: Any, y_target: float) -> Factors:
    """Return the factors of a row, NaN where logits define no softmax: d = d_loss w / T and f = d a / total."""
    d = over_temperature(times(double_double(weight, 0.0, peak), d_loss), rows.temperature)
    extra = double_double(0.0, 0.0, peak)
    if rows.z_loss > 0.0:
        extra = times(lse_of(rows, peak, cost_of(rest, y_target, peak)), 2.0 * rows.z_loss)
    f = over(times(d, plus(extra, mass)), plus(rest, y_target))
    nothing = 0.0 if math.isfinite(peak) else math.nan
    return Factors(plus(f, nothing), rounded(d), rounded(extra))


@fused
def gradient_of(exponential: Any, factor: Any, wanted: Any) -> Any:
    """Return the gradient of the loss with respect to one logit: y - t, in general softmax * (a w / T) - q w / T."""
    return exponential * factor - wanted


@inline
def gradient_of_target(mass: float, factors: Factors, rest: Any, y_target: float, q_target: float) -> Any:
    """Return the gradient at the target: dz_t (see the top) where its terms are smaller, else `gradient_of`."""
    f, d, others = rounded(factors.f), factors.d, rounded(factors.f) * rounded(rest)
    near = d * ((mass - q_target) + factors.extra) - others
    is_near = mass + factors.extra > 0.0 and abs(others) <= abs(d * q_target)
    return near if is_near else gradient_of(y_target, f, d * q_target)


@by_type
def split(f: Any, below: Any, like: Any) -> Any:
    """Return two numbers whose product is f * below / SCALE.

    If exponentials are multiplied by one, then by the other, no step underflows, and their bits are kept.

    The first is 1, unless the product is no normal number in the precision of the array `like`, or too large for it.
    """
    limits = np.finfo(np.float32 if like.dtype == types.float32 else np.float64)
    smallest, largest, most = float(limits.tiny), float(limits.max), 2.0 ** (limits.maxexp - 1)

    def implementation(f: Any, below: Any, like: Any) -> tuple[float, float]:
        size = abs(rounded(f)) * rounded(below) * UNSCALE
        first = 4.0 * smallest if size < smallest else most if size > largest else 1.0
        second = rounded(times(times(f, UNSCALE / first), below))
        # inf times an exponential that is 0 would be NaN
        return first, math.copysign(largest, second) if abs(second) > largest else second

    return implementation


@inline
def merged(parts: Any, i: int, temperature: Temperature) -> tuple[float, float, float, float, float, float]:
    """Merge the summaries of row i over disjoint sets of classes, which are stacked in arrays (parts, rows).

        peak = max_b peak_b
        rest = sum_b exp((peak_b - peak) / T) rest_b, plus exp((z_t - peak) / T) of each target but the one that stays
        dot  = sum_b dot_b + mass_b (peak - peak_b) / T

    The target of the part with the largest q_t stays the target.
    """
    n_parts, peak, target = parts.peak.shape[0], -math.inf, 0
    for b in range(n_parts):
        peak = parts.peak[b, i] if parts.peak[b, i] > peak or math.isnan(parts.peak[b, i]) else peak
        more = parts.q_target[b, i] - parts.q_target[target, i]
        if more > 0.0 or (more == 0.0 and parts.target_logit[b, i] > parts.target_logit[target, i]):
            target = b
    rest = low_rest = dot = low_dot = mass = 0.0
    for b in range(n_parts):
        mass += parts.mass[b, i]
        dot, error = two_sum(dot, parts.dot[b, i])
        low_dot += error
        if peak == -math.inf:
            continue
        rest, error = two_sum(rest, times_exp(parts.rest[b, i], parts.peak[b, i], peak, temperature))
        low_rest += error
        if b != target:
            rest, error = two_sum(rest, times_exp(1.0, parts.target_logit[b, i], peak, temperature))
            low_rest += error
        if parts.mass[b, i] > 0.0:
            gap = half_gap(parts.peak[b, i], peak)
            dot, error = two_sum(dot, parts.mass[b, i] * gap / (0.5 * temperature.value))
            low_dot += error
    dot = dot + low_dot if dot < math.inf else dot
    return peak, rest + low_rest, dot, mass, parts.target_logit[target, i], parts.q_target[target, i]
