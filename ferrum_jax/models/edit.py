"""Another model with the same weights: change the specs of some or all layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from ferrum_jax.types import (
    Activation,
    ConfigError,
    GroupScore,
    LayerSpec,
    ModelConfig,
    NormKind,
    NormPlacement,
    QKNormOver,
    RouterKind,
)

KINDS = {
    "norm": NormKind,
    "qk_norm": NormKind,
    "qk_norm_over": QKNormOver,
    "v_norm": NormKind,
    "placement": NormPlacement,
    "activation": Activation,
    "router": RouterKind,
    "group_score": GroupScore,
    "per_layer_input": Activation,
}
"""Fields that hold an enum and may be given by its string."""


def edit_layers(
    config: ModelConfig, layers: Iterable[int] | None = None, **changes: Any
) -> ModelConfig:
    """The config with fields of its layers changed; None: all layers.

    A change names a field of `LayerSpec`, of its `attention` or of its `mlp`:

        edit_layers(config, activation="gelu_tanh")
        edit_layers(config, layers=range(4), window=128, rope=None)

    Raises:
        ConfigError: a layer out of range, an unknown field, or one that a layer does not have.
    """
    chosen = set(range(config.num_layers) if layers is None else layers)
    for index in sorted(chosen):
        if not isinstance(index, int) or not 0 <= index < config.num_layers:
            raise ConfigError(
                f"layer {index!r} does not exist; the model has layers 0 to {config.num_layers - 1}"
            )
    changes = {name: _as_kind(name, value) for name, value in changes.items()}
    return replace(
        config,
        layers=tuple(
            _edit(spec, changes, i) if i in chosen else spec for i, spec in enumerate(config.layers)
        ),
    )


def _as_kind(name: str, value: Any) -> Any:
    kind = KINDS.get(name)
    if kind is None or value is None:
        return value
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(kind)}") from None


def _edit(spec: LayerSpec, changes: dict[str, Any], layer: int) -> LayerSpec:
    blocks = {"attention": spec.attention, "mlp": spec.mlp, "recurrent": spec.recurrent}
    owners = {name: block for name, block in blocks.items() if block is not None} | {"spec": spec}
    parts: dict[str, dict[str, Any]] = {name: {} for name in owners}
    for name, value in changes.items():
        for part, owner in owners.items():
            if name in (f.name for f in fields(owner)):
                parts[part][name] = value
                break
        else:
            known = sorted(f.name for owner in owners.values() for f in fields(owner))
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"layer {layer} has no field {name!r}"
                + (f" (did you mean {close[0]!r}?)" if close else "")
                + f"; its fields are {', '.join(known)}"
            )
    of_spec = parts.pop("spec")
    changed = {name: replace(owners[name], **values) for name, values in parts.items() if values}
    return replace(spec, **of_spec, **changed)
