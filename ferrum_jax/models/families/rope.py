"""`rope_parameters`, and the `rope_theta` and `rope_scaling` of older checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.types import ConfigError, RopeConfig, RopeKind, RopeScaling, UnsupportedError

KEYS = {
    RopeKind.DEFAULT: set(),
    RopeKind.LINEAR: {"factor"},
    RopeKind.DYNAMIC: {"factor", "original_max_position_embeddings"},
    RopeKind.YARN: {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
    RopeKind.LONGROPE: {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
    },
    RopeKind.PROPORTIONAL: {"factor"},
    RopeKind.LLAMA3: {
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
    },
}
"""What each kind may name besides its type and theta."""


def read_rope(reader: ConfigReader, *, theta: float = 10_000.0) -> RopeConfig:
    """The rope of a model that has one for all layers; `theta` is the model type's default."""
    theta = reader.get("rope_theta", None) or theta
    old = reader.get("rope_scaling", None)
    return parse_rope(reader, reader.get("rope_parameters", None) or old or {}, theta)


def partial_rope(
    reader: ConfigReader,
    raw: dict[str, Any] | None = None,
    *,
    theta: float = 10_000.0,
    fraction: float = 1.0,
    interleaved: bool = False,
) -> RopeConfig:
    """A rope that may turn a part of each head only.

    Args:
        raw: its dict; None: that of the file.
        theta, fraction: the defaults of the model type. What the dict says beats what the file
            says beside it.

    Raises:
        ConfigError: a fraction that is not in (0, 1], and as `parse_rope`.
    """
    beside = reader.get("rope_parameters", None) or reader.get("rope_scaling", None)
    reader.ignore("rope_scaling")
    raw = dict((beside or {}) if raw is None else raw)
    outer = reader.get("partial_rotary_factor", None)
    part = raw.pop("partial_rotary_factor", fraction if outer is None else outer)
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        raise ConfigError(
            f"{reader.where}: partial_rotary_factor is {part!r}; it must be above 0 and at most 1"
        )
    rope = parse_rope(reader, raw, reader.get("rope_theta", None) or theta)
    return replace(rope, rotary_fraction=float(part), interleaved=interleaved)


def parse_rope(reader: ConfigReader, raw: dict[str, Any], theta: float) -> RopeConfig:
    """A rope from its dict, in the new spelling (`rope_type`) or the old (`type`).

    Raises:
        UnsupportedError: the kind is not known.
        ConfigError: an unknown key, a key that the kind needs and that is absent, a bad value.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{reader.where}: a rope is {raw!r}; it must be an object")
    name = raw.get("rope_type", raw.get("type", "default"))
    try:
        kind = RopeKind(name)
    except ValueError:
        raise UnsupportedError(
            f"{reader.where}: rope type {name!r} is not known; known are {', '.join(RopeKind)}"
        ) from None
    values = {k: v for k, v in raw.items() if k not in ("rope_type", "type") and v is not None}
    theta = values.pop("rope_theta", theta)
    if unknown := sorted(values.keys() - KEYS[kind]):
        raise ConfigError(
            f"{reader.where}: rope of kind {kind} does not know {', '.join(unknown)}; "
            f"it takes {', '.join(sorted(KEYS[kind])) or 'nothing'}"
        )
    for key, value in values.items():
        _check(reader, key, value)
    return RopeConfig(
        theta=_positive(reader, "rope_theta", theta), scaling=_scaling(reader, kind, values)
    )


def _scaling(reader: ConfigReader, kind: RopeKind, values: dict[str, Any]) -> RopeScaling:
    max_positions = reader.size("max_position_embeddings")
    original = values.pop("original_max_position_embeddings", None) or max_positions
    if kind is RopeKind.DEFAULT:
        return RopeScaling()
    if kind is RopeKind.DYNAMIC:
        # transformers measures the growth against the model's own maximum.
        original = max_positions
    if kind is RopeKind.LONGROPE:
        values.setdefault("factor", max_positions / original)
        for key in ("short_factor", "long_factor"):
            if key not in values:
                raise ConfigError(f"{reader.where}: rope of kind longrope needs {key}")
            values[key] = tuple(float(x) for x in values[key])
    elif "factor" not in values:
        raise ConfigError(f"{reader.where}: rope of kind {kind} needs a factor")
    return RopeScaling(kind=kind, original_max_positions=original, **values)


def _check(reader: ConfigReader, key: str, value: Any) -> None:
    if key == "truncate":
        if not isinstance(value, bool):
            raise ConfigError(f"{reader.where}: rope {key} is {value!r}; it must be true or false")
    elif key in ("short_factor", "long_factor"):
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{reader.where}: rope {key} is {value!r}; it must be a list")
        for factor in value:
            _positive(reader, key, factor)
    else:
        _positive(reader, key, value)


def _positive(reader: ConfigReader, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{reader.where}: rope {key} is {value!r}; it must be a positive number")
    return value
