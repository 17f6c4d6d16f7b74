"""Small integers in words of 32 bits: one stream, the lowest bits first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_words(count: int, bits: int) -> int:
    """Words that hold `count` integers."""
    return -(-count * bits // 32)


def unpack(words: np.ndarray, bits: int, count: int | None = None) -> NDArray[np.uint8]:
    """The integers along the last axis of int32 `[..., words]`, the first `count` of each row.

    Integers of 3, 5, 6 or 7 bits go on from one word into the next.
    """
    stream = np.ascontiguousarray(words).view("<u4").astype("<u4", copy=False).view(np.uint8)
    if bits == 8:
        values = stream
    elif 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        values = (stream[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    else:
        used = stream.shape[-1] * 8 // bits * bits
        single = np.unpackbits(stream, axis=-1, bitorder="little")[..., :used]
        weights = np.uint8(1) << np.arange(bits, dtype=np.uint8)
        values = (single.reshape(*single.shape[:-1], -1, bits) * weights).sum(-1, dtype=np.uint8)
    return values.reshape(*words.shape[:-1], -1)[..., :count]
