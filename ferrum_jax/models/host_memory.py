"""Memory of the host for weights: in huge pages, where Linux gives them.

A processor looks up where each page of its memory lies, and remembers a few thousand of them. Of
pages of 4 KB that is less than a matrix, and a step reads all weights, so that it waits for the
table too; of pages of 2 MB it is gigabytes. On a CPU jax takes an array that is laid so as it is,
without a copy.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
from jax.typing import DTypeLike

HUGE = 2 << 20
"""Bytes of a huge page; smaller arrays lie where numpy lays them."""


def empty_for_weights(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of the host like `numpy.empty`'s, in huge pages if there are any."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, kind)
    memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    flat = np.frombuffer(memory, np.uint8)
    start = -flat.ctypes.data % HUGE
    try:  # Whole ones alone: the rest of a page that is not filled would be memory for nothing.
        memory.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE * HUGE)
    except OSError:
        return np.empty(shape, kind)  # a kernel that was built without them
    return flat[start : start + size].view(kind).reshape(shape)


def for_weights(values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A copy of an array in another dtype, laid as `empty_for_weights` lays it."""
    laid = empty_for_weights(values.shape, dtype)
    laid[...] = values
    return laid
