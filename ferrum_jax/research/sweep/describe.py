"""Variants in words: what differs from the model that is swept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ferrum_jax.models.shapes import path_name
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import EVERYWHERE, Edit, EngineConfig, ModelConfig, Taps

if TYPE_CHECKING:
    from ferrum_jax.research.sweep.variant import Variant

MOST_SHOWN = 8
"""Numbers of an edit's array that are still spelled out."""


def describe(variant: Variant, llm: LLM) -> str:
    """One line: `layers 0-3: activation silu -> gelu_tanh; kv_dtype int8`."""
    source = variant.llm or llm
    parts = []
    if variant.llm is not None:
        config = variant.llm.config
        parts.append(f"{config.model_type} of {config.num_layers} layers")
    if variant.config is not None:
        parts += _config_changes(source.config, variant.config) or ["config unchanged"]
    if variant.engine is not None:
        parts += _engine_changes(source.engine_config, variant.engine) or ["engine unchanged"]
    if variant.taps is not None:
        parts += list(_taps_parts(variant.taps)) or ["no edits"]
    return "; ".join(parts) or "baseline"


def _config_changes(old: ModelConfig, new: ModelConfig) -> list[str]:
    """Changed fields, those of layers with the layers that share the change."""
    changes = [
        f"{name} {a} -> {b}" for name, a, b in _differences(old, new) if not name.startswith("lay")
    ]
    if old.num_layers != new.num_layers:
        return [*changes, f"layers {old.num_layers} -> {new.num_layers}"]
    by_change: dict[str, list[int]] = {}
    for i, (before, after) in enumerate(zip(old.layers, new.layers, strict=True)):
        for name, a, b in _differences(before, after):
            by_change.setdefault(f"{name.split('.')[-1]} {a} -> {b}", []).append(i)
    merged: dict[str, list[str]] = {}
    for change, layers in by_change.items():
        merged.setdefault(layers_text(layers), []).append(change)
    return changes + [f"{layers}: {', '.join(found)}" for layers, found in merged.items()]


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ, with dots for those inside; whole values where the kinds differ."""
    if old == new:
        return
    if type(old) is not type(new) or not dataclasses.is_dataclass(old):
        yield name, old, new
        return
    for field in dataclasses.fields(old):
        inner = f"{name}.{field.name}" if name else field.name
        yield from _differences(getattr(old, field.name), getattr(new, field.name), inner)


def _engine_changes(old: EngineConfig, new: EngineConfig | Mapping[str, Any]) -> list[str]:
    if isinstance(new, EngineConfig):
        new = {f.name: getattr(new, f.name) for f in dataclasses.fields(new)}
    return [f"{k} {v}" for k, v in new.items() if getattr(old, k, None) != v]


def _taps_parts(taps: Taps) -> Iterator[str]:
    for site, edits in taps.edits.items():
        for edit in edits:
            yield f"{site}: {_edit_text(edit)}" if isinstance(edit, Edit) else f"{site}: {edit}"
    if taps.adapters is not None:
        yield f"adapter {taps.adapters.digest[:12]}"
    if taps.capture:
        yield f"captures {', '.join(taps.capture)}"


def _edit_text(edit: Edit) -> str:
    """`SetUnits(head), units [[3, 5]], layer 3`: operation, data and layers of an edit."""
    operation = edit.operation
    arguments = [
        str(getattr(value, "__name__", value))
        for value in (getattr(operation, f.name) for f in dataclasses.fields(operation))
    ]
    name = type(operation).__name__ + (f"({', '.join(arguments)})" if arguments else "")
    leaves = jax.tree_util.tree_leaves_with_path(edit.values)
    values = [f"{_leaf_name(path)} {_array_text(np.asarray(x)[0])}" for path, x in leaves]
    return ", ".join([name, *values, _spans_text(np.asarray(edit.layers)[0])])


def _leaf_name(path: tuple[Any, ...]) -> str:
    return path_name(path).strip("[]'") or "values"


def _array_text(values: np.ndarray) -> str:
    if values.size > MOST_SHOWN:
        return f"{values.dtype.name}[{','.join(map(str, values.shape))}]"
    if values.dtype.kind in "fV":
        values = values.astype(np.float32)
    text = np.array2string(values, separator=", ", precision=4, floatmode="maxprec")
    return " ".join(text.split())


def _spans_text(spans: np.ndarray) -> str:
    if any(start == 0 and stop == EVERYWHERE for start, stop in spans.tolist()):
        return "all layers"
    return layers_text([layer for start, stop in spans.tolist() for layer in range(start, stop)])


def layers_text(layers: list[int]) -> str:
    """`layer 3`, or `layers 0-3, 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(texts) or 'none'}"
