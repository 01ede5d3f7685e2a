"""Memory of arrays that mostly serve one call. Each thread keeps up to 32 MiB of it for its next call.

Memory that comes new from the system costs a page fault for every 4 KiB. The C library often gives memory back as soon
as an array is freed. Then page faults would take as long as the loss of rows of ten classes.

PyTorch's threads keep no memory. Each time such a thread calls Python, Python takes it for a new thread. In our
measurements this made no loss function slower.
"""

from __future__ import annotations

import threading
import weakref
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CACHE_LINE = 64  # bytes
# Arrays of fewer bytes cause few page faults. Arrays of more bytes are not kept: a program may never need them again.
FEWEST_BYTES, MOST_BYTES = 1 << 17, (1 << 23) - CACHE_LINE
MOST_KEPT_BYTES = 1 << 25  # by each thread, with the arrays in use


class _Kept(NamedTuple):
    memory: memoryview  # not an array: it would be the base of views, which would then not keep `user` alive
    first: int  # the first byte that begins a cache line
    user: weakref.ref[Array]  # the last array in this memory


_thread = threading.local()  # `kept` lists what this thread keeps, in the order of last use


def reused_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialized array. Its memory is used again when neither the array nor a view of it exists."""
    size = prod(shape)
    n_bytes = size * dtype.itemsize
    if not FEWEST_BYTES <= n_bytes <= MOST_BYTES:
        return np.empty(shape, dtype)
    # a call inside this one, for example by a signal handler, finds no list, so it takes other memory
    kept: list[_Kept] = _thread.__dict__.pop("kept", [])
    memory, first = _taken_from(kept, n_bytes) or _new(n_bytes)
    array = np.frombuffer(memory, dtype, size, first)
    kept.append(_Kept(memory, first, weakref.ref(array)))
    while sum(len(of.memory) for of in kept) > MOST_KEPT_BYTES:
        del kept[0]
    _thread.kept = kept
    return array.reshape(shape)


def reused_copy(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return a flat copy of an array, in C order. Its memory is used again as that of `reused_empty`."""
    if array.size * dtype.itemsize < FEWEST_BYTES:
        return array.astype(dtype).ravel()  # three times as fast as what follows
    copy = reused_empty((array.size,), dtype)
    copy.reshape(array.shape)[...] = array
    return copy


def _taken_from(kept: list[_Kept], n_bytes: int) -> tuple[memoryview, int] | None:
    """Remove unused memory, of at least this size and at most twice as much, from the list. Return it, or None."""
    for i in reversed(range(len(kept))):
        memory, first, user = kept[i]
        if n_bytes + CACHE_LINE <= len(memory) <= 2 * n_bytes and user() is None:
            del kept[i]
            return memory, first
    return None


def _new(n_bytes: int) -> tuple[memoryview, int]:
    memory = np.empty(n_bytes + CACHE_LINE, np.uint8)
    return memory.data, -memory.ctypes.data % CACHE_LINE
