"""OLMo 3 (2025): OLMo 2 with three windowed layers to a full one, whose rope alone is stretched."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config
from ferrum_jax.models.families.olmo2 import names, olmo_attention, post_norm_layer
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.types import ConfigError, ModelConfig, RopeConfig

__all__ = ["names", "read"]


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: olmo3`."""
    full_rope, sliding_rope = _ropes(reader)
    attention, window = olmo_attention(reader, full_rope), reader.size("sliding_window", 4096)
    full = post_norm_layer(reader, attention)
    sliding = replace(full, attention=replace(attention, rope=sliding_rope, window=window))
    count = reader.size("num_hidden_layers")
    default = ["full_attention" if i % 4 == 3 else "sliding_attention" for i in range(count)]
    kinds = reader.layer_types(count, default)
    return model_config(
        reader, [sliding if kind == "sliding_attention" else full for kind in kinds], eps=1e-5
    )


def _ropes(reader: ConfigReader) -> tuple[RopeConfig, RopeConfig]:
    """The ropes of full and of sliding layers; `rope_scaling` is for full ones only."""
    theta = reader.number("rope_theta", 500_000.0)
    nested = ropes_by_kind(reader)
    full = nested["full_attention"] | (reader.get("rope_scaling", None) or {})
    return parse_rope(reader, full, theta), parse_rope(reader, nested["sliding_attention"], theta)


def ropes_by_kind(reader: ConfigReader) -> dict[str, dict]:
    """`rope_parameters` of a model that has a rope for each kind of layer; empty where absent.

    Raises:
        ConfigError: it is no object of objects, or names another kind.
    """
    known = ("full_attention", "sliding_attention")
    nested = reader.get("rope_parameters", None) or {}
    if not isinstance(nested, dict) or nested.keys() - set(known):
        raise ConfigError(
            f"{reader.where}: rope_parameters is {nested!r}; "
            f"it must be an object with {' and '.join(known)}"
        )
    return {kind: nested.get(kind) or {} for kind in known}
