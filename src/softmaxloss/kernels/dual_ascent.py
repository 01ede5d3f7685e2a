"""The entry point for a linear layer that learns from one row after another: dual coordinate ascent.

It minimises a sum of losses and of quadratics. Each feature j has one quadratic, whose minimum is at W_j = V_j. W_j and
V_j are vectors with one number per class:

    sum_i loss_i(z_i) + sum_j |W_j - V_j|**2 / (2 inverse_j),    z_i = sum_j x_ij W_j

At the minimum W_j = V_j - inverse_j sum_i x_ij dual_i, where dual_i is the gradient of loss i with respect to
z_i. The kernel changes one dual_i at a time, and keeps this equation true. It moves dual_i towards the gradient at
the current z_i, by a share s of e = gradient - dual_i:

    dual_i += s e,    W_j -= inverse_j x_ij s e,    so z_i -= s length e,    length = sum_j inverse_j x_ij**2

s = 1 / (1 + length e.H.e / e.e) is Newton's step, where H is the second derivative of the loss at z_i.

Shalev-Shwartz and Zhang, Stochastic Dual Coordinate Ascent Methods for Regularized Loss Minimization, JMLR 2013.
"""

import math
from typing import Any

from softmaxloss.kernels.machine.compilation import fused, inline, kernel
from softmaxloss.kernels.numerics.lanes import clear
from softmaxloss.kernels.row import gradient_of, of_row, q_of_class, rows_of

# The objective, divided by e.e, is a function of s. Its slope is -1 at s = 0. At the s that is taken, its slope must
# not be above this number times s. Without this limit, the step of a row that is far from its class would be far too
# long, because H is 0 there.
TURNED = 0.25


@kernel
def ascend(
    order: Any,
    starts: Any,
    columns: Any,
    values: Any,
    rows: Any,
    scale: float,
    coef: Any,
    intercept: Any,
    inverse: Any,
    dual: Any,
    losses: Any,
    curvatures: Any,
    scratch: Any,
) -> None:
    """Change the duals of rows, one after the other in the given order.

    Fill in the loss of each of these rows, and the sum of p (1 - p) over classes, before the change.

    Features are sparse rows. In the objective, `scale` multiplies the losses; in `losses` it does not. `coef` has a row
    for each feature. With two classes it has one column: the first class has the logit 0. The last number of `inverse`
    is that of the intercept. `scratch` has five rows of logits.
    """
    rows, n_features = rows_of(rows), coef.shape[0]
    first = 1 if intercept.size == 1 else 0  # class with coefficients
    z, p, e, moved, p_moved = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    for i in order:
        label, weight, mass = rows.label[i], of_row(rows.weight, i), of_row(rows.mass, i)
        losses[i] = curvatures[i] = 0.0
        if weight == 0.0:
            continue
        clear(z)
        add(z[first:], 1.0, intercept)
        length = inverse[n_features]
        for a in range(starts[i], starts[i + 1]):
            add(z[first:], values[a], coef[columns[a]])
            length += inverse[columns[a]] * values[a] * values[a]
        lse, square = fill_softmax(z, p), 0.0
        for j in range(z.size):
            q = q_of_class(rows, i, j, label)
            losses[i] += weight * q * (lse - z[j]) if q > 0.0 else 0.0
            curvatures[i] += p[j] * (1.0 - p[j])
            e[j] = scale * weight * gradient_of(p[j], mass, q) - dual[i, j - first] if j >= first else 0.0
            square += e[j] ** 2
        if square == 0.0:
            continue
        slope = scale * weight * mass / square
        step = 1.0 / (1.0 + length * slope * curvature_along(e, p))
        while True:
            clear(moved)
            add(moved, 1.0, z)
            add(moved, -step * length, e)
            fill_softmax(moved, p_moved)
            if not step - 1.0 + slope * fall_along(e, p, p_moved) > TURNED * step:
                break
            step *= 0.5
        add(dual[i], step, e[first:])
        add(intercept, -step * inverse[n_features], e[first:])
        for a in range(starts[i], starts[i + 1]):
            add(coef[columns[a]], -step * (inverse[columns[a]] * values[a]), e[first:])


@fused
def add(total: Any, factor: float, row: Any) -> None:
    """Add a multiple of a row."""
    for k in range(row.size):
        total[k] += factor * row[k]


@inline
def fill_softmax(z: Any, p: Any) -> float:
    """Fill in the softmax of z, and return log(sum(exp(z)))."""
    peak, total = -math.inf, 0.0
    for j in range(z.size):
        peak = max(peak, z[j])
    for j in range(z.size):
        p[j] = math.exp(z[j] - peak)
        total += p[j]
    for j in range(z.size):
        p[j] /= total
    return peak + math.log(total)


@inline
def curvature_along(e: Any, p: Any) -> float:
    """Return e.H.e for the second derivative H = diag(p) - p p.T of log(sum(exp(z)))."""
    mean = square = 0.0
    for j in range(e.size):
        mean += p[j] * e[j]
        square += p[j] * e[j] ** 2
    return square - mean**2


@inline
def fall_along(e: Any, p: Any, p_moved: Any) -> float:
    """Return e.(p - p_moved)."""
    total = 0.0
    for j in range(e.size):
        total += e[j] * (p[j] - p_moved[j])
    return total
