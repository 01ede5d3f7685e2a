"""Random numbers that are a function of seed, row and class: Philox4x32-10, as vector code.

Four random words of 32 bits are computed from a counter of four words and a key of two. The counter is made of row and
class, the key of the seed. So the draw for a class does not depend on threads, chunks or the order of computation.

Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

from typing import Any

import numpy as np

from softmaxloss.kernels.machine.compilation import inline
from softmaxloss.kernels.machine.intrinsics import stack_array
from softmaxloss.kernels.numerics.lanes import LANES

_WORD, _LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10

words_for = stack_array(4 * LANES)


@inline
def philox(a: Any, b: Any, c: Any, d: Any, key: Any, other_key: Any) -> tuple[Any, Any, Any, Any]:
    """Return four random words for a counter of four words and a key of two. Each word is the lower half of 64 bits."""
    for _ in range(_ROUNDS):
        left, right = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (right >> _WORD) ^ b ^ key, right & _LOWER, (left >> _WORD) ^ d ^ other_key, left & _LOWER
        key, other_key = (key + _KEY_STEPS[0]) & _LOWER, (other_key + _KEY_STEPS[1]) & _LOWER
    return a, b, c, d


@inline
def fill_words(row: int, start: int, seed: int, words: Any) -> None:
    """Fill in a word for each of 2,048 classes of a row, from class `start` on; it is a multiple of 2,048.

    A block has n = LANES counters. Word k of counter c belongs to class c + k n, so vectors need no shuffling.
    """
    n = words.size // 4
    u = np.uint64
    first, lower_row, upper_row = u(start // 4), u(row) & _LOWER, u(row) >> _WORD
    key, other_key = u(seed) & _LOWER, u(seed) >> _WORD
    quarters = words[:n], words[n : 2 * n], words[2 * n : 3 * n], words[3 * n :]
    fill_quarters(first, lower_row, upper_row, key, other_key, quarters)


@inline
def fill_quarters(first: Any, lower_row: Any, upper_row: Any, key: Any, other_key: Any, quarters: Any) -> None:
    """Fill in the four words of one counter for each element of a quarter."""
    zero = np.uint64(0)
    for lane in range(quarters[0].size):
        counter = first + np.uint64(lane)
        a, b, c, d = philox(counter, lower_row, upper_row, zero, key, other_key)
        quarters[0][lane], quarters[1][lane] = np.uint32(a), np.uint32(b)
        quarters[2][lane], quarters[3][lane] = np.uint32(c), np.uint32(d)
