"""One shard: prompts that wait to be written, the file they become, and the file read back."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ferrum_jax.models.weights.files import resolve_inside
from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.models.weights.safetensors_header import DTYPES as TAGGED
from ferrum_jax.models.weights.safetensors_header import LENGTH_BYTES
from ferrum_jax.runtime.activations.index import (
    DTYPES,
    INT32,
    POSITIONS,
    REMEDY,
    TOKEN_IDS,
    StoredShard,
    StoredSite,
    part_name,
    spans_of,
)
from ferrum_jax.types import WeightError

TAGS = {dtype: tag for tag, dtype in TAGGED.items()}
HEADER_BYTES = 8 * 2**20
"""Of a shard's header: a reader parses all of it to find one tensor."""
ENTRY_BYTES = 100
"""About what the header takes for a tensor."""


def tensor_name(prompt: int, *parts: object) -> str:
    """A prompt's tensor: a site and a layer, or token ids or positions."""
    return ".".join([f"{prompt:08d}", *map(str, parts)])


class PendingShard:
    """Prompts in memory, until they are as many bytes as a shard takes."""

    def __init__(self) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        self._prompts: list[int] = []
        self._tokens = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def fits(self, tensors: dict[str, np.ndarray], limit: int) -> bool:
        """Whether a prompt's tensors may join; the first one always may."""
        data = self._bytes + sum(x.nbytes for x in tensors.values())
        header = ENTRY_BYTES * (len(self._tensors) + len(tensors))
        return not self._prompts or (data <= limit and header <= HEADER_BYTES)

    def add(self, prompt: int, tensors: dict[str, np.ndarray]) -> None:
        """Take a prompt's tensors."""
        self._prompts.append(prompt)
        self._tensors |= tensors
        self._tokens += len(tensors[tensor_name(prompt, POSITIONS)])
        self._bytes += sum(x.nbytes for x in tensors.values())

    def write(self, folder: Path, number: int) -> StoredShard:
        """Write the shard of that number; it appears under its name once it is whole.

        Raises:
            OSError: the folder cannot be written, or is full; nothing of the shard is left.
        """
        path = folder / part_name(number)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            size = _write_tensors(beside, self._tensors)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(folder)
        return StoredShard(path.name, spans_of(self._prompts), self._tokens, size)


def check_shard_file(folder: Path, shard: StoredShard) -> None:
    """Raise WeightError unless the shard's file is there, inside the folder, and of its size."""
    path = folder / shard.file
    try:
        size = resolve_inside(folder, shard.file).stat().st_size
    except OSError as error:
        raise WeightError(f"{path} is missing ({error.strerror}); {REMEDY}") from error
    if size != shard.bytes:
        _opened(path).close()  # where the file is cut, this names the tensor
        raise WeightError(
            f"{path} has {size:,} bytes, not the {shard.bytes:,} of the index; {REMEDY}"
        )


def open_shard(folder: Path, shard: StoredShard, arrays: dict[str, StoredSite]) -> SafetensorsFile:
    """The shard as a memory map, its header checked against the index.

    Raises:
        WeightError: it is damaged, or holds other tensors than the index says.
    """
    check_shard_file(folder, shard)
    path = folder / shard.file
    file = _opened(path)
    try:
        _check_tensors(file, shard, arrays)
    except ValueError as error:
        raise WeightError(f"{path}: {error}; {REMEDY}") from error
    return file


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> int:
    """A new safetensors file, on disk when this returns; its size in bytes.

    Written array by array: `safetensors.numpy.save_file` would first copy them all.
    """
    # Wider elements come first, so that each tensor is aligned to its own.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    header, end = {}, 0
    for name, x in ordered.items():
        begin, end = end, end + x.nbytes
        header[name] = {"dtype": TAGS[x.dtype], "shape": x.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for x in ordered.values():
            file.write(x.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    return LENGTH_BYTES + len(text) + end


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a loss of power, where the system lets a folder be opened."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _opened(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except WeightError as error:
        # Its remedy is for checkpoints, which can be downloaded.
        raise WeightError(f"{path}: {error.__cause__}; {REMEDY}") from error


def _check_tensors(
    file: SafetensorsFile, shard: StoredShard, arrays: dict[str, StoredSite]
) -> None:
    unlisted, tokens = set(file.names()), 0
    for prompt in shard.prompt_numbers:
        wanted = _wanted(prompt, arrays)
        for name, dtype in wanted.items():
            if name not in unlisted:
                raise ValueError(f"tensor {name!r} is in the index and not in the file")
            if file.dtype(name) != dtype:
                raise ValueError(f"tensor {name!r} is {file.dtype(name)}; the index says {dtype}")
        unlisted.difference_update(wanted)
        tokens += _rows(file, prompt, wanted)
    if unlisted:
        raise ValueError(f"tensor {min(unlisted)!r} is in the file and not in the index")
    if tokens != shard.tokens:
        raise ValueError(f"it holds {tokens:,} tokens; the index says {shard.tokens:,}")


def _wanted(prompt: int, arrays: dict[str, StoredSite]) -> dict[str, np.dtype[Any]]:
    """The dtype of each tensor of a prompt."""
    activations = {
        tensor_name(prompt, site, layer): DTYPES[stored.dtype]
        for site, stored in arrays.items()
        for layer in stored.layers
    }
    vectors = {tensor_name(prompt, part): INT32 for part in (TOKEN_IDS, POSITIONS)}
    return activations | vectors


def _rows(file: SafetensorsFile, prompt: int, wanted: dict[str, np.dtype[Any]]) -> int:
    """The number of a prompt's captured tokens, which its activations agree on."""
    token_ids, positions = (tensor_name(prompt, part) for part in (TOKEN_IDS, POSITIONS))
    rows = file.shape(positions)[:1]
    for name in wanted:
        shape = file.shape(name)
        if name in (token_ids, positions) and len(shape) != 1:
            raise ValueError(f"tensor {name!r} has shape {shape}, not one axis")
        if name != token_ids and shape[:1] != rows:
            raise ValueError(f"tensor {name!r} has shape {shape} for {rows[:1]} positions")
    return rows[0]
