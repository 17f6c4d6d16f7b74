"""Mamba 2 (Dao and Gu 2024): structured state-space duality, and nothing else in a layer."""

from __future__ import annotations

import math
from typing import Any

from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Plain, Source, depthwise
from ferrum_jax.types import (
    Activation,
    ConfigError,
    LayerSpec,
    Mamba2Config,
    ModelConfig,
    RecurrentConfig,
    UnsupportedError,
)

LAYOUT = Layout(
    embed="backbone.embeddings",
    final_norm="backbone.norm_f",
    layers="backbone.layers",
    norms={"mixer_norm": "norm", "mlp_norm": "norm"},
)
"""Of models whose layers have one block and one norm."""
UNBOUNDED = 1 << 20
"""Positions of a model that has none: nothing but this number ends a sequence."""

IGNORED = (
    "chunk_size",
    "norm_before_gate",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "rms_norm",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "time_step_scale",
)
"""Keys of the initialisation, of the reference's chunks, and of the original code."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: mamba2`."""
    reader.ignore(*IGNORED, "intermediate_size")
    heads, size = reader.size("num_heads", 128), reader.size("head_dim", 64)
    inner = reader.size("expand", 2) * reader.size("hidden_size")
    check_heads(reader, "num_heads * head_dim", heads * size, inner)
    only_silu(reader, "hidden_act")
    low, high = read_limits(reader)
    bias = reader.flag("use_bias", False)
    groups = reader.size("n_groups", 8)
    mixer = Mamba2Config(
        num_heads=heads,
        head_dim=size,
        state_size=reader.size("state_size", 128),
        num_groups=groups,
        conv_size=reader.size("conv_kernel", 4),
        conv_bias=reader.flag("use_conv_bias", True),
        proj_bias=bias,
        out_bias=bias,
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        norm_group=group_size(reader, inner, heads, groups),
        dt_min=low,
        dt_max=high,
    )
    return recurrent_model(reader, mixer, tie_embeddings=False)


def recurrent_model(
    reader: ConfigReader, mixer: RecurrentConfig, *, tie_embeddings: bool
) -> ModelConfig:
    """One mixer a layer, the same in all of them; the keyword is the model type's default."""
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=reader.size("hidden_size"),
        layers=(LayerSpec(recurrent=mixer),) * reader.size("num_hidden_layers"),
        max_positions=UNBOUNDED,
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        tie_embeddings=reader.flag("tie_word_embeddings", tie_embeddings),
    )


def check_heads(reader: ConfigReader, what: str, product: int, inner: int) -> None:
    """Refuse heads that do not make up the inner size."""
    if product != inner:
        raise ConfigError(
            f"{reader.where}: {what} is {product}, and the inner size of the recurrence is {inner}"
        )


def group_size(reader: ConfigReader, inner: int, heads: int, groups: int) -> int:
    """Elements of one group, which the gated norm runs over."""
    if heads % groups:
        raise ConfigError(
            f"{reader.where}: {heads} heads of the recurrence do not stand in {groups} groups"
        )
    return inner // groups


def only_silu(reader: ConfigReader, key: str) -> Activation:
    """The activation behind a convolution, of which one is run.

    Raises:
        UnsupportedError: any other.
    """
    if reader.activation(key, "silu") is not Activation.SILU:
        raise UnsupportedError(
            f"{reader.where}: {key} is {reader.get(key)!r}; the recurrence runs with silu only"
        )
    return Activation.SILU


def read_limits(reader: ConfigReader, key: str = "time_step_limit") -> tuple[float, float]:
    """What a time step is cut to; infinity is written as itself or as transformers 5 does."""
    value = reader.get(key, None)
    if value is None:
        return 0.0, math.inf
    limits = [_limit(x) for x in value] if isinstance(value, list) else []
    if len(limits) != 2 or any(x is None for x in limits):
        raise ConfigError(f"{reader.where}: {key} is {value!r}; it must be two numbers")
    return limits[0], limits[1]  # type: ignore[return-value]


def _limit(value: Any) -> float | None:
    if value == {"__float__": "Infinity"}:
        return math.inf
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, LAYOUT, recurrent=alone)


def alone(prefix: str, mixer: Mamba2Config) -> dict[str, Source]:
    """A Mamba 2 mixer in a layer that has nothing besides."""
    return mixer_names(f"{prefix}.mixer", mixer)


def mixer_names(prefix: str, mixer: Mamba2Config) -> dict[str, Source]:
    """The parameters of one Mamba 2 mixer, which all models with it name alike."""
    table: dict[str, Source] = {
        "project": Linear(f"{prefix}.in_proj.weight"),
        "conv": depthwise(f"{prefix}.conv1d.weight", mixer.conv_channels, mixer.conv_size),
        "out": Linear(f"{prefix}.out_proj.weight"),
    }
    table |= {key: Plain(f"{prefix}.{key}") for key in ("dt_bias", "A_log", "D")}
    optional = {
        "project_bias": (mixer.proj_bias, "in_proj.bias"),
        "conv_bias": (mixer.conv_bias, "conv1d.bias"),
        "out_bias": (mixer.out_bias, "out_proj.bias"),
        "norm": (mixer.norm_eps is not None, "norm.weight"),
    }
    for key, (there, name) in optional.items():
        if there:
            table[key] = Plain(f"{prefix}.{name}")
    return table
