"""Batches of windows of the token stream, as a function of (seed, step)."""

from collections.abc import Iterator

import numpy as np


def token_batches(
    stream: np.ndarray, *, batch_size: int, seq_len: int, seed: int, start_step: int = 0
) -> Iterator[np.ndarray]:
    """Yield [batch_size, seq_len + 1] uint16 windows of `stream`, without end.

    The windows of an epoch tile the stream from a random offset, in random order, so that an epoch
    reads each token once. Step n is the same whatever `start_step` the iteration began at, which
    makes a run resumable. Raises ValueError where the stream is shorter than two windows.
    """
    windows = (len(stream) - 1) // seq_len - 1
    if windows < 1:
        raise ValueError(
            f"a stream of {len(stream)} tokens has no window of {seq_len + 1} to spare; "
            "use a longer stream or a smaller seq_len"
        )
    offsets = np.arange(seq_len + 1)
    epoch, starts = -1, offsets[:0]
    first = start_step * batch_size
    while True:
        batch = np.empty((batch_size, seq_len + 1), np.uint16)
        for row in range(batch_size):
            if (first + row) // windows != epoch:
                epoch = (first + row) // windows
                starts = epoch_starts(windows, seq_len, seed, epoch)
            batch[row] = stream[starts[(first + row) % windows] + offsets]
        yield batch
        first += batch_size


def epoch_starts(windows: int, seq_len: int, seed: int, epoch: int) -> np.ndarray:
    """The first positions of an epoch's windows, in the order in which they are read."""
    rng = np.random.default_rng([seed, epoch])
    return rng.permutation(windows) * seq_len + rng.integers(seq_len)
