"""A checkpoint directory: one .safetensors file, or shards with an index."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces.weights import WeightSource
from ferrum_jax.models.weights.files import listed, load_json, resolve_inside, unknown_tensor
from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.types.errors import WeightError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_NUMBERED_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


class ShardedCheckpoint:
    """A `WeightSource` over several files, none of which holds a tensor of another."""

    def __init__(self, location: str, shards: Sequence[SafetensorsFile]) -> None:
        self.location = location
        self.nbytes = sum(shard.nbytes for shard in shards)
        self.max_file_bytes = max(shard.max_file_bytes for shard in shards)
        self._shards = tuple(shards)
        self._home = {name: shard for shard in shards for name in shard.names()}

    def names(self) -> tuple[str, ...]:
        return tuple(self._home)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard(name).shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._shard(name).dtype(name)

    def read(self, name: str) -> NDArray[Any]:
        return self._shard(name).read(name)

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _shard(self, name: str) -> SafetensorsFile:
        if name in self._home:
            return self._home[name]
        raise unknown_tensor(self.location, name, self._home)


def open_checkpoint(directory: Path) -> WeightSource:
    """The tensors of a Hugging Face directory; reads and checks the headers, not the data.

    Takes `model.safetensors.index.json` with its shards, else `model.safetensors`, else the only
    .safetensors file. Raises WeightError when the files are missing, damaged, ambiguous, disagree
    with their index, lead out of the directory, or are pickles.
    """
    directory = Path(directory)
    present = _list_files(directory)
    if INDEX_NAME in present:
        weight_map = _read_weight_map(directory)
        chosen = sorted(set(weight_map.values()))
        _refuse_leftovers(directory, present, chosen)
        shards = _open_all(directory, chosen)
        _check_map(directory / INDEX_NAME, weight_map, shards)
        return ShardedCheckpoint(str(directory), list(shards.values()))
    chosen = [_only_file(directory, present)]
    _refuse_leftovers(directory, present, chosen)
    return _open_all(directory, chosen)[chosen[0]]


def _list_files(directory: Path) -> list[str]:
    try:
        # Names with a leading dot are the operating system's own (macOS leaves `._*` copies).
        return sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise WeightError(f"{directory} is not a readable directory: {error}") from error


def _only_file(directory: Path, present: Sequence[str]) -> str:
    candidates = [name for name in present if name.endswith(".safetensors")]
    if SINGLE_NAME in candidates:
        return SINGLE_NAME
    if not candidates:
        raise WeightError(_no_weights(directory, present))
    if len(candidates) > 1 or _NUMBERED_SHARD.fullmatch(candidates[0]):
        raise WeightError(
            f"{directory} holds {listed(candidates)} but no {INDEX_NAME} that says which tensor "
            "lies where; download the index as well, or leave one file"
        )
    return candidates[0]


def _no_weights(directory: Path, present: Sequence[str]) -> str:
    pickles = [name for name in present if name.endswith(PICKLE_SUFFIXES)]
    if not pickles:
        return (
            f"{directory} holds no weights: expected {SINGLE_NAME}, {INDEX_NAME} with its shards, "
            f"or one other .safetensors file; found {listed(present) or 'nothing'}"
        )
    return (
        f"{directory} holds its weights as pickles only ({listed(pickles)}); reading a pickle can "
        "run any code, so it is never done. Convert it once, where you trust it:\n"
        f"  model = transformers.AutoModelForCausalLM.from_pretrained({str(directory)!r})\n"
        f"  model.save_pretrained({str(directory)!r}, safe_serialization=True)"
    )


def _read_weight_map(directory: Path) -> dict[str, str]:
    path = directory / INDEX_NAME
    try:
        weight_map = load_json(resolve_inside(directory, INDEX_NAME)).get("weight_map")
    except (OSError, ValueError) as error:
        raise WeightError(f"{path}: {error}; download it again") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightError(f"{path} has no weight_map from tensors to files; download it again")
    unsafe = {repr(v) for v in weight_map.values() if not _is_plain_file_name(v)}
    if unsafe:
        raise WeightError(
            f"{path}: its weight_map must name .safetensors files of its own directory, not "
            f"{', '.join(sorted(unsafe)[:8])}; get the checkpoint from a source you trust"
        )
    return weight_map


def _is_plain_file_name(value: object) -> bool:
    """Whether a value of the map names a file right in the directory, on any system."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and value.endswith(".safetensors")
        and PurePosixPath(value).name == PureWindowsPath(value).name == value
    )


def _refuse_leftovers(directory: Path, present: Sequence[str], chosen: Sequence[str]) -> None:
    """Other consolidated formats may lie beside a checkpoint; a second set of shards may not."""
    rivals = {n for n in present if n == SINGLE_NAME or _NUMBERED_SHARD.fullmatch(n)} - set(chosen)
    if rivals:
        raise WeightError(
            f"{directory}: {listed(rivals)} would not be read, only {listed(chosen)} would; "
            f"move one of the two away, or mend {INDEX_NAME}"
        )


def _open_all(directory: Path, names: Sequence[str]) -> dict[str, SafetensorsFile]:
    paths = {name: resolve_inside(directory, name) for name in names}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        raise WeightError(
            f"{directory} lacks {len(missing)} of its {len(names)} files; "
            f"download them: {listed(missing, limit=len(missing))}"
        )
    # The unresolved path goes into messages: a blob of the cache has a hash for its name.
    return {name: SafetensorsFile(directory / name) for name in names}


def _check_map(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[str, SafetensorsFile]
) -> None:
    """Raise one WeightError with every way in which the index and its shards disagree."""
    copies = Counter(name for shard in shards.values() for name in shard.names())
    held = {(name, file) for file, shard in shards.items() for name in shard.names()}
    mapped = set(weight_map.items())
    faults = {
        "held by two shards": {name for name, count in copies.items() if count > 1},
        "in the map, but not in the shard it names": {name for name, _ in mapped - held},
        "in a shard, but not in the map": copies.keys() - weight_map.keys(),
    }
    found = [f"{listed(names)} ({fault})" for fault, names in faults.items() if names]
    if found:
        raise WeightError(f"{index} disagrees with its shards: {'; '.join(found)}; download again")
