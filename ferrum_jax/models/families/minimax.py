"""MiniMax (2025): lightning and softmax attention, experts, and residuals taken after the norm."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mamba2 import only_silu
from ferrum_jax.models.families.mixtral import numbered_expert_names
from ferrum_jax.models.families.qwen3_next import FULL, LINEAR
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import AttentionConfig, LayerSpec, LightningConfig, ModelConfig, MoEConfig

_IGNORED = (
    "attn_type_list",
    "block_size",
    "output_router_logits",
    "postnorm",
    "rotary_dim",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "shared_moe_mode",
)
"""Keys of the reference's blocks, of training, and of the original code; transformers turns the
whole head."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: minimax`.

    Raises:
        UnsupportedError: a shared expert, an activation other than silu.
    """
    reader.ignore(*_IGNORED)
    reader.must_be_off("shared_intermediate_size")
    only_silu(reader, "hidden_act")
    attention = replace(
        read_attention(reader, read_rope(reader, theta=1e6)),
        window=reader.optional_size("sliding_window"),
    )
    count = reader.size("num_hidden_layers")
    default = [FULL if i % 2 == 0 else LINEAR for i in range(count)]
    factors = {x: _factors(reader, f"{x}_attn") for x in ("full", "linear")}
    shared = LayerSpec(mlp=_experts(reader), residual_from_norm=True)
    shared = replace(shared, **_scales("mlp", "mlp", _factors(reader, "mlp")))
    layers = [
        replace(shared, attention=attention, **_scales("mixer", "attention", factors["full"]))
        if kind == FULL
        else replace(
            shared,
            recurrent=_lightning(attention, i, count),
            **_scales("mixer", "recurrent", factors["linear"]),
        )
        for i, kind in enumerate(reader.layer_types(count, default, (FULL, LINEAR)))
    ]
    return model_config(reader, layers, eps=1e-5)


def _factors(reader: ConfigReader, block: str) -> tuple[float, float]:
    """Of what a block's output is added to, and of the output."""
    alpha, beta = (reader.number(f"{block}_{x}_factor", 1) for x in ("alpha", "beta"))
    return alpha, beta


def _scales(place: str, block: str, factors: tuple[float, float]) -> dict[str, float]:
    return {f"{place}_residual_scale": factors[0], f"{block}_scale": factors[1]}


def _lightning(attention: AttentionConfig, layer: int, layers: int) -> LightningConfig:
    """Heads forget at rates of a geometric series, and later layers more slowly."""
    heads = attention.num_heads
    slower = 1 - layer / (layers - 1 + 1e-5) + 1e-5
    decays = tuple(2.0 ** (-8 / heads * (n + 1)) * slower for n in range(heads))
    return LightningConfig(heads, attention.head_dim, decays)


def _experts(reader: ConfigReader) -> MoEConfig:
    count, chosen = reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2)
    check_count(reader, "num_experts_per_tok", chosen, count)
    return MoEConfig(count, chosen, reader.size("intermediate_size", 14_336))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, recurrent=_lightning_names, moe=numbered_expert_names)


def _lightning_names(prefix: str, _: LightningConfig) -> dict[str, Source]:
    here = f"{prefix}.self_attn"
    return {
        "qkv": Linear(f"{here}.qkv_proj.weight"),
        "gate": Linear(f"{here}.output_gate.weight"),
        "norm": Plain(f"{here}.norm.weight"),
        "out": Linear(f"{here}.out_proj.weight", inputs=2),
    }
