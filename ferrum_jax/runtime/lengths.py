"""How long a sequence may be: what the caller, the model and its rope allow."""

from __future__ import annotations

from ferrum_jax.types import ConfigError, EngineConfig, ModelConfig, RopeConfig

LONGEST_DEFAULT = 8192
"""`max_model_len` where neither the caller nor a shorter model sets it."""


def length_bound(config: ModelConfig) -> int | None:
    """The length up to which a length-dependent rope is that of the trained context."""
    bounds = [
        rope.scaling.original_max_positions
        for rope in _ropes(config)
        if rope.scaling.depends_on_length
    ]
    return min(bounds, default=None)


def _ropes(config: ModelConfig) -> list[RopeConfig]:
    mixers = [spec.attention for spec in config.layers if spec.attention is not None]
    return [mixer.rope for mixer in mixers if mixer.rope is not None]


def max_model_len(config: ModelConfig, engine: EngineConfig) -> int:
    """The engine's limit: as asked for, else the model's, short of where its rope would change."""
    if engine.max_model_len is not None:
        bound_by_table = not _ropes(config) and not config.is_recurrent
        if engine.max_model_len > config.max_positions and bound_by_table:
            raise ConfigError(
                f"EngineConfig.max_model_len is {engine.max_model_len}; this model has "
                f"{config.max_positions} positions"
            )
        return engine.max_model_len
    bound = length_bound(config)
    return min(config.max_positions, LONGEST_DEFAULT, *([] if bound is None else [bound]))
