"""Softmax with loss in plain NumPy: the mathematics of the library, and the oracle of its tests.

Read this file to learn what the layer computes, and the rest of the package to learn how it is computed fast. The
functions have the names and the options of the public ones, and share no code with them. They lack `out` and
`max_memory`, which are about memory, and `wrt`. They compute in float64 and do not check their arguments. Differences
of logits beyond 1.8e308, which float64 cannot hold, become infinite here.

If there is a soft cap or a temperature, logits ``x`` become ``z = softcap * tanh(x / softcap) / temperature``. The
effective target ``q`` says how much the row is trained towards each class. The target ``t`` is the class with the
largest ``q``. For a row of ``z`` over ``V`` classes:

    peak  = max_j z_j
    y     = exp(z - peak)                            1 for the class of the highest logit, less for all others
    rest  = sum over j != t of y_j                   all but the target
    cost  = log(rest + y_t) = log1p(rest + (y_t - 1))
    loss  = sum_j q_j * (peak - z_j) + mass * cost   for a label -log p_t, and no term is negative

Why not the usual ``log(sum(exp(z))) - z_t``? Where the target has the highest logit, the sum of ``y`` is ``1 + rest``,
and a small ``rest`` is lost when 1 is added: logits ``[0, -40]`` with target 0 would have loss 0 instead of 4.25e-18.
Kept on its own, ``rest`` has all its digits. ``log1p(rest)`` keeps them, and so do the loss and its derivatives. If
another class has the highest logit, the loss is not small. And only differences of logits are used (except in the
z-loss), so a large number added to all of them changes nothing.

The file has over 300 lines, because the whole mathematics stands in one place.
"""

# The names are those of the formulas, capitals included.
# ruff: noqa: N806

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Indices = NDArray[np.intp]

__all__ = [
    "Metrics",
    "cross_entropy",
    "cross_entropy_and_grad",
    "hessian_diagonal",
    "hvp",
    "jvp",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "log_probs",
    "log_probs_and_grad",
    "log_softmax",
    "logsumexp",
    "metrics",
    "softmax",
]


class _Rows(NamedTuple):
    """Targets and options of each row, turned into numbers before any logit is read.

    The classes are on the last axis. Classes that `class_mask` leaves out are removed: V counts the others.
    """

    q: Array  # (..., V), the effective target
    mass: Array  # (..., 1), the sum of q
    weight: Array  # (..., 1), multiplies the loss of the row; 0 if the row does not count
    z_loss: float
    softcap: float | None
    temperature: float
    reduction: str
    shape: tuple[int, ...]  # the shape of the logits
    axis: int
    classes: Indices  # (V,), the places of the classes on that axis

    def read(self, array: ArrayLike) -> Array:
        """Return an array of the logits' shape as (..., V), with 0 in rows of weight 0, whatever they hold."""
        values = np.moveaxis(np.asarray(array, np.float64), self.axis, -1)
        return np.where(self.weight == 0, 0.0, values.take(self.classes, -1))

    def write(self, values: Array) -> Array:
        """Return (..., V) as an array of the logits' shape, with 0 for the classes left out."""
        array = np.zeros(self.shape)
        np.moveaxis(array, self.axis, -1)[..., self.classes] = values
        return array

    def reduce(self, losses: Array) -> Array | float:
        """Return losses (..., 1) as one number per row, or their sum."""
        return losses[..., 0] if self.reduction == "none" else float(losses.sum())


class _View(NamedTuple):
    """Numbers computed from rows of logits, in which one class of each row is kept apart."""

    winner: Indices  # (..., 1), k, the class of the highest logit, the lowest index on a tie
    gap: Array  # (..., V), z_j - peak, never positive
    p: Array  # (..., V), the softmax
    not_p: Array  # (..., V), 1 - p
    cost: Array  # (..., 1), log(rest + y_t)
    lse: Array  # (..., 1), peak + cost
    slope: Array  # (..., V), du_j / dx_j for u = z * temperature
    bend: Array  # (..., V), d2z_j / dx_j2


def _rows(
    shape: tuple[int, ...],
    targets: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    class_mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: str = "mean",
    normalizer: float | None = None,
) -> _Rows:
    classes = np.arange(shape[axis]) if class_mask is None else np.flatnonzero(class_mask)
    V, eps, t = len(classes), label_smoothing, np.asarray(targets)
    w = np.ones(np.delete(shape, axis)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    r = np.ones(V) if class_weight is None else np.asarray(class_weight, np.float64)[classes]

    if t.ndim < len(shape):  # class indices become one-hot rows, so both give the same bits
        w = np.where(t == ignore_index, 0.0, w)
        t = t[..., None] == classes
    else:
        t = np.moveaxis(t, axis, -1).take(classes, -1)
    w = w[..., None]
    P = np.where(w == 0, 0.0, t.astype(np.float64))  # a row of weight 0 is not read, whatever it holds

    q = r * ((1 - eps) * P + eps / V)
    if reduction == "mean":
        divisor = np.sum(w * r * P) if normalizer is None else normalizer
        w = w / divisor if divisor > 0 else np.zeros_like(w)  # the mean over nothing is 0
    return _Rows(q, q.sum(-1, keepdims=True), w, z_loss, softcap, temperature, reduction, shape, axis, classes)


def _view(x: Array, q: Array | None = None, softcap: float | None = None, temperature: float = 1.0) -> _View:
    """Return the `_View` of rows that keeps apart the class with the largest q; without q, the winner."""
    u, slope, bend = x, np.ones_like(x), np.zeros_like(x)  # u = z * temperature, for exact gaps
    if softcap is not None:
        tanh, e = np.tanh(x / softcap), np.exp(-2 * np.abs(x / softcap))
        u, slope = softcap * tanh, 4 * e / (1 + e) ** 2  # 1 - tanh**2 would cancel
        bend = -2 * tanh * slope / softcap

    winner = u.argmax(-1, keepdims=True)
    top = u.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, np.nan)  # no finite winner, no softmax: the whole row is NaN
    with np.errstate(over="ignore"):  # a gap beyond the largest number is -inf, and its exp is 0
        peak, gap = top / temperature, (u - top) / temperature
    y = np.exp(gap)

    def without(k: Indices) -> Array:
        """Return the sum of y over all classes but k."""
        total: Array = np.sum(y * (np.arange(x.shape[-1]) != k), -1, keepdims=True)
        return total

    t = winner if q is None else np.where((q > 0).any(-1, keepdims=True), q.argmax(-1, keepdims=True), winner)
    rest, y_t = without(t), np.take_along_axis(y, t, -1)
    total, cost = rest + y_t, np.log1p(rest + (y_t - 1))
    not_p = 1 - y / total
    for k in (t, winner):
        np.put_along_axis(not_p, k, without(k) / total, -1)
    return _View(winner, gap, y / total, not_p, cost, peak + cost, slope, bend / temperature)


def _rows_and_view(logits: ArrayLike, targets: ArrayLike, **options: Any) -> tuple[_Rows, _View]:
    rows = _rows(np.shape(logits), targets, **options)
    return rows, _view(rows.read(logits), rows.q, rows.softcap, rows.temperature)


def _total(weight: Array, values: Array) -> Array:
    """Return ``sum_j weight_j * values_j``, where 0 * -inf counts as 0."""
    total: Array = (weight * np.where(weight == 0, 0.0, values)).sum(-1, keepdims=True)
    return total


def softmax(logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0) -> Array:
    """Turn logits into probabilities, ``p_j = y_j / (rest + y_t)``.

    Examples
    --------
    >>> softmax([0.0, 0.0, -np.inf]).tolist()
    [0.5, 0.5, 0.0]
    """
    view = _view(np.moveaxis(np.asarray(logits, np.float64), axis, -1), temperature=temperature)
    return np.moveaxis(view.p, -1, axis)


def log_softmax(logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0) -> Array:
    """Return log-probabilities, ``log p_j = (z_j - peak) - cost``. No term is positive, so nothing cancels."""
    view = _view(np.moveaxis(np.asarray(logits, np.float64), axis, -1), temperature=temperature)
    return np.moveaxis(view.gap - view.cost, -1, axis)


def logsumexp(logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0) -> Array:
    """Return ``log(sum_j exp(z_j)) = peak + cost`` of each row: inf or -inf for some rows that have no softmax."""
    x = np.moveaxis(np.asarray(logits, np.float64), axis, -1)
    largest = x.max(-1)
    return np.where(np.isinf(largest), largest, _view(x, temperature=temperature).lse[..., 0])


@np.errstate(over="ignore")  # a loss beyond the largest number is inf
def _losses(rows: _Rows, view: _View) -> Array:
    z_loss = rows.z_loss * view.lse * view.lse
    return rows.weight * (rows.mass * view.cost - _total(rows.q, view.gap) + z_loss)


def _in_z(rows: _Rows, view: _View) -> tuple[Array, Array, Array]:
    """Return ``b = 2 * zeta * lse``, ``a = mass + b``, and the gradient of rows with respect to z, without weights."""
    b = 2 * rows.z_loss * view.lse
    a = rows.mass + b
    # For a likely class with q > 0, a * p is close to q, and a * p - q would cancel. With p = 1 - not_p it does not:
    near = (a > 0) & (a * view.not_p <= rows.q)
    dz = np.where(near, (rows.mass - rows.q) + b - a * view.not_p, a * view.p - rows.q)
    return b, a, dz


def cross_entropy(logits: ArrayLike, targets: ArrayLike, **options: Any) -> Array | float:
    """Return the loss alone; see `cross_entropy_and_grad`."""
    return cross_entropy_and_grad(logits, targets, **options)[0]


def cross_entropy_and_grad(
    logits: ArrayLike, targets: ArrayLike, *, upstream: ArrayLike | None = None, **options: Any
) -> tuple[Array | float, Array]:
    """Return softmax cross-entropy and its gradient with respect to the logits.

    With target distribution P, class weights r, smoothing eps, z-loss factor zeta and row weight w,

        q_j  = r_j * ((1 - eps) * P_j + eps / V),   mass = sum_j q_j
        lse  = peak + cost,                         a = mass + 2 * zeta * lse
        loss = w * (sum_j q_j * (peak - z_j) + mass * cost + zeta * lse**2)
        dx_j = w * (a * p_j - q_j) * dz_j / dx_j

    For a one-hot target without options, the loss is ``-log p_t``, and dx is the well-known ``y - t``.

    Parameters
    ----------
    logits
        Numbers with the V classes on the axis `axis`, by default the last one; (...) stands for the shape without it.
    targets
        Class indices of shape (...), or target distributions of the shape of the logits.
    upstream
        Derivative of the final objective with respect to this loss: a number, or with reduction "none" one per row.
    **options
        `class_weight` of shape (V,) and `sample_weight` of shape (...);
        `ignore_index`, the class index of rows of weight 0; `class_mask` of shape (V,), False for classes that
        do not exist; `label_smoothing`, `z_loss`, `softcap`, `temperature`;
        `reduction`, "none", "mean" or "sum". The mean divides by ``sum_i w_i * sum_c r_c * P_ic`` or by `normalizer`.

    Returns
    -------
    loss
        One number, or with reduction "none" one per row.
    d_logits
        Gradient, of the shape of `logits`.

    Examples
    --------
    >>> loss, d_logits = cross_entropy_and_grad([[0.0, -40.0]], [0])
    >>> print(f"{loss:.4e}", d_logits)
    4.2484e-18 [[-4.24835426e-18  4.24835426e-18]]
    """
    rows, view = _rows_and_view(logits, targets, **options)
    _, _, dz = _in_z(rows, view)
    d_loss = 1.0 if upstream is None else np.asarray(upstream, np.float64)[..., None]
    return rows.reduce(_losses(rows, view)), rows.write(d_loss * rows.weight * dz * view.slope / rows.temperature)


def linear_cross_entropy(
    features: ArrayLike, weight: ArrayLike, targets: ArrayLike, bias: ArrayLike | None = None, **options: Any
) -> Array | float:
    """Return the loss alone; see `linear_cross_entropy_and_grad`."""
    return linear_cross_entropy_and_grad(features, weight, targets, bias, **options)[0]


def linear_cross_entropy_and_grad(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    upstream: ArrayLike | None = None,
    **options: Any,
) -> tuple[Array | float, tuple[Array, Array, Array]]:
    """Return the loss of the logits ``features @ weight.T + bias`` and its gradients with respect to these three.

    It consists of three matrix products and `cross_entropy_and_grad`, which documents the options.

    Parameters
    ----------
    features
        Numbers of shape (..., D).
    weight
        Numbers of shape (V, D): a row for each class.
    targets
        Class indices of shape (...), or target distributions of shape (..., V).
    bias
        Numbers of shape (V,).

    Returns
    -------
    loss
        One number, or with reduction "none" one per row.
    gradients
        With respect to `features`, `weight` and `bias`.
    """
    W = np.asarray(weight, np.float64)
    X = np.asarray(features, np.float64)
    rows = _rows((*X.shape[:-1], len(W)), targets, **options)
    # 0 * NaN is NaN: rows of weight 0 and masked classes must not change the sums over rows and over classes.
    X = np.where(rows.weight == 0, 0.0, X)
    W = np.where(np.isin(np.arange(len(W)), rows.classes)[:, None], W, 0.0)

    z = X @ W.T + (0.0 if bias is None else np.asarray(bias, np.float64))
    loss, dz = cross_entropy_and_grad(z, targets, upstream=upstream, **options)
    dz_rows, X_rows = dz.reshape(-1, len(W)), X.reshape(-1, X.shape[-1])
    return loss, (dz @ W, dz_rows.T @ X_rows, dz_rows.sum(0))


def hessian_diagonal(logits: ArrayLike, targets: ArrayLike, **options: Any) -> Array:
    """Return the second derivative of the loss with respect to each logit, in the shape of the logits.

    In the symbols of `cross_entropy_and_grad`, and for w = 1,

        d2loss / dz_j2 = a * p_j * (1 - p_j) + 2 * zeta * p_j**2
        d2loss / dx_j2 = d2loss / dz_j2 * (dz_j / dx_j)**2 + dloss / dz_j * d2z_j / dx_j2
    """
    rows, view = _rows_and_view(logits, targets, **options)
    _, a, dz = _in_z(rows, view)
    in_z = a * view.p * view.not_p + 2 * rows.z_loss * view.p**2
    return rows.write(rows.weight * (in_z * (view.slope / rows.temperature) ** 2 + dz * view.bend))


def _along(rows: _Rows, view: _View, vector: ArrayLike) -> tuple[Array, Array, Array, Array]:
    """Return v, s_k, s - s_k, and the mean of s - s_k.

    v is a direction in x, and s_j = dz_j / dx_j * v_j is the direction in z. k is the winner. If the winner is likely,
    the mean of s agrees with s_k in nearly all digits. So the differences s - s_k are taken first, then their mean.
    """
    v = rows.read(vector)
    u = view.slope * v  # the division by the temperature, which rounds, comes later
    u_k = np.take_along_axis(u, view.winner, -1)
    s = (u - u_k) / rows.temperature
    return v, u_k / rows.temperature, s, np.sum(view.p * s, -1, keepdims=True)


def hvp(logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, **options: Any) -> Array:
    """Return the Hessian of the loss with respect to the logits, times a vector of the shape of the logits.

    Rows do not interact. Let H be the Hessian of a row with respect to z, and m = sum_j p_j * s_j the mean of s. Then

        H_ij    = a * p_i * ((i == j) - p_j) + 2 * zeta * p_i * p_j
        (H s)_j = a * p_j * (s_j - m) + 2 * zeta * p_j * m
    """
    rows, view = _rows_and_view(logits, targets, **options)
    (_, a, dz), (v, s_k, s, m) = _in_z(rows, view), _along(rows, view, vector)
    in_z = a * view.p * (s - m) + 2 * rows.z_loss * view.p * (s_k + m)
    return rows.write(rows.weight * (in_z * view.slope / rows.temperature + dz * view.bend * v))


def linear_hvp(
    features: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    vector: tuple[ArrayLike | None, ArrayLike | None, ArrayLike | None],
    bias: ArrayLike | None = None,
    **options: Any,
) -> tuple[Array, Array, Array]:
    """Return the Hessian of the loss with respect to (features, weight, bias), times a vector of three such parts.

    Along the vector the logits change by u. Let H be the Hessian with respect to the logits, h = H u, and dz the
    gradient with respect to the logits. Then

        d_features = h @ weight + dz @ v_weight,    d_weight = h.T @ features + dz.T @ v_features,    d_bias = sum h
    """
    x, w = np.asarray(features, np.float64), np.asarray(weight, np.float64)
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64)
    given = zip(vector, (x, w, b), strict=True)
    v_x, v_w, v_b = (np.zeros_like(a) if v is None else np.asarray(v, np.float64) for v, a in given)
    logits, u = x @ w.T + b, v_x @ w.T + x @ v_w.T + v_b
    h = hvp(logits, targets, u, **options)
    _, dz = cross_entropy_and_grad(logits, targets, **options)
    flat_h, flat_dz, flat_x, flat_v = (a.reshape(-1, a.shape[-1]) for a in (h, dz, x, v_x))
    return h @ w + dz @ v_w, flat_h.T @ flat_x + flat_dz.T @ flat_v, flat_h.sum(0)


def jvp(logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, **options: Any) -> tuple[Any, Any]:
    """Return the loss and its derivative along a vector of the shape of the logits, reduced as the loss is.

    With s and m as in `hvp` the derivative of a row is ``sum_j dloss / dz_j * s_j = a * m - sum_j q_j * s_j``.
    """
    rows, view = _rows_and_view(logits, targets, **options)
    (b, a, _), (_, s_k, s, m) = _in_z(rows, view), _along(rows, view, vector)
    d_losses = rows.weight * (b * s_k + a * m - np.sum(rows.q * s, -1, keepdims=True))
    return rows.reduce(_losses(rows, view)), rows.reduce(d_losses)


class Metrics(NamedTuple):
    """How good predictions are: weighted means over rows, and three numbers per row."""

    loss: float  # mean of -log p_t, in nats
    perplexity: float  # exp(loss)
    accuracy: float
    top_k: dict[int, float]  # k -> fraction of the weight in rows with rank <= k
    entropy: float  # mean of -sum_j p_j * log p_j, in nats
    argmax: Indices  # (...), the class predicted
    rank: Indices  # (...), the rank of the target, from 1; of equal logits the lower index ranks first
    log_probability: Array  # (...), log p_t


@np.errstate(over="ignore")  # a perplexity beyond the largest number is inf
def metrics(logits: ArrayLike, targets: ArrayLike, *, topk: tuple[int, ...] = (1, 5), **options: Any) -> Metrics:
    """Return how good predictions are for targets that are class indices or one-hot rows.

    The entropy of a row is ``cost + sum_j p_j * (peak - z_j)``, with the winner kept apart. Means over nothing are 0. A
    row of weight 0 has argmax -1, rank 0 and log-probability 0. A row without a softmax has argmax -1, a rank beyond
    all classes and log-probability NaN. The options are `axis`, `class_mask`, `ignore_index`, `sample_weight`,
    `softcap` and `temperature`.
    """
    rows, view = _rows_and_view(logits, targets, reduction="sum", **options)
    x, n_classes = rows.read(logits), rows.shape[rows.axis]
    t = rows.q.argmax(-1, keepdims=True)
    x_t = np.take_along_axis(x, t, -1)
    # Soft cap and temperature keep the order of the logits, but rounding could make logits equal: compare x, not z.
    rank = 1 + np.sum((x > x_t) | ((x == x_t) & (np.arange(x.shape[-1]) < t)), -1)
    log_p = (np.take_along_axis(view.gap, t, -1) - view.cost)[..., 0]
    from_winner = _view(x, None, rows.softcap, rows.temperature)
    entropy = (from_winner.cost - _total(from_winner.p, from_winner.gap))[..., 0]

    w = rows.weight[..., 0]
    argmax = np.where((w == 0) | np.isnan(log_p), -1, rows.classes[x.argmax(-1)])
    rank = np.where(w == 0, 0, np.where(np.isnan(log_p), n_classes + 1, rank))
    log_p = np.where(w == 0, 0.0, log_p)

    def mean(values: NDArray[Any]) -> float:
        return float(np.sum(w * values) / w.sum()) if w.any() else 0.0

    loss, top_k = mean(np.abs(log_p)), {k: mean(rank <= min(k, n_classes)) for k in topk}
    return Metrics(loss, float(np.exp(loss)), mean(rank == 1), top_k, mean(entropy), argmax, rank, log_p)


def log_probs(logits: ArrayLike, targets: ArrayLike, **options: Any) -> tuple[Array, Array]:
    """Return the log-probability of each target and the entropy of each row; the options are those of `metrics`."""
    return log_probs_and_grad(logits, targets, **options)[0]


def log_probs_and_grad(
    logits: ArrayLike, targets: ArrayLike, *, d_log_prob: ArrayLike = 1.0, d_entropy: ArrayLike = 0.0, **options: Any
) -> tuple[tuple[Array, Array], Array]:
    """Return log-probabilities and entropies, and the gradient of a function of them, given its derivatives.

    The gradient of ``log p_t`` with respect to z is minus that of a loss. Let x_j = peak - z_j, which is never
    negative, and m = sum_j p_j * x_j. Then the entropy H is ``cost + m``, and its gradient is
    ``-p_j * (log p_j + H) = p_j * (x_j - m)``.
    """
    rows, view = _rows_and_view(logits, targets, reduction="none", **options)
    from_winner = _view(rows.read(logits), None, rows.softcap, rows.temperature)
    x = np.where(view.p == 0, 0.0, -view.gap)
    mean = _total(from_winner.p, x)
    live = rows.weight[..., 0] != 0
    log_prob = np.where(live, -_losses(rows, view)[..., 0], 0.0)
    entropy = np.where(live, (from_winner.cost + mean)[..., 0], 0.0)
    d_p, d_h = (np.broadcast_to(d, live.shape)[..., None] for d in (d_log_prob, d_entropy))
    dz = -d_p * _in_z(rows, view)[2] + d_h * view.p * (x - mean)
    return (log_prob, entropy), rows.write(np.where(live[..., None], dz, 0.0) * view.slope / rows.temperature)
