"""Derivatives of the loss along vectors and of second order, in double precision, one piece of rows at a time.

With z = f(logits), the slope a = mass + 2 z_loss lse and p = softmax(z), the loss of a row has

    d loss / d z_j         = w (a p_j - q_j)
    d2 loss / d z_j d z_c  = w (a (p_j [j = c] - p_j p_c) + 2 z_loss p_j p_c)

The function f applies the soft cap and the temperature. Its derivatives f' and f'' enter by the chain rule. The winner
k is the class with the highest z. All sums are taken relative to it: sum_j p_j u_j = u_k + sum_j p_j (u_j - u_k). In a
confident row the terms of the second sum are small, and nothing cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.dtypes import result_dtype
from softmaxloss.core.layout import Piece, layout_of
from softmaxloss.core.options import request, with_row_options
from softmaxloss.core.staging import load, multiply_by_cap_slope
from softmaxloss.core.threads import for_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.layout import Layout
    from softmaxloss.core.options import Reduction, RowOptions, Rows

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

# Numbers that each thread holds at once for each logit of its piece.
PIECES_OF_HVP = 16


@with_row_options
def hessian_diagonal(logits: ArrayLike, targets: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]) -> Array:
    """Return the second derivative of the loss with respect to each logit.

    For class indices and the mean they equal ``p * (1 - p) / N`` with ``p = softmax(logits)``. In general, in the
    symbols of `cross_entropy`, with the derivatives f' and f'' of z with respect to the logits, and with the gradient
    d_z with respect to z,

        w * ((sum_c q_c + 2 * z_loss * lse) * p_j * (1 - p_j) + 2 * z_loss * p_j**2) * f'_j**2 + d_z_j * f''_j

    Parameters
    ----------
    logits, targets, axis, **options
        As in `cross_entropy`. Reduction "none" gives the same as "sum", because the loss of a row depends on no other
        row.

    Returns
    -------
    array of the shape and dtype of the logits
        Computed in float64. NaN in rows without a softmax; 0 in rows that take no part, and for masked classes.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning, equation 4.110.

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.hessian_diagonal([[0.3, 2.9, 4.0]], [2]).round(3)
    array([[0.018, 0.185, 0.194]])
    """

    def diagonal(point: _Point, _: Float64s) -> Float64s:
        second = point.slope * point.p * point.not_p + 2 * point.z_loss * point.p**2
        return point.weight * second * (point.d_map / point.temperature) ** 2 + point.d_z * point.d2_map

    return _Problem.of(logits, targets, axis, options).map(diagonal)


@with_row_options
def hvp(
    logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]
) -> Array:
    """Return the product of the Hessian of the loss with a vector.

    For class indices and the mean it equals ``p * (v - (p * v).sum(-1, keepdims=True)) / N`` with
    ``p = softmax(logits)``.

    Parameters
    ----------
    logits, targets, axis, **options
        As in `cross_entropy`. Reduction "none" gives the same as "sum".
    vector : array_like of float, shape of the logits
        Not read in rows that take no part, and for masked classes.

    Returns
    -------
    array of the shape and dtype of the logits
        Computed in float64. NaN in rows without a softmax; 0 in rows that take no part, and for masked classes.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if `vector` does not have the shape of the logits.

    References
    ----------
    Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 6 (1994).

    Examples
    --------
    >>> import softmaxloss
    >>> softmaxloss.hvp([[0.3, 2.9, 4.0]], [2], [[1.0, 0.0, 0.0]]).round(3)
    array([[ 0.018, -0.004, -0.013]])
    """
    problem = _Problem.of(logits, targets, axis, options)
    return problem.map(_hvp_in_rows, problem.direction(vector))


def hvp_of(logits: Array, rows: Rows, vector: Array) -> None:
    """Overwrite a vector by the product of the Hessian of rows of logits (N, V) with it."""
    _Problem(logits, layout_of(logits.shape), rows).map(_hvp_in_rows, vector, out=vector)


@with_row_options
def jvp(
    logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, *, axis: int = -1, **options: Unpack[RowOptions]
) -> tuple[float | Array, float | Array]:
    """Return the loss and its derivative along a vector.

    The derivative equals ``(d_logits * vector).sum()`` with the gradient of `cross_entropy_and_grad`. With reduction
    "none" each row has its own. It keeps its digits even if the entries of the vector are nearly equal.

    Parameters
    ----------
    logits, targets, axis, **options
        As in `cross_entropy`.
    vector : array_like of float, shape of the logits
        Not read in rows that take no part, and for masked classes.

    Returns
    -------
    loss, d_loss : floats, or arrays of the batch's shape for reduction "none"
        As from `cross_entropy`.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if `vector` does not have the shape of the logits.

    Examples
    --------
    >>> import softmaxloss
    >>> loss, d_loss = softmaxloss.jvp([[0.3, 2.9, 4.0]], [2], [[0.0, 0.0, 1.0]])
    >>> round(loss, 3), round(d_loss, 3)
    (0.306, -0.263)
    """
    problem = _Problem.of(logits, targets, axis, options)
    d_losses = np.zeros(problem.layout.n_rows)

    def work(piece: Piece, point: _Point, v: Float64s) -> None:
        u_k, gap = point.relative_to_winner(v)
        terms = np.sum(point.d_z * gap, axis=-1, keepdims=True) + point.weight * point.z_slope * u_k
        d_losses[piece.rows] = np.where(point.live, terms, 0.0)[:, 0]

    problem.for_each_piece(work, problem.direction(vector))
    dtype = problem.logits.dtype
    losses = rowwise.losses(problem.logits, problem.rows, problem.layout)
    return problem.reduction.result(losses, dtype), problem.reduction.result(d_losses, dtype)


class _Point(NamedTuple):
    """Some rows of logits, and the numbers that derivatives at these logits need: arrays of shape (n, V) or (n, 1)."""

    live: NDArray[np.bool_]
    winner: NDArray[np.int64]
    p: Float64s
    not_p: Float64s  # 1 - p
    d_z: Float64s  # of the weighted loss
    d_map: Float64s  # T f', for z = f(logits)
    d2_map: Float64s  # f''
    temperature: float
    weight: Float64s
    slope: Float64s
    z_slope: Float64s  # slope - mass
    z_loss: float

    def relative_to_winner(self, v: Float64s) -> tuple[Float64s, Float64s]:
        """Return u_k and u - u_k for u, the change of z along a vector."""
        u = self.d_map * v  # T times the change: a division first would round away small differences of entries
        u_k = np.take_along_axis(u, self.winner, axis=-1)
        return u_k / self.temperature, (u - u_k) / self.temperature


def _hvp_in_rows(point: _Point, v: Float64s) -> Float64s:
    u_k, gap = point.relative_to_winner(v)
    mean_gap = np.sum(point.p * gap, axis=-1, keepdims=True)
    along_z = point.slope * point.p * (gap - mean_gap) + 2 * point.z_loss * point.p * (u_k + mean_gap)
    along: Float64s = point.weight * along_z * point.d_map / point.temperature
    return along + point.d_z * point.d2_map * v


class _Problem:
    """Logits and the descriptor of their rows. Pieces of them are computed in double precision."""

    reduction: Reduction

    def __init__(self, logits: Array, layout: Layout, rows: Rows) -> None:
        self.logits, self.layout, self.by_row, self.rows = logits, layout, layout.row_by_row, rows.each()
        self.exists = self.rows.class_mask if self.rows.class_mask.size else np.ones(self.layout.n_classes, bool)

    @classmethod
    def of(cls, logits: ArrayLike, targets: ArrayLike, axis: int, options: RowOptions) -> Self:
        """Check the arguments of a public function, and return their problem."""
        z, layout, rows, reduction = request(logits, targets, axis, options)
        problem = cls(z, layout, rows)
        problem.reduction = reduction
        return problem

    def direction(self, vector: ArrayLike) -> Array:
        """Check a vector in the space of the logits, and return it as an array."""
        return checks.vector(vector, self.logits.shape)

    def map(
        self,
        function: Callable[[_Point, Float64s], Float64s],
        direction: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return an array of the shape of the logits, filled with function(point, vector); `out` may be the vector."""
        dtype = result_dtype(self.logits.dtype)
        result = np.empty(self.logits.shape, dtype) if out is None else out

        def work(piece: Piece, point: _Point, v: Float64s) -> None:
            place = self.by_row.part(result, piece)
            place[...] = np.where(point.live & self.exists, function(point, v), 0.0).reshape(place.shape)

        self.for_each_piece(work, direction)
        return result

    def for_each_piece(self, work: Callable[[Piece, _Point, Float64s], None], direction: Array | None) -> None:
        """Call work(piece, point, vector) for all pieces; the vector is 0 in rows of weight 0 and at masked classes."""

        def work_on(piece: Piece) -> None:
            with np.errstate(all="ignore"):
                live = self.rows.weight[piece.rows, None] != 0
                x, v = (self._matrix(array, piece, live & self.exists) for array in (self.logits, direction))
                work(piece, self._point(piece, live, x), v)

        for_each(work_on, self.by_row.pieces())

    def _matrix(self, array: Array | None, piece: Piece, read: NDArray[np.bool_]) -> Float64s:
        """Return the rows of a piece in double precision, with 0 for entries that `read` excludes."""
        matrix = np.zeros((len(read), self.layout.n_classes))
        if array is not None:
            part = self.by_row.part(array, piece)
            read = np.broadcast_to(read, matrix.shape).reshape(part.shape)
            np.copyto(matrix.reshape(part.shape), part, where=read, casting="unsafe")
        return matrix

    def _point(self, piece: Piece, live: NDArray[np.bool_], x: Float64s) -> _Point:
        dense = None if self.rows.dense is None else self._matrix(self.rows.dense, piece, live)
        rows = self.rows.part(piece.rows, dense)._replace(softcap=0.0)  # `load` applies the cap, and d_map is its slope
        z, layout, temperature = load(x, self.rows.softcap), layout_of(x.shape), rows.temperature
        p, d_z = np.empty_like(z), np.empty_like(z)
        rowwise.softmax(z, rows, p, layout)
        rowwise.losses_and_gradients(z, rows, np.array([temperature]), d_z, layout)

        winner = np.where(live & self.exists, z, -np.inf).argmax(-1)
        summary = rowwise.summarize(z, rows.without_targets().with_labels(winner), layout)
        rest, winner = summary.rest[:, None], winner[:, None]
        not_p = 1 - p
        np.put_along_axis(not_p, winner, rest / (1 + rest), axis=-1)
        z_slope = rows.extra_slope(summary.lse(temperature))[:, None]
        d_map, d2_map = np.broadcast_to(1.0, x.shape), np.broadcast_to(0.0, x.shape)
        if self.rows.softcap:
            d_map = np.ones(x.shape)
            multiply_by_cap_slope(d_map, x, self.rows.softcap)
            d2_map = -2 * (z / self.rows.softcap) * d_map / self.rows.softcap / temperature
        weight, mass = rows.weight[:, None], rows.mass[:, None]
        return _Point(
            live, winner, p, not_p, d_z, d_map, d2_map, temperature, weight, mass + z_slope, z_slope, rows.z_loss
        )
