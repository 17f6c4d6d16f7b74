"""Activations of a folder, as a sequence over a memory map."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Float, Int

from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.runtime.activations.index import (
    INDEX,
    POSITIONS,
    REMEDY,
    TOKEN_IDS,
    ActivationIndex,
    read_index,
    spans_of,
)
from ferrum_jax.runtime.activations.shard import check_shard_file, open_shard, tensor_name
from ferrum_jax.runtime.taps.capture import Values
from ferrum_jax.types import RequestError, WeightError

OPEN_SHARDS = 16
"""Shards whose parsed headers are kept; each is a file descriptor and some megabytes."""


class Activations(Sequence[Values]):
    """The activations of many prompts, read from a folder as they are asked for.

        acts = fj.Activations.open("folder")
        acts[0]["resid_post"][3]                # [n, D] of the first prompt, read-only
        acts.token_ids[0], acts.positions[0]
        acts.stack("resid_post", 3)             # [sum of n, D], of all prompts

    Arrays are views of the files; memory holds the pages that are being read, and gives them back
    when an array is dropped. Prompts come in the order of their numbers; in a folder whose writer
    was stopped some are missing, and `prompts` says which are there.
    """

    def __init__(self, path: Path, index: ActivationIndex) -> None:
        self.path = path
        self._index = index
        self._prompts, self._shard_of = _located(path, index)
        self._shard: Callable[[int], SafetensorsFile] = lru_cache(OPEN_SHARDS)(
            partial(_open, path, index)
        )

    @classmethod
    def open(cls, path: str | Path) -> Activations:
        """The activations in a folder; reads the index, and looks whether the shards are there.

        Raises:
            RequestError: there is no such folder, or no index in it.
            WeightError: the index is damaged, or a shard is missing, cut or outside the folder. A
                shard's header is checked when it is first read: the methods raise it as well.
            UnsupportedError: the folder has another version of the format.
        """
        folder = Path(path).expanduser()
        index = read_index(folder)
        for shard in index.shards:
            check_shard_file(folder, shard)
        return cls(folder, index)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._index.sites

    @property
    def layers(self) -> tuple[int, ...]:
        """All that some site is captured in."""
        return self._index.layers

    @property
    def dtypes(self) -> dict[str, str]:
        """By site; empty in a folder without prompts."""
        return {site: stored.dtype for site, stored in self._index.arrays.items()}

    @property
    def dtype(self) -> str | None:
        """The one that all sites have; None where they differ."""
        kinds = set(self.dtypes.values()) or {self._index.dtype}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def record(self) -> dict[str, Any]:
        """The run that made them."""
        return self._index.record

    @property
    def complete(self) -> bool:
        """Whether the writer was closed; False where it was stopped, or is still at work."""
        return self._index.complete

    @property
    def prompts(self) -> Int[np.ndarray, " prompts"]:
        """int64, the number of each prompt among those that were captured."""
        return self._prompts

    @property
    def num_tokens(self) -> int:
        """Captured tokens of all prompts."""
        return sum(shard.tokens for shard in self._index.shards)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(shard.bytes for shard in self._index.shards)

    @property
    def token_ids(self) -> Sequence[np.ndarray]:
        """Of each whole prompt, int32 `[T]`."""
        return _Column(len(self), partial(self._read, TOKEN_IDS))

    @property
    def positions(self) -> Sequence[np.ndarray]:
        """Of each prompt, int32 `[n]`: of which of its token ids the rows are."""
        return _Column(len(self), partial(self._read, POSITIONS))

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Values: ...
    @overload
    def __getitem__(self, index: slice) -> list[Values]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Values | list[Values]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = _place(index, len(self))
        return {
            site: {layer: self._read(f"{site}.{layer}", i) for layer in stored.layers}
            for site, stored in self._index.arrays.items()
        }

    def stack(self, site: str, layer: int) -> Float[np.ndarray, "n ..."]:
        """One site of all prompts, end to end: a copy in memory, in the order of the prompts.

        Raises:
            RequestError: that site or layer is not held, or its shapes differ by prompt, as those
                of `pattern` do.
        """
        self._check_held(site, layer)
        name = f"{site}.{layer}"
        first = self._read(name, 0)
        stacked = np.empty((self.num_tokens, *first.shape[1:]), first.dtype)
        start = 0
        for i in range(len(self)):
            x = self._read(name, i)
            if x.shape[1:] != first.shape[1:]:
                raise RequestError(
                    f"{site} of layer {layer} has shape {x.shape} in prompt {self._prompts[i]} and "
                    f"{first.shape} in prompt {self._prompts[0]}; read them prompt by prompt"
                )
            stacked[start : start + len(x)] = x
            start += len(x)
        return stacked

    def __repr__(self) -> str:
        layers = ", ".join(
            str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in spans_of(self.layers)
        )
        dtype = self.dtype or ", ".join(f"{site} {kind}" for site, kind in self.dtypes.items())
        return (
            f"Activations({str(self.path)!r}: {len(self):,} prompts, {self.num_tokens:,} tokens, "
            f"{_readable(self.nbytes)}; {', '.join(self.sites)}; layers {layers}; {dtype}"
            f"{'' if self.complete else '; unfinished'})"
        )

    def _read(self, part: str, i: int) -> np.ndarray:
        """The view of one tensor of the i-th prompt."""
        return self._shard(int(self._shard_of[i])).read(tensor_name(int(self._prompts[i]), part))

    def _check_held(self, site: str, layer: int) -> None:
        held = self._index.arrays
        if not held:
            raise RequestError(f"{self.path} holds no prompts yet; there is nothing to stack")
        if site not in held or layer not in held[site].layers:
            raise RequestError(
                f"{self.path} holds no {site!r} of layer {layer!r}; it holds "
                + "; ".join(
                    f"{s} of layers {', '.join(map(str, a.layers))}" for s, a in held.items()
                )
            )


class _Column(Sequence[np.ndarray]):
    """One array per prompt, read when it is asked for."""

    def __init__(self, count: int, read: Callable[[int], np.ndarray]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: SupportsIndex) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(self._count))]
        return self._read(_place(index, self._count))


def _open(folder: Path, index: ActivationIndex, number: int) -> SafetensorsFile:
    return open_shard(folder, index.shards[number], index.arrays)


def _located(path: Path, index: ActivationIndex) -> tuple[np.ndarray, np.ndarray]:
    """Prompt numbers in order, and the shard of each."""
    spans = [np.arange(*span) for shard in index.shards for span in shard.prompts]
    prompts = np.concatenate([np.zeros(0, np.int64), *spans])
    counts = [shard.prompt_count for shard in index.shards]
    shards = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    order = np.argsort(prompts, kind="stable")
    prompts, shards = prompts[order], shards[order]
    twice = prompts[1:][prompts[1:] == prompts[:-1]]
    if twice.size:
        raise WeightError(f"{path / INDEX}: prompt {twice[0]} is listed twice; {REMEDY}")
    prompts.flags.writeable = False
    return prompts, shards


def _place(index: SupportsIndex, count: int) -> int:
    """An index, negative ones from the end, as one from 0 up; raises IndexError beyond."""
    i = operator.index(index)
    if not -count <= i < count:
        raise IndexError(f"prompt {i} of {count}; give {-count} to {count - 1}")
    return i % count


def _readable(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
