"""LoRA adapters as PEFT saves them: `adapter_config.json` beside `adapter_model.safetensors`.

A module's change is `scale * B A`, B `[out, r]` and A `[r, in]`. B is laid out as the module's own
weight is, by the same table of sources; so every family's joined, split and turned projections take
adapters. Modules are known by the number of their layer and what stands behind it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferrum_jax.models.adapters import as_matrix, changeable, of_experts
from ferrum_jax.models.families import family_of
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.models.weights.files import listed, read_json
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.peft_config import PeftConfig
from ferrum_jax.models.weights.safetensors_file import SafetensorsFile
from ferrum_jax.models.weights.sources import Heads, Linear, SideBySide, Source, Stacked, View
from ferrum_jax.types import (
    Adapters,
    DataType,
    LowRank,
    ModelConfig,
    MoEConfig,
    UnsupportedError,
    WeightError,
)

WEIGHTS_FILE = "adapter_model.safetensors"
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])(?:\.default)?\.weight")
_IN_LAYER = re.compile(r"(?:.*?\.)?(\d+)\.(.+)")


class _Place(NamedTuple):
    """A parameter that is made, in whole or in part, of a stored tensor."""

    path: str
    source: Source
    index: int


class _Module(NamedTuple):
    name: str
    layer: int
    inside: str
    """its name behind the layer's number"""
    a: np.ndarray
    """[r, in]; of joined experts [E r, in]"""
    b: np.ndarray
    """[out, r]; of joined experts [out, r E]"""
    scale: float


def load_adapter(path: str | Path, config: ModelConfig, dtype: str = "float32") -> Adapters:
    """A PEFT LoRA adapter of a directory or hub id, in the layout of the model's parameters.

    Args:
        dtype: of its matrices: the model's.

    Raises:
        WeightError: matrices are missing or do not fit the model.
        UnsupportedError: it changes what no adapter changes here, or in another way than LoRA.
        ModelError, ConfigError: the directory or its config is none.
    """
    directory = resolve_checkpoint(path)
    settings = PeftConfig.read(read_json(directory, "adapter_config.json"), str(directory))
    with SafetensorsFile(directory / WEIGHTS_FILE) as file:
        modules = _modules(file, settings)
    shapes = flatten_shapes(config)
    places = _places(config, str(directory))
    parts: dict[str, list[LowRank]] = {}
    for module in modules:
        for place, change in _changes(module, config, places, shapes, settings):
            parts.setdefault(place.path, []).append(change)
    kind = jnp.dtype(DataType.parse(dtype).value)
    changes = {path: _joined(path, shapes[path], found, kind) for path, found in parts.items()}
    return Adapters(changes, np.ones((1, 1), np.float32), _digest(modules))


def _modules(file: SafetensorsFile, settings: PeftConfig) -> list[_Module]:
    """Every changed module with both of its matrices, and its scale."""
    found: dict[str, dict[str, np.ndarray]] = {}
    unread = []
    for key in file.names():
        match = _KEY.fullmatch(key)
        if match is None:
            unread.append(key)
            continue
        module = match["module"].removeprefix("base_model.model.")
        found.setdefault(module, {})[match["matrix"]] = np.array(file.read(key), np.float32)
    if unread:
        raise UnsupportedError(
            f"{file.location} holds {listed(unread)}; only pairs of lora_A and lora_B are read: "
            "merge other changes into the model with PEFT's merge_and_unload"
        )
    if not found:
        raise WeightError(f"{file.location} holds no lora_A and lora_B at all")
    return [_module(name, pair, file.location, settings) for name, pair in sorted(found.items())]


def _module(name: str, pair: dict[str, np.ndarray], where: str, settings: PeftConfig) -> _Module:
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        raise UnsupportedError(
            f"{where} changes {name}, which is in no layer; adapters change projections of "
            "attention, MLPs and experts: merge it with PEFT's merge_and_unload"
        )
    if set(pair) != {"A", "B"}:
        raise WeightError(f"{where}: {name} has lora_{next(iter(pair))} alone")
    a, b = pair["A"], pair["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise WeightError(f"{where}: lora_A {a.shape} and lora_B {b.shape} of {name} do not match")
    return _Module(name, int(match[1]), match[2], a, b, settings.scale(name, a.shape[0]))


def _places(config: ModelConfig, where: str) -> dict[tuple[int, str], list[_Place]]:
    """Parameters by the layer and the inner name of the tensors that they are made of."""
    found: dict[tuple[int, str], list[_Place]] = {}
    for path, source in family_of(config.model_type, where).names(config).items():
        for index, name in enumerate(source.names):
            match = _IN_LAYER.fullmatch(name)
            if match is not None and path.startswith("layers."):
                place = _Place(path, source, index)
                found.setdefault((int(match[1]), match[2]), []).append(place)
    return found


def _changes(
    module: _Module,
    config: ModelConfig,
    places: dict[tuple[int, str], list[_Place]],
    shapes: dict[str, tuple[int, ...]],
    settings: PeftConfig,
) -> list[tuple[_Place, LowRank]]:
    """What a module changes, in the layout of each parameter that it makes a part of."""
    if not 0 <= module.layer < config.num_layers:
        raise WeightError(
            f"{settings.where} changes {module.name}; the model has layers 0 to "
            f"{config.num_layers - 1}"
        )
    inside = module.inside.replace(".base_layer", "")
    here = places.get((module.layer, f"{inside}.weight"), [])
    if not here and inside.rpartition(".")[2] == "experts":
        return _of_joined_experts(module, inside, config, places, shapes, settings)
    for place in here:
        if not changeable(place.path):
            here = []
    if not here:
        raise UnsupportedError(
            f"{settings.where} changes {module.name}, which is no projection of attention, an MLP "
            f"or experts of this {config.model_type}; merge it with PEFT's merge_and_unload"
        )
    if of_experts(here[0].path, shapes[here[0].path]) and not isinstance(here[0].source, Stacked):
        return _of_stored_experts(module, here, shapes, settings)
    return [(place, _of_matrix(module, place, shapes[place.path], settings)) for place in here]


def _of_matrix(
    module: _Module, place: _Place, shape: tuple[int, ...], settings: PeftConfig
) -> LowRank:
    """The change of one matrix; of one expert's, among those of all."""
    inputs, outputs = as_matrix(place.path, shape)
    stored = place.source.stored_shape(shape, place.index)
    rank = module.a.shape[0]
    turned = settings.fan_in_fan_out
    size = stored[::-1] if turned else stored
    if (module.b.shape[0], module.a.shape[1]) != size:
        raise WeightError(
            f"{settings.where}: the change of {module.name} is of a matrix {module.b.shape[0]} x "
            f"{module.a.shape[1]}; the model's is {size[0]} x {size[1]}"
        )
    if of_experts(place.path, shape):
        a = np.zeros((shape[0], inputs, rank), np.float32)
        b = np.zeros((shape[0], rank, *outputs), np.float32)
        a[place.index], b[place.index] = module.a.T, module.b.T
        return LowRank(a, b * module.scale, np.ones((1, rank), np.float32))
    b = _laid_out(place, module.b, inputs, outputs, stored, turned=turned)
    return LowRank(module.a.T, b * module.scale, np.ones((1, rank), np.float32))


def _laid_out(
    place: _Place,
    b: np.ndarray,
    inputs: int,
    outputs: tuple[int, ...],
    stored: tuple[int, ...],
    *,
    turned: bool,
) -> np.ndarray:
    """B `[out, r]` as the rows `[r, O...]` of the parameter: a weight with r inputs."""
    rank = b.shape[1]
    if isinstance(place.source, Linear | Heads | SideBySide) and not turned:
        full = np.zeros((rank, *outputs), np.float32)
        place.source.fill(full, place.index, b)
        return full
    # Other sources know the number of inputs: B is put into the first of them.
    if rank > inputs:
        raise UnsupportedError(f"rank {rank} is above the {inputs} inputs of {place.path}")
    padded = np.zeros(stored, np.float32)
    if turned:
        padded[:rank] = b.T
    else:
        padded[:, :rank] = b
    full = np.zeros((inputs, *outputs), np.float32)
    place.source.fill(full, place.index, padded)
    return full[:rank]


def _of_joined_experts(
    module: _Module,
    inside: str,
    config: ModelConfig,
    places: dict[tuple[int, str], list[_Place]],
    shapes: dict[str, tuple[int, ...]],
    settings: PeftConfig,
) -> list[tuple[_Place, LowRank]]:
    """Of `experts.gate_up_proj` or `experts.down_proj`, as modules hold them that keep all experts
    in one tensor; which of the two, its shape tells."""
    spec = config.layers[module.layer]
    block = "mlp" if isinstance(spec.mlp, MoEConfig) else "experts_beside"
    prefix = f"layers.{module.layer}.{block}"
    if spec.sparse is None:
        raise UnsupportedError(
            f"{settings.where} changes {module.name}, and layer {module.layer} has no experts"
        )
    experts, width, ffn = shapes[f"{prefix}.up"]
    gated = f"{prefix}.gate" in shapes
    names = {(width, 2 * ffn if gated else ffn): "gate_up_proj" if gated else "up_proj"}
    names[ffn, width] = "down_proj"
    size = module.a.shape[1], module.b.shape[0]
    if size not in names and size[::-1] in names and gated:
        # PEFT takes a tensor that is stored `[E, in, out]` for a turned one: A and B change places.
        module, size = _swapped(module, experts), size[::-1]
    if size not in names or module.a.shape[0] % experts:
        raise WeightError(
            f"{settings.where}: the change of {module.name} takes {size[0]} inputs to {size[1]} "
            f"outputs at {module.a.shape[0]} ranks; the {experts} experts of layer "
            f"{module.layer} take {width} to {ffn}"
        )
    stored = places.get((module.layer, f"{inside}.{names[size]}"), [])
    if stored:
        return _of_stored_experts(module, stored, shapes, settings)
    a, b = _by_expert(module, experts, settings)
    parts = ("down",) if names[size] == "down_proj" else ("gate", "up") if gated else ("up",)
    cuts = np.split(b, len(parts), axis=2)
    scales = np.ones((1, a.shape[2]), np.float32)
    return [
        (_Place(f"{prefix}.{part}", Linear(""), 0), LowRank(a, cut, scales))
        for part, cut in zip(parts, cuts, strict=True)
    ]


def _of_stored_experts(
    module: _Module,
    places: list[_Place],
    shapes: dict[str, tuple[int, ...]],
    settings: PeftConfig,
) -> list[tuple[_Place, LowRank]]:
    """Of experts that the checkpoint too keeps in one tensor `[E, in, out]` or `[E, out, in]`."""
    changes = []
    for path, source, index in places:
        shape = shapes[path]
        experts, inputs, _ = shape
        a, b = _by_expert(module, experts, settings)
        rank = a.shape[2]
        stored = source.stored_shape(shape, index)
        swapped = isinstance(source, View) and source.order is not None
        if sorted(stored) != sorted((experts, inputs, b.shape[2])) or rank > inputs:
            raise WeightError(
                f"{settings.where}: the change of {module.name}, {a.shape} times {b.shape}, does "
                f"not fit the model's {stored}"
            )
        padded = np.zeros(stored, np.float32)
        if swapped:
            padded[:, :, :rank] = b.transpose(0, 2, 1)
        else:
            padded[:, :rank] = b
        full = np.zeros(shape, np.float32)
        source.fill(full, index, padded)
        change = LowRank(a, full[:, :rank], np.ones((1, rank), np.float32))
        changes.append((_Place(path, source, index), change))
    return changes


def _swapped(module: _Module, experts: int) -> _Module:
    """The module with its change turned, `A' B'` in place of `B A`."""
    a = module.a.reshape(experts, -1, module.a.shape[1])
    b = module.b.reshape(module.b.shape[0], -1, experts)
    return module._replace(
        a=b.transpose(2, 1, 0).reshape(-1, module.b.shape[0]),
        b=a.transpose(2, 1, 0).reshape(module.a.shape[1], -1),
    )


def _by_expert(
    module: _Module, experts: int, settings: PeftConfig
) -> tuple[np.ndarray, np.ndarray]:
    """`[E, in, r]` and `[E, r, out]`: A goes expert by expert, B rank by rank."""
    if module.a.shape[0] % experts:
        raise WeightError(
            f"{settings.where}: {module.name} has {module.a.shape[0]} ranks, no multiple of its "
            f"{experts} experts"
        )
    scale = settings.scale(module.name, module.a.shape[0] // experts)
    a = module.a.reshape(experts, -1, module.a.shape[1])
    b = module.b.reshape(module.b.shape[0], -1, experts) * scale
    return a.transpose(0, 2, 1), b.transpose(2, 1, 0)


def _joined(path: str, shape: tuple[int, ...], parts: list[LowRank], kind: Any) -> LowRank:
    """All changes of one parameter: rank beside rank, but experts share the ranks."""
    if of_experts(path, shape):
        rank = max(part.a.shape[2] for part in parts)
        a = np.zeros((*shape[:2], rank), np.float32)
        b = np.zeros((shape[0], rank, *shape[2:]), np.float32)
        for part in parts:
            a[:, :, : part.a.shape[2]] += part.a
            b[:, : part.b.shape[1]] += part.b
    else:
        a = np.concatenate([part.a for part in parts], axis=1)
        b = np.concatenate([part.b for part in parts], axis=0)
    ones = jnp.ones((1, a.shape[-1]))
    return LowRank(jax.device_put(a.astype(kind)), jax.device_put(b.astype(kind)), ones)


def _digest(modules: list[_Module]) -> str:
    """sha256 of all that the adapter is."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(f"{module.name} {module.scale} {module.a.shape} {module.b.shape}".encode())
        digest.update(np.ascontiguousarray(module.a).tobytes())
        digest.update(np.ascontiguousarray(module.b).tobytes())
    return digest.hexdigest()
