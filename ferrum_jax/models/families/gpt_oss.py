"""gpt-oss (OpenAI 2025): attention sinks, windows on every other layer, clamped experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.experts import fused
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import (
    LayerSpec,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RopeKind,
    RopeScaling,
    RouterKind,
)

YARN = RopeScaling(
    RopeKind.YARN, factor=32.0, original_max_positions=4096, beta_fast=32.0, truncate=False
)
"""The rope of a file that names none."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gpt_oss`."""
    bias = reader.flag("attention_bias", True)
    attention = read_attention(reader, _rope(reader), head_dim=64, qkv_bias=bias, out_bias=bias)
    attention = replace(attention, sinks=True)
    count = reader.size("num_hidden_layers")
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(count)]
    window = reader.size("sliding_window", 128)
    # The experts have an activation of their own, whatever hidden_act says.
    reader.ignore("hidden_act", "experts_per_token", "initial_context_length")
    experts = _experts(reader)
    return model_config(
        reader,
        [
            LayerSpec(
                replace(attention, window=window if kind == "sliding_attention" else None), experts
            )
            for kind in reader.layer_types(count, default)
        ],
        eps=1e-5,
    )


def _rope(reader: ConfigReader) -> RopeConfig:
    rope = partial_rope(reader, theta=150_000.0)
    if reader.get("rope_parameters", None) or reader.get("rope_scaling", None):
        return rope
    return replace(rope, scaling=YARN)


def _experts(reader: ConfigReader) -> MoEConfig:
    count, chosen = reader.size("num_local_experts", 128), reader.size("num_experts_per_tok", 4)
    check_count(reader, "num_experts_per_tok", chosen, count)
    reader.ignore("output_router_logits", "router_aux_loss_coef")
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("intermediate_size", 2880),
        router=RouterKind.SOFTMAX_OF_CHOSEN,
        norm_topk=False,
        router_bias=True,
        expert_bias=True,
        clamp=reader.number("swiglu_limit", 7.0),
        swish_alpha=reader.number("swiglu_alpha", 1.702),
        up_offset=1.0,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=partial(_moe_names, config.hidden_size))


def _moe_names(width: int, prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """Gate and up stand in one tensor, element by element in turn."""
    here = f"{prefix}.mlp"
    count, size = moe.num_experts, moe.ffn_size
    table: dict[str, Source] = {
        "router": Linear(f"{here}.router.weight"),
        "router_bias": Plain(f"{here}.router.bias"),
        "down": Plain(f"{here}.experts.down_proj", table=True),
        "down_bias": Plain(f"{here}.experts.down_proj_bias", table=True),
    }
    for part, ours in enumerate(("gate", "up")):
        joined = f"{here}.experts.gate_up_proj"
        table[ours] = fused(joined, (count, width, size), part, alternating=True)
        table[f"{ours}_bias"] = fused(f"{joined}_bias", (count, size), part, alternating=True)
    return table
