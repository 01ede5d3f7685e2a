"""The temperature at which predictions are as sure as they are right, by Newton's method.

The loss of logits u at the temperature T is convex in beta = 1 / T. Let z = beta u, p = softmax(z), and let d_z be the
gradient of a row's weighted loss with respect to z. The sum of d_z over the classes is 0. Then

    d loss / d beta    = sum_j d_z_j (u_j - u_t)
    d2 loss / d beta2  = w mass sum_j p_j (u_j - mean)**2,    mean = sum_j p_j u_j

Differences are taken from the target t. So a row that is predicted confidently and right has only small terms, and
nothing cancels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import request, with_row_options
from softmaxloss.core.staging import load
from softmaxloss.core.threads import for_each

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.layout import Layout, Piece
    from softmaxloss.core.options import RowOptions, Rows

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

NOT_TAKEN = {
    "temperature": "the function returns it",
    "z_loss": "with it the loss may have more than one minimum",
    "reduction": "the best temperature is the same for all of them",
    "normalizer": "the best temperature is the same for all of them",
}
# Newton's method squares the error: after a step this small, relative to T, only rounding is left.
_LAST_STEP = 1e-9
# Relative to the derivatives of single rows, a sum of this size may be rounding error: it counts as 0.
_ROUNDING = 1e-15


@partial(with_row_options, but=NOT_TAKEN)
def fit_temperature(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> float:
    """Return the temperature that calibrates logits: the one with the smallest cross-entropy.

    Equals ``scipy.optimize.minimize_scalar(lambda T: cross_entropy(logits, targets, temperature=T)).x``, but uses the
    exact derivatives, and needs no bounds. Fit it on rows that the model was not trained on.

    Parameters
    ----------
    logits, targets, axis, **options
        As in `cross_entropy`, without temperature, z_loss, reduction and normalizer. A soft cap comes before the
        temperature.

    Returns
    -------
    float, from 1e-30 to 1e30
        Above 1 for a model that is too sure, below 1 for one that is not sure enough. Exactly 1.0 if the temperature
        changes nothing, because no row counts or because the logits of each row are all equal.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if a row that counts has loss inf or NaN.
    ValueError
        If no temperature is the best. If every target has the highest logit of its row, the best temperature would be
        0. If the logits predict no better than chance, it would be infinite.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    The model is 98 % sure of each row, but right in three of four:

    >>> import numpy as np
    >>> import softmaxloss
    >>> logits, targets = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]), [0, 0, 1, 0]
    >>> temperature = softmaxloss.fit_temperature(logits, targets)
    >>> round(temperature, 3)
    3.641
    >>> softmaxloss.softmax(logits[0], temperature=temperature).round(3)
    array([0.75, 0.25])
    """
    checks.refused(options, NOT_TAKEN)
    z, layout, rows, reduction = request(logits, targets, axis, options)

    def derivatives(temperature: float) -> tuple[float, float]:
        """Return the first and the second derivative of the loss with respect to 1 / T."""
        slopes, curvatures = _derivatives_of_rows(z, layout, rows._replace(temperature=temperature))
        slope, curvature = (reduction.result(values, z.dtype) for values in (slopes, curvatures))
        return slope if abs(slope) > _ROUNDING * np.abs(slopes).sum() else 0.0, curvature

    low, high = checks.TEMPERATURES
    _refuse_infinite(rowwise.losses(z, rows._replace(temperature=high), layout), layout)
    slope, curvature = derivatives(high)
    if slope == curvature == 0.0:
        return 1.0
    if slope >= 0.0:
        raise ValueError(
            "logits must predict the targets better than chance, got logits whose best temperature is infinite; check "
            "that the rows of logits and targets have the same order"
        )
    if derivatives(low)[0] <= 0.0:
        raise ValueError(
            "logits must be wrong in some row, got the highest logit at the target in every row, for which the best "
            "temperature is 0; pass rows that the model was not trained on, or more rows"
        )
    temperature = high
    while True:
        low, high = (low, temperature) if slope < 0.0 else (temperature, high)
        newton = 1.0 / temperature - slope / curvature if curvature > 0.0 else math.inf
        following = 1.0 / newton if 1.0 / high <= newton <= 1.0 / low else math.sqrt(low * high)
        if abs(following - temperature) <= _LAST_STEP * temperature:
            return following
        temperature = following
        slope, curvature = derivatives(temperature)


def _derivatives_of_rows(logits: Array, layout: Layout, rows: Rows) -> tuple[Float64s, Float64s]:
    """Return the derivatives of the weighted loss of each row with respect to 1 / T."""
    rows, by_row = rows.each(), layout.row_by_row
    first, second = np.zeros((2, layout.n_rows))

    def matrix(array: Array, piece: Piece) -> Float64s:
        return by_row.part(array, piece).astype(np.float64).reshape(-1, layout.n_classes)

    def work(piece: Piece) -> None:
        with np.errstate(all="ignore"):
            u = load(matrix(logits, piece), rows.softcap)
            dense = None if rows.dense is None else matrix(rows.dense, piece)
            some = rows.part(piece.rows, dense)._replace(softcap=0.0)  # `load` has applied the cap
            p, d_z, within = np.empty_like(u), np.empty_like(u), layout_of(u.shape)
            rowwise.softmax(u, some, p, within)
            rowwise.losses_and_gradients(u, some, np.array([rows.temperature]), d_z, within)

            t = np.where(some.label < 0, -1 - some.label, some.label)
            gap = u - u[np.arange(len(u)), t, None]
            np.copyto(gap, 0.0, where=~np.isfinite(gap))  # at classes that are masked or have probability 0
            from_mean = gap - np.einsum("ij,ij->i", p, gap)[:, None]
            first[piece.rows] = np.einsum("ij,ij->i", d_z, gap)
            second[piece.rows] = some.weight * some.mass * np.einsum("ij,ij,ij->i", p, from_mean, from_mean)

    for_each(work, by_row.pieces())
    return first, second


def _refuse_infinite(losses: Float64s, layout: Layout) -> None:
    """Refuse a row whose loss is inf or NaN at a high temperature: it is then inf or NaN at every temperature."""
    unknown = ~np.isfinite(losses)
    if unknown.any():
        place = np.unravel_index(int(np.argmax(unknown)), layout.batch_shape)
        where = f" at position {checks.position(place)}" if place else ""
        count = np.count_nonzero(unknown)
        many = f"{count} of {len(losses)} rows {'has' if count == 1 else 'have'} such a loss"
        remedy = "to leave out a row, give it sample_weight 0"
        raise ValueError(
            f"logits must have a finite loss, got {losses[unknown][0]} in the row{where}; {many}; {remedy}"
        )
