"""From a checkpoint directory to a config and parameters, strictly: nothing missing, nothing left.

Tensors are memory-mapped and cast one by one, so the host holds the loaded weights and one tensor.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.families import family_of, read_config
from ferrum_jax.models.params import Params, flatten_shapes, unflatten
from ferrum_jax.models.weights.checkpoint import open_checkpoint
from ferrum_jax.models.weights.files import listed, read_json
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import DataType, ModelConfig, WeightError

IGNORED = (".rotary_emb.inv_freq", ".attn.masked_bias")
"""Buffers that older checkpoints saved and that the config determines."""


def load_model(
    path: str | Path, dtype: str = "float32", *, progress: bool = False
) -> tuple[ModelConfig, Params]:
    """The config and the parameters of a Hugging Face directory or hub id.

    Args:
        dtype: of all parameters (float32, bfloat16 or float16); they are cast as they are read.
        progress: show a bar by bytes.

    Raises:
        ModelError, ConfigError, UnsupportedError, WeightError: as the parts that they name;
            nothing is left half-loaded.
    """
    kind = DataType.parse(dtype)
    directory = resolve_checkpoint(path)
    config = load_config(directory)
    with open_checkpoint(directory) as source:
        return config, load_params(config, source, kind, progress=progress)


def load_config(directory: Path) -> ModelConfig:
    """The `ModelConfig` of a checkpoint directory's `config.json`."""
    return read_config(read_json(directory, "config.json"), str(directory / "config.json"))


def load_params(
    config: ModelConfig, source: WeightSource, dtype: DataType, *, progress: bool = False
) -> Params:
    """The parameters that `config` asks for, each read, cast and handed to the device in turn.

    Raises:
        WeightError: missing, unread and misshapen tensors, all in one error, before any is read.
    """
    shapes = flatten_shapes(config)
    table: dict[str, Source] = family_of(config.model_type, source.location).names(config)
    assert table.keys() == shapes.keys(), table.keys() ^ shapes.keys()
    _check(table, shapes, source)
    place = {name: i for i, name in enumerate(source.names())}
    ordered = sorted(table, key=lambda key: place[table[key].names[0]])
    arrays = {}
    with tqdm(
        total=source.nbytes, unit="B", unit_scale=True, desc="load", disable=not progress
    ) as bar:
        for key in ordered:
            arrays[key] = _read(table[key], shapes[key], source, dtype, bar)
    return unflatten(config, arrays)


def _check(
    table: dict[str, Source], shapes: dict[str, tuple[int, ...]], source: WeightSource
) -> None:
    held = set(source.names())
    wanted = {
        name: entry.stored_shape(shapes[key], index)
        for key, entry in table.items()
        for index, name in enumerate(entry.names)
    }
    missing = wanted.keys() - held
    unread = {name for name in held - wanted.keys() if not name.endswith(IGNORED)}
    misshapen = [
        f"{name} is {source.shape(name)}, not {shape}"
        for name, shape in wanted.items()
        if name in held and source.shape(name) != shape
    ]
    problems = []
    if missing:
        problems.append(f"missing ({len(missing)}): {listed(missing, limit=50)}")
    if unread:
        problems.append(f"unread ({len(unread)}): {listed(unread, limit=50)}")
    if misshapen:
        problems.append(f"misshapen ({len(misshapen)}): {'; '.join(misshapen[:50])}")
    if problems:
        raise WeightError(
            f"{source.location} does not hold the tensors that its config.json describes. "
            + ". ".join(problems)
            + ". Check that the weights and config.json belong together"
        )


def _read(
    entry: Source, shape: tuple[int, ...], source: WeightSource, dtype: DataType, bar: tqdm
) -> jax.Array:
    """One parameter on the device, from as many tensors as it takes."""
    host = np.empty(shape, jax.numpy.dtype(dtype.value))
    for index, name in enumerate(entry.names):
        stored = source.read(name)
        if not jax.numpy.issubdtype(stored.dtype, jax.numpy.floating):
            raise WeightError(
                f"{source.location}: {name} has dtype {stored.dtype}; weights are floating-point"
            )
        entry.fill(host, index, stored)
        bar.update(stored.nbytes)
    return jax.device_put(host)
