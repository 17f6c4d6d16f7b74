"""From a checkpoint directory to a config and parameters, strictly: nothing missing, nothing left.

Tensors are memory-mapped and cast one by one, so the host holds the loaded weights and one tensor.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.families import family_of, read_config
from ferrum_jax.models.families.published import text_part
from ferrum_jax.models.families.quantization import read_quantization
from ferrum_jax.models.host_memory import empty_for_weights
from ferrum_jax.models.params import Params
from ferrum_jax.models.partition import Placement
from ferrum_jax.models.quantized import quantise, quantises
from ferrum_jax.models.shapes import flatten_shapes, unflatten
from ferrum_jax.models.weights.checkpoint import open_checkpoint
from ferrum_jax.models.weights.dequantize import dequantized
from ferrum_jax.models.weights.files import listed, read_json
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.load_quantized import rounded_as_stored
from ferrum_jax.models.weights.naming import (
    HEADS,
    Naming,
    Surroundings,
    locate,
    sort_out,
    stored_heads,
)
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import DataType, ModelConfig, WeightError

_LOG = logging.getLogger(__name__)


def load_model(
    path: str | Path,
    dtype: str = "float32",
    *,
    progress: bool = False,
    quantization: str | None = None,
    placement: Placement | None = None,
) -> tuple[ModelConfig, Params]:
    """The config and the parameters of a Hugging Face directory or hub id.

    Of a multimodal checkpoint the text model is loaded; the other parts are left aside, with a line
    in the log. Weights in fp8 and mxfp4, and those of GPTQ, AWQ and compressed-tensors, become
    floating-point numbers of `dtype`.
    A tied model that stores its head besides is loaded where the head equals the embedding.

    Args:
        dtype: of all parameters (float32, bfloat16 or float16); they are cast as they are read.
        progress: show a bar by bytes.
        quantization: `int8`, `fp8` or `int4`: projections are rounded as they are read
            (`models/quantized.py`); those that compressed-tensors stores so already stay as stored.
        placement: the devices that they are divided over; None: all go to the default device.

    Raises:
        ModelError, ConfigError, UnsupportedError, WeightError: as the parts that they name;
            nothing is left half-loaded.
    """
    kind = DataType.parse(dtype)
    directory = resolve_checkpoint(path)
    where = str(directory / "config.json")
    raw = read_json(directory, "config.json")
    config, stored = read_config(raw, where), read_quantization(text_part(raw, where), where)
    with open_checkpoint(directory) as source:
        return config, load_params(
            config,
            dequantized(source, stored),
            kind,
            around=Surroundings.of(raw, where),
            progress=progress,
            quantization=quantization,
            placement=placement,
        )


def load_config(directory: Path) -> ModelConfig:
    """The `ModelConfig` of a checkpoint directory's `config.json`."""
    return read_config(read_json(directory, "config.json"), str(directory / "config.json"))


def load_params(
    config: ModelConfig,
    source: WeightSource,
    dtype: DataType,
    *,
    around: Surroundings | None = None,
    progress: bool = False,
    quantization: str | None = None,
    placement: Placement | None = None,
) -> Params:
    """The parameters that `config` asks for, each read, cast and handed to the device in turn.

    A tied model needs no head; one that its checkpoint stores besides is left, if it is equal.
    Parts for images or sound are left too, with one line in the log.

    Args:
        around: what the checkpoint holds beside the text model.
        quantization: as in `EngineConfig`: each weight is rounded before it goes to the device.
        placement: the devices that they are divided over; None: all go to the default device.

    Raises:
        WeightError: missing, unread and misshapen tensors, all in one error, before any is read;
            a tied model with another head.
    """
    shapes = flatten_shapes(config)
    family = family_of(config.model_type, source.location)
    table: dict[str, Source] = family.names(config)
    assert table.keys() == shapes.keys(), table.keys() ^ shapes.keys()
    wanted = {name for entry in table.values() for name in entry.names}
    naming = locate(wanted, source.names())
    heads: list[str] = []
    if config.tie_embeddings:
        naming, heads = _tied(table["embed"].names[0], naming, source)
    others = set(source.names()) - set(naming.stored.values()) - set(heads)
    unused = family.unused(config) if hasattr(family, "unused") else ()
    unread, aside = sort_out(others, naming, around or Surroundings(), config.num_layers, unused)
    unread = {name for name in unread if not _adds_nothing(name, source)}
    _check(table, shapes, naming, source, unread)
    if aside:
        _LOG.warning(
            "%s: the text model alone is loaded; %d tensors of other parts are left aside (%s)",
            source.location,
            len(aside),
            ", ".join(sorted({name.removeprefix("model.").split(".")[0] for name in aside})),
        )
    place = {name: i for i, name in enumerate(source.names())}
    ordered = sorted(table, key=lambda key: place[naming.stored[table[key].names[0]]])
    arrays = {}
    total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    with tqdm(total=total, unit="B", unit_scale=True, desc="load", disable=not progress) as bar:
        for key in ordered:
            kind = quantization if quantises(key) else None
            leaf = None
            if kind is not None:
                leaf = rounded_as_stored(
                    table[key], key, shapes[key], naming, source, kind, dtype.value
                )
            if leaf is None:
                leaf = _read(table[key], shapes[key], naming, source, dtype)
                leaf = leaf if kind is None else quantise(key, leaf, dtype.value, kind)
            arrays[key] = jax.device_put(leaf) if placement is None else placement.put(key, leaf)
            bar.update(math.prod(shapes[key]) * dtype.itemsize)
    return unflatten(config, arrays)


def _adds_nothing(name: str, source: WeightSource) -> bool:
    """Whether it is a bias of zeros, which writers of rounded weights store for layers without."""
    return name.endswith(".bias") and not np.any(np.asarray(source.read(name), np.float32))


def _tied(embed: str, naming: Naming, source: WeightSource) -> tuple[Naming, list[str]]:
    """The heads that a tied model stores besides, equal to its embedding.

    Where a head alone is stored, as some writers of shared tensors do, it is the embedding.

    Raises:
        WeightError: they are not equal. transformers then unties them, since its version 5.
    """
    heads = stored_heads(source.names())
    stored = naming.stored[embed]
    if heads and stored not in source.names():
        return replace(naming, stored={**naming.stored, embed: heads[0]}), heads
    for head in heads:
        if not _equal(source, head, stored):
            raise WeightError(
                f"{source.location}: config.json ties the head to the embedding, but {head} and "
                f'{stored} are different tensors; say "tie_word_embeddings": false to use both, '
                f"or remove {head}"
            )
    return naming, heads


def _equal(source: WeightSource, first: str, second: str, rows: int = 4096) -> bool:
    """Whether two tensors hold the same numbers; in strips, so that no copy of them is made."""
    if source.shape(first) != source.shape(second):
        return False
    a, b = source.read(first), source.read(second)
    strips = (slice(start, start + rows) for start in range(0, a.shape[0], rows))
    return all(np.array_equal(a[strip], b[strip]) for strip in strips)


def _check(
    table: dict[str, Source],
    shapes: dict[str, tuple[int, ...]],
    naming: Naming,
    source: WeightSource,
    unread: set[str],
) -> None:
    held = set(source.names())
    wanted = {
        naming.stored[name]: entry.stored_shape(shapes[key], index)
        for key, entry in table.items()
        for index, name in enumerate(entry.names)
    }
    missing = wanted.keys() - held
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
    if not problems:
        return
    remedy = "Check that the weights and config.json belong together"
    if len(problems) == 1 and missing and missing <= set(HEADS):
        remedy = (
            "The model has a head of its own and the file has none: if its head is the embedding, "
            'say "tie_word_embeddings": true in config.json; a base model alone gives no logits'
        )
    raise WeightError(
        f"{source.location} does not hold the tensors that its config.json describes. "
        + ". ".join(problems)
        + f". {remedy}"
    )


def _read(
    entry: Source,
    shape: tuple[int, ...],
    naming: Naming,
    source: WeightSource,
    dtype: DataType,
) -> np.ndarray:
    """One parameter on the host, from as many tensors as it takes."""
    host = empty_for_weights(shape, jax.numpy.dtype(dtype.value))
    for index, name in enumerate(naming.stored[name] for name in entry.names):
        stored = source.read(name)
        if not jax.numpy.issubdtype(stored.dtype, jax.numpy.floating):
            raise WeightError(
                f"{source.location}: {name} has dtype {stored.dtype}; weights are floating-point"
            )
        entry.fill(host, index, stored)
    return host
