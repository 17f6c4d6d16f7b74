"""Mamba (Gu and Dao 2023): a selective scan, and nothing else in a layer."""

from __future__ import annotations

import math

from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mamba2 import IGNORED, LAYOUT, only_silu, recurrent_model
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Plain, Source, depthwise
from ferrum_jax.types import MambaConfig, ModelConfig

_ORIGINAL = (
    "d_inner",
    "d_model",
    "fused_add_norm",
    "n_layer",
    "pad_vocab_size_multiple",
    "ssm_cfg",
)
"""Keys of the original code, which the converted files carry along."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: mamba`."""
    rank = reader.get("time_step_rank", "auto")
    hidden = reader.size("hidden_size")
    reader.ignore(*IGNORED, *_ORIGINAL, "use_associative_scan", "use_mambapy")
    expanded = reader.size("expand", 2) * hidden
    only_silu(reader, "hidden_act")
    mixer = MambaConfig(
        inner_size=reader.optional_size("intermediate_size") or expanded,
        state_size=reader.size("state_size", 16),
        conv_size=reader.size("conv_kernel", 4),
        dt_rank=math.ceil(hidden / 16) if rank == "auto" else reader.size("time_step_rank"),
        conv_bias=reader.flag("use_conv_bias", True),
        proj_bias=reader.flag("use_bias", False),
    )
    return recurrent_model(reader, mixer, tie_embeddings=True)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, LAYOUT, recurrent=_mixer_names)


def _mixer_names(layer: str, mixer: MambaConfig) -> dict[str, Source]:
    prefix = f"{layer}.mixer"
    table: dict[str, Source] = {
        "project": Linear(f"{prefix}.in_proj.weight"),
        "conv": depthwise(f"{prefix}.conv1d.weight", mixer.inner_size, mixer.conv_size),
        "select": Linear(f"{prefix}.x_proj.weight"),
        "dt": Linear(f"{prefix}.dt_proj.weight"),
        "dt_bias": Plain(f"{prefix}.dt_proj.bias"),
        "A_log": Plain(f"{prefix}.A_log", table=True),
        "D": Plain(f"{prefix}.D"),
        "out": Linear(f"{prefix}.out_proj.weight"),
    }
    if mixer.conv_bias:
        table["conv_bias"] = Plain(f"{prefix}.conv1d.bias")
    if mixer.proj_bias:
        table["project_bias"] = Plain(f"{prefix}.in_proj.bias")
        table["out_bias"] = Plain(f"{prefix}.out_proj.bias")
    return table
