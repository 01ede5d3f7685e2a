"""The sums of a row of logits, in which one class, t, is kept apart from all others; softmax and log-softmax.

For a row of logits x at temperature T, the peak and all sums leave t out:

    peak  = max over j != t of x_j
    y_j   = exp((x_j - peak) / T)                     0 for t itself
    rest  = sum_j y_j                                 >= 1: the others, relative to the largest of them
    d     = (peak - x_t) / T
    odds  = rest exp(d)                               the odds of the others against t
    cost  = log1p(odds)                               -log p_t
    miss  = odds / (1 + odds)                         1 - p_t
    p_j   = y_j miss / rest

The odds may overflow. So small = 1 / odds replaces them where the others outweigh t (`far`). Elsewhere small = odds:

    cost  = log1p(small); where far, d + log(rest) + log1p(small): no term is negative
    miss  = small / (1 + small); where far, 1 / (1 + small)

`Others` holds peak and y of all classes or of some. `View` is computed from x_t, peak and rest of the whole row.

The peak only keeps exp in range: in exact arithmetic, the result does not depend on it. So the derivative of the peak
cancels out of every derivative of the result. If two logits are equally high, automatic differentiation may take either
as the peak.

Infinite numbers are replaced before they are used, not after: a derivative passes through both branches of `where`,
and 0 times inf would be NaN.
"""

from __future__ import annotations

from math import frexp, inf, ldexp, nan
from typing import Any, NamedTuple

from array_api_compat import array_namespace

__all__ = ["Frame", "Others", "View", "at", "frame_of", "log_softmax", "logsumexp", "others_of", "softmax", "view"]

Array = Any  # of any namespace


class Frame(NamedTuple):
    """The place of the classes in an array of logits, and the namespace, dtype and device of the computation."""

    xp: Any  # the namespace
    axis: int  # the axis of the classes, counted from the front
    row_shape: tuple[int, ...]  # shape of one number per row: that of the logits, with length 1 on `axis`
    dtype: Any  # the dtype of the computation
    device: Any  # the device of new arrays
    index: Array  # the classes along the axis: 0, ..., V - 1, or a block of them
    first: int | Array | None = None  # first class of the block; None if there is no block

    def numbers(self, values: float | Array) -> Array:
        """Return an array, or a Python number, in the dtype of the computation."""
        if isinstance(values, (int, float)):
            return self.xp.asarray(values, dtype=self.dtype, device=self.device)
        return self.xp.astype(values, self.dtype, copy=False)

    def per_class(self, array: Array) -> Array:
        """Return an array of shape (V,) in a shape whose class axis has length V, and all other axes length 1."""
        return self.xp.reshape(array, self.index.shape)

    def per_row(self, array: Array) -> Array:
        """Return an array of the batch's shape with a further axis of length 1 at the place of the classes."""
        return self.xp.expand_dims(array, axis=self.axis)

    def highest(self, array: Array) -> Array:
        """Return the class of the largest number of each row."""
        return self.xp.astype(self.xp.argmax(array, axis=self.axis, keepdims=True), self.index.dtype, copy=False)

    def of_class(self, array: Array, index: Array) -> Array:
        """Return the number of one class of each row."""
        if hasattr(self.xp, "gather"):  # torch.compile would compile PyTorch's take_along_axis for each number of rows
            return self.xp.gather(array, self.axis, index)
        return self.xp.take_along_axis(array, index, axis=self.axis)

    def total(self, array: Array) -> Array:
        """Return the sum over the classes."""
        return self.xp.sum(array, axis=self.axis, keepdims=True)


def frame_of(logits: Array, axis: int, xp: Any = None) -> Frame:
    """Return the frame of logits: half precision is computed in float32."""
    xp = array_namespace(logits) if xp is None else xp
    axis %= logits.ndim
    dtype = xp.float64 if logits.dtype == xp.float64 else xp.float32
    is_jax = xp.__name__ == "jax.numpy"  # JAX places new arrays itself; traced and sharded arrays have no single device
    device = None if is_jax else getattr(logits, "device", None)  # arrays of NumPy 1 have no device
    lengths = [1] * logits.ndim
    lengths[axis] = logits.shape[axis]
    narrow = xp.int32 if is_jax else None  # in loops over float32, comparisons of int64 would take twice as long
    index = xp.reshape(xp.arange(logits.shape[axis], dtype=narrow, device=device), tuple(lengths))
    row_shape = (*logits.shape[:axis], 1, *logits.shape[axis + 1 :])
    return Frame(xp, axis, row_shape, dtype, device, index)


class Others(NamedTuple):
    """All classes of each row except t: arrays in the shape of the logits, and one peak per row."""

    is_t: Array  # whether this is the class t
    peak: Array  # per row
    gap: Array  # (x_j - peak) / T; -inf for t
    y: Array  # exp(gap)


def others_of(frame: Frame, x: Array, t: Array, temperature: float, peak: Array | None = None) -> Others:
    """Return the `Others` of logits x, relative to the highest of them or to a given peak."""
    is_t = frame.index == t
    x = frame.xp.where(is_t, -inf, x)
    if peak is None:
        peak = frame.xp.max(x, axis=frame.axis, keepdims=True)
    gap = x - frame.xp.where(peak == -inf, 0.0, peak)
    gap = gap if temperature == 1 else gap / temperature
    return Others(is_t, peak, gap, frame.xp.exp(gap))


class View(NamedTuple):
    """The class t of each row and the sums of all other classes, combined: arrays of one number per row."""

    peak: Array
    share: Array  # p_j / y_j, the same for all j but t
    p_t: Array
    miss: Array  # 1 - p_t
    cost: Array  # -log p_t
    excess: Array  # lse - peak / T, so -log p_j is excess - gap_j
    lse: Array  # log(sum_j exp(x_j / T))


def view(frame: Frame, x_t: Array, peak: Array, rest: Array, temperature: float) -> View:
    """Return the `View` of rows; NaN where the logits define no softmax."""
    xp, where = frame.xp, frame.xp.where
    x_t = where(x_t == inf, nan, x_t)  # an inf among the others becomes NaN anyway: inf - inf
    peak = where(peak == -inf, x_t, peak)  # no class but t has a probability above 0
    some = where(rest == 0, 1.0, rest)
    log_rest = xp.log(some)
    d, lost = _difference(frame, peak, x_t, temperature)
    far = d + log_rest > 0
    ratio = xp.exp(where(far, -d, d)) * (1 + where(far, -lost, lost))  # exp(d), or exp(-d) where far
    small = where(far, ratio / some, ratio * rest)
    more = where(far, log_rest, 0.0) + xp.log1p(small)
    return View(
        peak,
        share=where(far, 1 / some, ratio) / (1 + small),
        p_t=where(far, small, 1.0) / (1 + small),
        miss=where(far, 1.0, small) / (1 + small),
        cost=where(far, d, 0.0) + more,
        excess=where(far, 0.0, -d) + more,
        lse=where(far, peak, x_t) / temperature + more,
    )


def at(frame: Frame, x: Array, t: Array) -> Array:
    """Return the logit of the class t of each row; 0 where t is not among the classes of a block."""
    xp = frame.xp
    if frame.first is None:
        return frame.of_class(x, t)
    place, last = t - frame.first, frame.index.shape[frame.axis] - 1
    here = frame.of_class(x, xp.clip(place, 0, last))
    return xp.where((place >= 0) & (place <= last), here, 0.0)


def _difference(frame: Frame, a: Array, b: Array, temperature: float) -> tuple[Array, Array]:
    """Return d = (a - b) / T, and the exact value minus d. The latter is 0 where exp(d) is 0 or inf.

    The rounding error of d is small relative to d. But exp(d) turns an absolute error of d into a relative error.
    Knuth's two-sum finds the error of the difference. The error of the quotient q is the remainder of the division,
    divided by T. To compute the remainder exactly, q and T are split into halves: products of numbers with half the
    digits are exact.
    """
    xp, t = frame.xp, temperature
    d = a - b
    near = xp.abs(d) < 1000 * t
    a, b = xp.where(near, a, 0.0), xp.where(near, b, 0.0)
    s = a - b
    back = s - a
    lost = (a - (s - back)) - (b + back)
    if t != 1:
        digits = 12 if frame.dtype == xp.float32 else 27
        mantissa, exponent = frexp(t)
        high_t = ldexp(round(ldexp(mantissa, digits - 1)), exponent - digits + 1)
        q = s / t
        wide = (2.0**digits + 1) * q
        high = wide - (wide - q)
        lost = (((s - high * high_t) - ((q - high) * high_t + q * (t - high_t))) + lost) / t
    return d / t, lost


class _FromWinner(NamedTuple):
    """Rows of logits, in which t is the class of the highest logit, because its log-probability may be tiny."""

    frame: Frame
    x: Array
    others: Others
    seen: View

    @classmethod
    def of(cls, logits: Array, axis: int, temperature: float, xp: Any) -> _FromWinner:
        frame = frame_of(logits, axis, xp)
        x = frame.numbers(logits)
        winner = frame.highest(x)
        others = others_of(frame, x, winner, temperature)
        return cls(frame, x, others, view(frame, at(frame, x, winner), others.peak, frame.total(others.y), temperature))

    def joined(self, of_winner: Array, of_others: Array, dtype: Any) -> Array:
        xp = self.frame.xp
        dtype = dtype if xp.isdtype(dtype, "real floating") else self.frame.dtype
        return xp.astype(xp.where(self.others.is_t, of_winner, of_others), dtype)


def softmax(logits: Array, *, axis: int = -1, temperature: float = 1.0, xp: Any = None) -> Array:
    """Return the probabilities exp(z_j) / sum_c exp(z_c) over an axis, with z = logits / temperature."""
    of = _FromWinner.of(logits, axis, temperature, xp)
    return of.joined(of.seen.p_t, of.others.y * of.seen.share, logits.dtype)


def log_softmax(logits: Array, *, axis: int = -1, temperature: float = 1.0, xp: Any = None) -> Array:
    """Return the logarithms of the softmax. Each is a sum of two terms of the same sign, so nothing cancels."""
    of = _FromWinner.of(logits, axis, temperature, xp)
    return of.joined(-of.seen.cost, of.others.gap - of.seen.excess, logits.dtype)


def logsumexp(logits: Array, *, axis: int = -1, temperature: float = 1.0, xp: Any = None) -> Array:
    """Return log(sum_j exp(z_j)) of each row: inf for a row that holds inf, -inf for a row of nothing but -inf."""
    frame, x, _, seen = _FromWinner.of(logits, axis, temperature, xp)
    top = frame.xp.max(x, axis=frame.axis, keepdims=True)
    return frame.xp.squeeze(frame.xp.where(frame.xp.isinf(top), top, seen.lse), axis=frame.axis)
