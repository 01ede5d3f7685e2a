"""Gradients of logits as sparse rows, sampled without bias, and products with such rows.

Entry g of a row with threshold t stays as it is if |g| >= t. A smaller entry becomes t or -t, with the sign of g, with
probability |g| / t. Otherwise it becomes 0. So its mean is g, and its variance is |g| (t - |g|).
"""

from typing import Any

import numpy as np

from softmaxloss.head.kernels.random_bits import fill_words, words_for
from softmaxloss.kernels.by_row.blocks import BLOCK, block_for
from softmaxloss.kernels.machine.compilation import inline, kernel
from softmaxloss.kernels.machine.half import zero_in
from softmaxloss.kernels.machine.shares import take
from softmaxloss.kernels.numerics.lanes import LANES, clear, lane_sum, lanes_of
from softmaxloss.kernels.row import probability_of

# Entries that are not 0 are looked for in strips of this many classes. Most strips have none.
_STRIP = 64


@kernel
def sample(
    gradient: Any,
    dense: Any,
    label: Any,
    position: Any,
    threshold: Any,
    seed: int,
    norm: Any,
    first: int,
    begin: int,
    columns: Any,
    values: Any,
    ends: Any,
    variances: Any,
) -> int:
    """Append the sampled entries of rows from `first` on to columns and values; return the first row that did not fit.

    Entries of labels, and of classes with P > 0 in rows of `dense`, are kept as they are. `position` holds the places
    of rows in the batch, and `ends` gets the places where their entries end. The two `variances` of a row are the sum
    of the variances, and the sum of variance times `norm`. `norm` has a number for each class or is empty.
    """
    number = zero_in(gradient)
    block, words, lanes = block_for(number), words_for(np.uint32(0)), (lanes_of(number), lanes_of(number))
    for i in range(first, gradient.shape[0]):
        row, t = gradient[i], gradient.dtype.type(threshold[i])
        end, variance, with_norm = begin, 0.0, 0.0
        for start in range(0, row.size, BLOCK):
            stop = min(start + BLOCK, row.size)
            if end + (stop - start) > columns.size:
                return i
            part, kept = row[start:stop], block[: stop - start]
            fill_words(position[i], start, seed, words)
            own, own_with_norm = choose(part, words, t, norm, dense, i, start, label[i], kept, lanes)
            variance += own
            with_norm += own_with_norm
            end = append(kept, start, columns, values, end)
        square = np.float64(t) ** 2
        ends[i], variances[i, 0], variances[i, 1] = end, max(variance, 0.0) * square, max(with_norm, 0.0) * square
        begin = end
    return gradient.shape[0]


@inline
def choose(
    gradient: Any, words: Any, t: Any, norm: Any, dense: Any, i: int, start: int, label: int, kept: Any, lanes: Any
) -> tuple[float, float]:
    """Fill in the sampled entries of a block; return the sum of their variances, and of variance times `norm`.

    Both are in units of t**2. An entry that is NaN stays NaN.
    """
    real = gradient.dtype.type
    reciprocal = real(1) / t
    clear(lanes[0])
    clear(lanes[1])
    for begin in range(0, kept.size, LANES):
        part = slice(begin, min(begin + LANES, kept.size))
        norms = norm[start:][part] if norm.size > 0 else gradient[part]
        choose_part(
            gradient[part], words[part], t, reciprocal, norms, dense, i, start + begin, label, kept[part], lanes
        )
    return lane_sum(lanes[0]), lane_sum(lanes[1]) if norm.size > 0 else 0.0


@inline
def choose_part(
    gradient: Any,
    words: Any,
    t: Any,
    reciprocal: Any,
    norm: Any,
    dense: Any,
    i: int,
    start: int,
    label: int,
    kept: Any,
    lanes: Any,
) -> None:
    """Do the same as `choose` for one entry per lane."""
    real = gradient.dtype.type
    for lane in range(kept.size):
        g = gradient[lane]
        chance = abs(g) * reciprocal
        drawn = (real(np.int32(words[lane] >> np.uint32(1))) + real(0.5)) * real(2.0**-31)
        sampled = real(0) if chance <= drawn else t if g > 0 else -t
        wanted = probability_of(dense, i, start + lane, label) > 0
        always = wanted or not chance < 1
        kept[lane] = g if always else sampled
        variance = real(0) if always else chance * (real(1) - chance)
        lanes[0][lane] += variance
        lanes[1][lane] += variance * norm[lane]


@inline
def append(kept: Any, start: int, columns: Any, values: Any, end: int) -> int:
    """Append the entries of a block that are not 0, and return the place where they end."""
    for begin in range(0, kept.size, _STRIP):
        strip = kept[begin : begin + _STRIP]
        if count(strip) == 0:
            continue
        for j in range(strip.size):
            if strip[j] != 0:
                columns[end], values[end] = start + begin + j, strip[j]
                end += 1
    return end


@inline
def count(strip: Any) -> Any:
    """Return how many entries are not 0."""
    n = np.int32(0)
    for j in range(strip.size):
        n += np.int32(strip[j] != 0)
    return n


@kernel
def times_rows(
    begins: Any, columns: Any, values: Any, matrix: Any, taken: Any, share: int, out: Any, add: bool
) -> None:
    """Write the products of sparse rows with a matrix, or add them to `out`, taking `share` rows at a time.

    Entries of row i are those from begins[i] to begins[i + 1].
    """
    begin = take(taken, share)
    while begin < out.shape[0]:
        for i in range(begin, min(begin + share, out.shape[0])):
            if not add:
                out[i, :] = 0
            entry, end = begins[i], begins[i + 1]
            while entry + 4 <= end:
                a, b, c, d = columns[entry], columns[entry + 1], columns[entry + 2], columns[entry + 3]
                four = values[entry], values[entry + 1], values[entry + 2], values[entry + 3]
                add_four(matrix[a], matrix[b], matrix[c], matrix[d], four, out[i])
                entry += 4
            while entry < end:
                add_scaled(matrix[columns[entry]], values[entry], out[i])
                entry += 1
        begin = take(taken, share)


@inline
def add_scaled(row: Any, value: Any, out: Any) -> None:
    """Add a row times a number."""
    for k in range(out.size):
        out[k] += value * row[k]


@inline
def add_four(a: Any, b: Any, c: Any, d: Any, values: Any, out: Any) -> None:
    """Add four rows times numbers."""
    for k in range(out.size):
        out[k] += (values[0] * a[k] + values[1] * b[k]) + (values[2] * c[k] + values[3] * d[k])
