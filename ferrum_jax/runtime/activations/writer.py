"""Activations written to a folder, prompt by prompt, in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from ferrum_jax.models.weights.files import listed
from ferrum_jax.runtime.activations.arrays import checked_values, integers, positions_of
from ferrum_jax.runtime.activations.index import (
    DTYPES,
    INDEX,
    POSITIONS,
    TOKEN_IDS,
    ActivationIndex,
    StoredShard,
    StoredSite,
    part_name,
    write_index,
)
from ferrum_jax.runtime.activations.shard import PendingShard, tensor_name
from ferrum_jax.runtime.record import to_json
from ferrum_jax.runtime.taps.capture import Values
from ferrum_jax.types import SITES, ConfigError, DataType, DeviceError, RequestError

SHARD_BYTES = 256 * 2**20
OWN_FILES = re.compile(
    r"(index\.json|part-\d{5,}\.safetensors)|\.(index\.json|part-\d{5,}\.safetensors)\.[0-9a-f]{8}"
)
"""Of a writer, and what one that was killed left under a temporary name."""


class ActivationWriter:
    """Streams the activations of prompts to a folder, for `Activations.open`.

        with ActivationWriter("folder", sites=("resid_post",), layers=(3, 4)) as writer:
            writer.add(0, token_ids, {"resid_post": {3: x_3, 4: x_4}}, positions)

    Memory: the prompts of one shard. Each finished shard and then the index are put in place whole,
    so a run that is stopped, killed even, leaves a folder of what was written until then. Left by
    an exception, the `with` drops the prompts that are not in a shard yet.

    Args:
        path: a folder; made where it is missing.
        sites, layers: all that prompts bring; see `ferrum_jax.types.SITES`. A site need not exist
            in each of the layers, but every prompt brings the same.
        dtype: float32, float16 or bfloat16, to cast to; None: each site keeps its own.
        record: what is to be known of the run, such as `runtime.record.environment()`; plain data.
        shard_bytes: of activations per file. A prompt is never split, so one prompt may be more.
        overwrite: replace the activations that are in the folder.

    Raises:
        RequestError: an unknown site or dtype, a record that is no plain data, a folder that is in
            use or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sites: Sequence[str],
        layers: Sequence[int],
        dtype: str | None = None,
        record: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path).expanduser()
        self._sites = _checked_sites(sites)
        self._layers = _checked_layers(layers)
        self._dtype = None if dtype is None else _checked_dtype(dtype)
        self._shard_bytes = _checked_shard_bytes(shard_bytes)
        # As it stands now, and as the index can hold it.
        self._record = json.loads(to_json(dict(record or {})))
        self._arrays: dict[str, StoredSite] = {}
        self._shards: tuple[StoredShard, ...] = ()
        self._pending = PendingShard()
        self._added: set[int] = set()
        self._closed = False
        try:
            _make_room(self.path, overwrite)
            write_index(self.path, self._index())
        except OSError as error:
            raise RequestError(
                f"{self.path} cannot be written ({error.strerror or error}); "
                "give a folder that can be made or written"
            ) from error

    def add(
        self,
        prompt: int,
        token_ids: Sequence[int] | np.ndarray,
        values: Values,
        positions: Sequence[int] | np.ndarray,
    ) -> None:
        """Take one finished prompt; prompts come in any order. The arrays are copied.

        Args:
            prompt: its number among all prompts.
            token_ids: of the whole prompt.
            values: by site and layer `[n, ...]`.
            positions: `[n]`, of which of the token ids the rows are.

        Raises:
            RequestError: the arguments misfit one another, the writer's sites, layers or dtype, or
                what prompts before brought; the prompt is not added.
            DeviceError: the shard that was full could not be written; neither it nor the prompt is
                lost: make room, and add the prompt again.
        """
        if self._closed:
            raise RequestError(f"the writer of {self.path} is closed; open another with a new path")
        if isinstance(prompt, bool) or not isinstance(prompt, int | np.integer) or prompt < 0:
            raise RequestError(f"prompt is {prompt!r}; give its number, from 0 up")
        if prompt in self._added:
            raise RequestError(f"prompt {prompt} was added before; give each prompt once")
        prompt, what = int(prompt), f"prompt {prompt}"
        ids = integers(f"{what}: token_ids", token_ids)
        places = positions_of(what, positions, len(ids))
        arrays, given = checked_values(
            what, values, len(places), self._sites, self._layers, self._dtype
        )
        if self._arrays and arrays != self._arrays:
            raise RequestError(
                f"{what} brings {_described(arrays)}; the prompts before brought "
                f"{_described(self._arrays)}: capture all prompts alike, or to another folder"
            )
        tensors = {tensor_name(prompt, *key): x for key, x in given.items()}
        tensors |= {tensor_name(prompt, TOKEN_IDS): ids, tensor_name(prompt, POSITIONS): places}
        if not self._pending.fits(tensors, self._shard_bytes):
            self._flush()
        self._arrays = arrays
        self._pending.add(prompt, tensors)
        self._added.add(prompt)

    def close(self) -> None:
        """Write what is left, and mark the folder as complete; a second call does nothing.

        Raises:
            DeviceError: it could not be written; make room, and close again.
        """
        if self._closed:
            return
        self._flush(complete=True)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        self._closed = True
        self._pending = PendingShard()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"ActivationWriter({str(self.path)!r}, {len(self._added):,} prompts, {state})"

    def _flush(self, complete: bool = False) -> None:
        """Write the prompts that wait as a shard, then the index that lists it."""
        number, shards = len(self._shards), self._shards
        try:
            if self._pending:
                shards = (*shards, self._pending.write(self.path, number))
            write_index(self.path, self._index(shards, complete))
        except OSError as error:
            with suppress(OSError):
                (self.path / part_name(number)).unlink(missing_ok=True)
            raise DeviceError(
                f"{self.path / part_name(number)} cannot be written ({error.strerror or error}); "
                f"make room, or give another folder. {INDEX} lists what was written before"
            ) from error
        self._shards, self._pending = shards, PendingShard()

    def _index(
        self, shards: tuple[StoredShard, ...] = (), complete: bool = False
    ) -> ActivationIndex:
        return ActivationIndex(
            sites=self._sites,
            layers=self._layers,
            dtype=self._dtype,
            arrays=self._arrays,
            shards=shards,
            complete=complete,
            record=self._record,
        )


def _make_room(path: Path, overwrite: bool) -> None:
    """The folder, empty of activations."""
    path.mkdir(parents=True, exist_ok=True)
    names = [entry.name for entry in path.iterdir()]
    if names and not overwrite:
        raise RequestError(
            f"{path} is not empty ({listed(names, 3)}); give a new folder, or overwrite=True"
        )
    foreign = [n for n in names if not OWN_FILES.fullmatch(n) and not n.startswith(".")]
    if foreign:
        raise RequestError(
            f"{path} holds other files than activations ({listed(foreign, 3)}), which overwrite "
            "does not touch; give a new folder"
        )
    # The index goes first: it never names a shard that is gone.
    for name in sorted(filter(OWN_FILES.fullmatch, names)):
        (path / name).unlink()


def _checked_sites(sites: Sequence[str]) -> tuple[str, ...]:
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    for site in names:
        if site not in SITES:
            raise RequestError(f"{site!r} is not a site; the sites are {', '.join(SITES)}")
    if not names or len(set(names)) < len(names):
        raise RequestError(f"sites is {names}; name at least one, and each once")
    return names


def _checked_layers(layers: Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(integers("layers", [layers] if np.ndim(layers) == 0 else layers).tolist())
    if not numbers or len(set(numbers)) < len(numbers):
        raise RequestError(f"layers is {numbers}; name at least one, and each once")
    return numbers


def _checked_dtype(dtype: str) -> str:
    try:
        return DataType.parse(dtype).value
    except ConfigError as error:
        raise RequestError(
            f"dtype {dtype!r} is not one of activations; choose one of {', '.join(DTYPES)}"
        ) from error


def _checked_shard_bytes(shard_bytes: int) -> int:
    if isinstance(shard_bytes, bool) or not isinstance(shard_bytes, int) or shard_bytes < 1:
        raise RequestError(f"shard_bytes is {shard_bytes!r}; give a number of bytes, such as 2**28")
    return shard_bytes


def _described(arrays: Mapping[str, StoredSite]) -> str:
    return "; ".join(
        f"{site} {stored.dtype} of layers {', '.join(map(str, stored.layers))}"
        for site, stored in arrays.items()
    )
