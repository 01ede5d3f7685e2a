"""Rows of logits on which a careless softmax loses digits: margins, offsets, scales, ties, and many classes."""

import numpy as np

INF = np.inf
STEPS = np.random.default_rng(0).permutation(np.repeat(np.arange(-250, 1), 400))  # 100,400 classes, 251 values
ASCENDING = np.arange(-5000, 1) * 3.3
ASCENDING = np.where(ASCENDING < -1600, np.floor(ASCENDING / 40) * 40, ASCENDING)  # 900 values
MIXED = np.random.default_rng(1).normal(size=300)

ROWS = {
    **{f"margin {margin}": [0, -margin] for margin in (0, 1e-6, 0.3, 1, 17, 40, 88, 104, 150, 200)},
    **{f"margin {margin} to many": [-margin] * 50 + [0] + [-margin] * 49 for margin in (0.01, 1, 40, 80, 200)},
    "first margin near underflow, second beyond": [0, -87.3, -87.4, -103, -104, -708, -709, -744, -746],
    **{f"(2, -1) + {offset:g}": np.array([2, -1]) + offset for offset in (0.1, 100.1, 1e6, 1e8, -1e8, 1e15, 1e30)},
    **{f"mixed + {offset:g}": MIXED * 5 + offset for offset in (0, 0.1, 1000.1, -1e5, 1e30)},
    **{f"mixed * {scale:g}": MIXED * scale for scale in (1e-30, 1e-3, 30, 1e4, 1e30)},
    "with -inf": [-INF, 3, -INF, 2.9, -40, -INF],
    "one class": [-7.3],
    "one finite class": [-INF, 5, -INF],
    "the largest gap": [3e38, -3e38],
    "subnormal": [1e-40, 0, -1e-40, 1e-310],
    "ties": [2.2, 2.2, -1, 2.2, 2.2],
    "all equal": [0.1] * 100_000,
    "near equal": [0] + [-0.3] * 99_999,
    "near equal, the winner last": [-0.3] * 9_999 + [0],
    "many below the smallest normal number": [0] + [-88] * 99_999,
    "ascending": np.sort(STEPS) * 0.1,
    "descending": -np.sort(-STEPS[:10_000]) * 0.1,
    "shuffled": STEPS * 0.1 + 0.01,
    "ascending by more than exp can reach": ASCENDING,
    "many small ones beside a winner": [20.5] + [0.1] * 99_999,
    "a late rise": [0] * 2_500 + [37, 39.9, 38] * 3,
}


def row_of(name, dtype):
    return np.asarray(ROWS[name], np.float64).astype(dtype)
