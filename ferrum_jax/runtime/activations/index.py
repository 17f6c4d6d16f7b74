"""The format of a folder of activations, and its index.

    index.json               the fields of `ActivationIndex`, beside the format and its version
    part-00000.safetensors   whole prompts: `{prompt:08d}.{site}.{layer}` [n, ...] and, both int32,
                             `{prompt:08d}.positions` [n] and `{prompt:08d}.token_ids` [T]

Token ids lie in the shards, so that the index stays small however many tokens there are. A shard is
listed once it is whole: the index names, at any moment, what can be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ferrum_jax.models.weights.files import load_json, resolve_inside
from ferrum_jax.models.weights.safetensors_header import DTYPES as TAGGED
from ferrum_jax.runtime.record import write_json
from ferrum_jax.types import SITES, DataType, RequestError, UnsupportedError, WeightError

INDEX = "index.json"
FORMAT = "ferrum_jax activations"
VERSION = 1
REMEDY = "capture these texts again, or restore the folder from a copy"

TOKEN_IDS, POSITIONS = "token_ids", "positions"
INT32 = TAGGED["I32"]
DTYPES: dict[str, np.dtype[Any]] = {
    DataType.FLOAT32: TAGGED["F32"],
    DataType.FLOAT16: TAGGED["F16"],
    DataType.BFLOAT16: TAGGED["BF16"],
}
"""What activations are stored as, by the names that callers use."""
MIN_PROMPT_BYTES = 100
"""Fewer than the header of a shard takes for one prompt: an index cannot claim more of them."""


@dataclass(frozen=True)
class StoredSite:
    """How a site is stored: alike for every prompt."""

    dtype: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class StoredShard:
    """One file of whole prompts."""

    file: str
    prompts: tuple[tuple[int, int], ...]
    """Spans `[start, stop)` of prompt numbers"""
    tokens: int
    """Captured tokens: rows of each of its activations, summed over its prompts"""
    bytes: int
    """Of the file"""

    @property
    def prompt_count(self) -> int:
        return sum(stop - start for start, stop in self.prompts)

    @property
    def prompt_numbers(self) -> list[int]:
        return [prompt for span in self.prompts for prompt in range(*span)]


@dataclass(frozen=True)
class ActivationIndex:
    """What a folder holds."""

    sites: tuple[str, ...]
    layers: tuple[int, ...]
    """All that some site is captured in"""
    dtype: str | None
    """What was asked for; None: each site as it came"""
    arrays: dict[str, StoredSite]
    """By site; empty until a prompt is written"""
    shards: tuple[StoredShard, ...]
    complete: bool
    """False where the writer is still at work, or was stopped"""
    record: dict[str, Any]
    """The run that made it"""


def part_name(number: int) -> str:
    """The file of a shard."""
    return f"part-{number:05d}.safetensors"


def spans_of(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Distinct integers as ordered spans `[start, stop)` of consecutive ones."""
    spans: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number:
            spans[-1] = (spans[-1][0], number + 1)
        else:
            spans.append((number, number + 1))
    return tuple(spans)


def write_index(folder: Path, index: ActivationIndex) -> None:
    """Put the index into the folder; at any moment there is the old one or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    write_json(folder / INDEX, {"format": FORMAT, "version": VERSION, **asdict(index)})


def read_index(folder: Path) -> ActivationIndex:
    """The folder's index, its own fields checked; the shards are not opened.

    Raises:
        RequestError: there is no such folder, or no index in it.
        WeightError: the index is damaged, or names files other than its own.
        UnsupportedError: another version of ferrum_jax wrote it.
    """
    path = folder / INDEX
    try:
        return _parsed(load_json(resolve_inside(folder, INDEX)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(
            f"{path} does not exist; give a folder that llm.capture(..., to=folder) has written"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightError(f"{path}: {error}; {REMEDY}") from error


def _parsed(raw: dict[str, Any]) -> ActivationIndex:
    """Raises ValueError with the reason for anything that no writer writes."""
    if raw.pop("format", None) != FORMAT:
        raise ValueError("it is not an index of activations")
    version = raw.pop("version", None)
    if version != VERSION:
        raise UnsupportedError(
            f"these activations have version {version!r} of the format, and this ferrum_jax reads "
            f"{VERSION}; open them with the ferrum_jax that wrote them"
        )
    _check_keys("it", raw, ActivationIndex)
    sites = _sites(raw["sites"])
    layers = _integers("layers", raw["layers"])
    dtype = None if raw["dtype"] is None else _dtype(raw["dtype"])
    if not isinstance(raw["complete"], bool) or not isinstance(raw["record"], dict):
        raise ValueError("complete is no boolean, or record no object")
    shards = tuple(_shard(i, entry) for i, entry in enumerate(_list("shards", raw["shards"])))
    arrays = _arrays(raw["arrays"], sites if shards else (), layers)
    return ActivationIndex(sites, layers, dtype, arrays, shards, raw["complete"], raw["record"])


def _sites(value: Any) -> tuple[str, ...]:
    unknown = [site for site in _list("sites", value) if site not in SITES]
    if unknown or not value or len(set(value)) < len(value):
        raise ValueError(f"sites is {value!r}, which are not distinct sites")
    return tuple(value)


def _arrays(value: Any, sites: tuple[str, ...], layers: tuple[int, ...]) -> dict[str, StoredSite]:
    if not isinstance(value, dict) or value.keys() != set(sites):
        raise ValueError(f"arrays does not describe the sites {', '.join(sites) or '(none)'}")
    arrays: dict[str, StoredSite] = {}
    for site in sites:
        entry = value[site]
        _check_keys(f"arrays of {site}", entry, StoredSite)
        held = _integers(f"layers of {site}", entry["layers"])
        if not held or not set(held) <= set(layers):
            raise ValueError(f"layers of {site} are {held}, none or not among {layers}")
        arrays[site] = StoredSite(_dtype(entry["dtype"]), held)
    return arrays


def _dtype(value: Any) -> str:
    if not isinstance(value, str) or value not in DTYPES:
        raise ValueError(f"dtype is {value!r}, which is none of {', '.join(DTYPES)}")
    return value


def _shard(number: int, entry: Any) -> StoredShard:
    name = part_name(number)
    _check_keys(f"shard {number}", entry, StoredShard)
    if entry["file"] != name:
        raise ValueError(f"shard {number} is {entry['file']!r}, not {name} of its own folder")
    tokens, size = _integers(f"tokens and bytes of {name}", [entry["tokens"], entry["bytes"]])
    spans = [
        _integers(f"prompts of {name}", span)
        for span in _list(f"prompts of {name}", entry["prompts"])
    ]
    if not spans or not all(len(span) == 2 and span[0] < span[1] for span in spans):
        raise ValueError(f"prompts of {name} are not spans [start, stop)")
    shard = StoredShard(name, tuple((span[0], span[1]) for span in spans), tokens, size)
    if shard.prompt_count > size // MIN_PROMPT_BYTES:
        raise ValueError(f"{name} cannot hold {shard.prompt_count:,} prompts in {size:,} bytes")
    return shard


def _check_keys(what: str, entry: Any, kind: type) -> None:
    wanted = {field.name for field in fields(kind)}
    if not isinstance(entry, dict) or entry.keys() != wanted:
        raise ValueError(f"{what} needs exactly the keys {', '.join(sorted(wanted))}")


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _integers(name: str, value: Any) -> tuple[int, ...]:
    # `type(v) is int` and not isinstance: JSON's true and false are ints to Python.
    if not all(type(v) is int and 0 <= v < 2**63 for v in _list(name, value)):
        raise ValueError(f"{name} holds something else than integers from 0 up")
    return tuple(value)
