"""How long a sequence may be: what the caller, the model and its rope allow."""

from __future__ import annotations

from ferrum_jax.types import ConfigError, EngineConfig, ModelConfig

LONGEST_DEFAULT = 8192
"""`max_model_len` where neither the caller nor a shorter model sets it."""


def length_bound(config: ModelConfig) -> int | None:
    """The length up to which a length-dependent rope is that of the trained context."""
    bounds = [
        spec.attention.rope.scaling.original_max_positions
        for spec in config.layers
        if spec.attention.rope is not None and spec.attention.rope.scaling.depends_on_length
    ]
    return min(bounds, default=None)


def max_model_len(config: ModelConfig, engine: EngineConfig) -> int:
    """The engine's limit: as asked for, else the model's, short of where its rope would change."""
    if engine.max_model_len is not None:
        has_rope = any(spec.attention.rope is not None for spec in config.layers)
        if engine.max_model_len > config.max_positions and not has_rope:
            raise ConfigError(
                f"EngineConfig.max_model_len is {engine.max_model_len}; this model has "
                f"{config.max_positions} positions"
            )
        return engine.max_model_len
    bound = length_bound(config)
    return min(config.max_positions, LONGEST_DEFAULT, *([] if bound is None else [bound]))
