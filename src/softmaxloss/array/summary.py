"""Summaries: the numbers that a loss needs to know about a block of classes. Those of two blocks can be merged.

The names peak, y and rest are explained in rows.py. All sums leave out the class t of each row:

    dot   = sum_j q_j (peak - x_j) / T                the cost of other classes than t with q > 0, from the peak
    mass  = sum_j q_j
    heat  = sum_j y_j (peak - x_j) / T                for the entropy

The sums of two blocks are added relative to the higher peak:

    rest  = sum_b s_b rest_b                          s_b = exp((peak_b - peak) / T)
    dot   = sum_b (dot_b + mass_b (peak - peak_b) / T)
    heat  = sum_b s_b (heat_b + rest_b (peak - peak_b) / T)
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from softmaxloss.array.rows import Others, View, at, others_of, view

if TYPE_CHECKING:
    from softmaxloss.array.rows import Array, Frame
    from softmaxloss.array.wanted import Wanted

__all__ = ["Look", "Summary", "look", "merge", "summarize", "times", "whole"]


class Look(NamedTuple):
    """Logits relative to a peak: arrays in the shape of the logits; x_t and the peak have one number per row."""

    x_t: Array  # logit of the class t, 0 where it is in another block
    others: Others
    slope: Array | None  # of the soft cap


def look(rows: Wanted, logits: Array, peak: Array | None = None) -> Look:
    """Return the `Look` at logits of all classes or of a block, relative to `peak` or else to the highest of them."""
    frame, options = rows.frame, rows.options
    where, exists, live, slope = frame.xp.where, rows.exists, rows.live, None
    x = frame.numbers(logits)
    if exists is not None or live is not None:
        x = where(live if exists is None else exists if live is None else live & exists, x, 0.0)
    if options.softcap is not None:
        x, slope = _capped(frame, x, options.softcap)
    if exists is not None:
        x = where(exists if live is None else exists | ~live, x, -inf)
    return Look(at(frame, x, rows.t), others_of(frame, x, rows.t, options.temperature, peak), slope)


def _capped(frame: Frame, x: Array, softcap: float) -> tuple[Array, Array]:
    """Return softcap * tanh(x / softcap) and its slope. The slope is not computed as 1 - tanh**2, which cancels."""
    u = x / softcap
    e = frame.xp.exp(2 * frame.xp.where(u > 0, -u, u))
    return softcap * frame.xp.tanh(u), 4 * e / (1 + e) ** 2


class Summary(NamedTuple):
    """Numbers per row about a block of classes."""

    x_t: Array
    peak: Array
    rest: Array
    dot: Array  # None where q is 0 for all classes but t
    mass: Array  # None where dot is None
    heat: Array  # None if no entropy is wanted


def summarize(rows: Wanted, seen: Look, *, entropy: bool = False) -> Summary:
    """Return the summary of the classes of a `Look`."""
    frame, (is_t, peak, gap, y) = rows.frame, seen.others
    dot = mass = heat = None
    if not rows.is_sharp:
        q = frame.xp.where(is_t, 0.0, rows.q())
        dot, mass = frame.total(times(frame, q, -gap)), frame.total(q)
    if entropy:
        heat = frame.total(times(frame, y, -gap))
    return Summary(seen.x_t, peak, frame.total(y), dot, mass, heat)


def merge(rows: Wanted, a: Summary, b: Summary) -> Summary:
    """Return the summary of two blocks together."""
    frame, exp, peak = rows.frame, rows.frame.xp.exp, rows.frame.xp.maximum(a.peak, b.peak)
    base = frame.xp.where(peak == -inf, 0.0, peak)
    lower = [(of, (base - of.peak) / rows.options.temperature) for of in (a, b)]
    dot = mass = heat = None
    if a.dot is not None:
        dot, mass = sum(of.dot + times(frame, of.mass, by) for of, by in lower), a.mass + b.mass
    if a.heat is not None:
        heat = sum(exp(-by) * of.heat + times(frame, exp(-by) * of.rest, by) for of, by in lower)
    return Summary(a.x_t + b.x_t, peak, sum(exp(-by) * of.rest for of, by in lower), dot, mass, heat)


def whole(rows: Wanted, of: Summary) -> View:
    """Return the `View` of rows, given the summary of all their classes."""
    return view(rows.frame, of.x_t, of.peak, of.rest, rows.options.temperature)


def times(frame: Frame, q: Array, value: Array) -> Array:
    """Return q * value, where 0 * inf counts as 0."""
    return q * frame.xp.where((q == 0) & (value == inf), 0.0, value)
