"""DeepSeek V3 (DeepSeek-AI 2024): latent attention, a sigmoid router that chooses groups first.

Kimi K2 and Moonlight are of this type too.
"""

from __future__ import annotations

import math

from ferrum_jax.models.families.common import model_config
from ferrum_jax.models.families.experts import expert_names, shared_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import (
    Activation,
    ConfigError,
    GroupScore,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RopeKind,
    RouterKind,
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: deepseek_v3`."""
    interleaved = reader.flag("rope_interleave", True)
    attention = read_latent(reader, partial_rope(reader, interleaved=interleaved))
    activation = reader.activation("hidden_act", "silu")
    reader.must_be("scoring_func", "sigmoid")
    reader.must_be("topk_method", "noaux_tc")
    experts = read_experts(
        reader,
        activation,
        count=256,
        chosen=8,
        ffn_size=2048,
        shared=1,
        groups=(8, 4),
        norm_topk=True,
        scale=2.5,
    )
    dense = MLPConfig(reader.size("intermediate_size", 18432), activation)
    first = reader.index("first_k_dense_replace", 3)
    return model_config(reader, dense_then_sparse(reader, attention, dense, experts, first))


def read_latent(reader: ConfigReader, rope: RopeConfig) -> MLAConfig:
    """Latent attention; the widths inside default to those of DeepSeek V2 and V3."""
    nope, turned = reader.size("qk_nope_head_dim", 128), reader.size("qk_rope_head_dim", 64)
    heads = reader.size("num_attention_heads")
    for key, value in (
        ("num_key_value_heads", heads),
        ("head_dim", turned),
        ("qk_head_dim", nope + turned),
    ):
        if reader.get(key, None) not in (None, value):
            raise ConfigError(
                f"{reader.where}: {key} is {reader.get(key)!r}; with latent attention of this "
                f"size it can only be {value}"
            )
    ranked = reader.get("q_lora_rank", 1536) is not None
    return MLAConfig(
        num_heads=heads,
        kv_rank=reader.size("kv_lora_rank", 512),
        nope_dim=nope,
        rope_dim=turned,
        value_dim=reader.size("v_head_dim", 128),
        scale=(nope + turned) ** -0.5 * _growth(rope) ** 2,
        rope=rope,
        q_rank=reader.size("q_lora_rank", 1536) if ranked else None,
        bias=reader.flag("attention_bias", False),
    )


def _growth(rope: RopeConfig) -> float:
    """By what a stretched rope lets queries and keys grow (the `mscale` of yarn)."""
    by, factor = rope.scaling.mscale_all_dim, rope.scaling.factor
    if rope.scaling.kind is RopeKind.DEFAULT or not by or factor <= 1:
        return 1.0
    return 0.1 * by * math.log(factor) + 1.0


def read_experts(
    reader: ConfigReader,
    activation: Activation,
    *,
    count: int | None = None,
    chosen: int | None = None,
    ffn_size: int = 1408,
    shared: int | None = None,
    groups: tuple[int, int] = (1, 1),
    norm_topk: bool,
    scale: float = 1.0,
) -> MoEConfig:
    """The sigmoid router with a correction bias and its experts; keywords are defaults."""
    required = {
        "n_routed_experts": count,
        "num_experts_per_tok": chosen,
        "n_shared_experts": shared,
    }
    experts, picked, beside = (
        reader.size(key) if default is None else reader.size(key, default)
        for key, default in required.items()
    )
    of, kept = reader.size("n_group", groups[0]), reader.size("topk_group", groups[1])
    check_choice(reader, experts, picked, of, kept)
    ignore_training(reader)
    size = reader.size("moe_intermediate_size", ffn_size)
    return MoEConfig(
        num_experts=experts,
        experts_per_token=picked,
        ffn_size=size,
        activation=activation,
        norm_topk=reader.flag("norm_topk_prob", norm_topk),
        norm_eps=1e-20,
        router=RouterKind.SIGMOID,
        choice_bias=True,
        groups=of,
        groups_kept=kept,
        group_score=GroupScore.TOP2_SUM,
        weight_scale=reader.number("routed_scaling_factor", scale),
        shared=MLPConfig(beside * size, activation),
    )


def check_choice(reader: ConfigReader, experts: int, chosen: int, groups: int, kept: int) -> None:
    """Refuse a choice that cannot be made: more experts or groups than there are."""
    if experts % groups or kept > groups or chosen > kept * (experts // groups):
        raise ConfigError(
            f"{reader.where}: {chosen} experts per token out of topk_group = {kept} of n_group = "
            f"{groups} groups are more than n_routed_experts = {experts} allow, or the groups are "
            "not of equal size"
        )


def ignore_training(reader: ConfigReader) -> None:
    """Keys of training and of further heads; experts on every layer is the only layout there is."""
    reader.must_be("moe_layer_freq", 1)
    reader.ignore(
        "aux_loss_alpha",
        "ep_size",
        "num_mtp_layers",
        "num_nextn_predict_layers",
        "output_router_logits",
        "router_aux_loss_coef",
        "seq_aux",
    )


def dense_then_sparse(
    reader: ConfigReader, attention, dense: MLPConfig, experts: MoEConfig, first: int
) -> list[LayerSpec]:
    """Dense layers before layer `first` and mixtures of experts from there on."""
    return [
        LayerSpec(attention, dense if i < first else experts)
        for i in range(reader.size("num_hidden_layers"))
    ]


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, attention=latent_names, moe=moe_names)


def latent_names(prefix: str, mla: MLAConfig) -> dict[str, Source]:
    """The names inside latent attention."""
    here = f"{prefix}.self_attn"
    table: dict[str, Source] = {
        "q": Linear(f"{here}.{'q_b_proj' if mla.q_rank else 'q_proj'}.weight"),
        "kv_down": Linear(f"{here}.kv_a_proj_with_mqa.weight"),
        "latent_norm.weight": Plain(f"{here}.kv_a_layernorm.weight"),
        "kv_up": Linear(f"{here}.kv_b_proj.weight"),
        "o": Linear(f"{here}.o_proj.weight", inputs=2),
    }
    if mla.bias:
        table["kv_down_bias"] = Plain(f"{here}.kv_a_proj_with_mqa.bias")
        table["o_bias"] = Plain(f"{here}.o_proj.bias")
    if mla.q_rank:
        table["q_down"] = Linear(f"{here}.q_a_proj.weight")
        table["q_norm.weight"] = Plain(f"{here}.q_a_layernorm.weight")
        if mla.bias:
            table["q_down_bias"] = Plain(f"{here}.q_a_proj.bias")
    return table


def moe_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """The names inside a mixture of experts."""
    here = f"{prefix}.mlp"
    table: dict[str, Source] = {"router": Linear(f"{here}.gate.weight")}
    if moe.choice_bias:
        table["choice_bias"] = Plain(f"{here}.gate.e_score_correction_bias")
    return table | expert_names(here, moe) | shared_names(f"{here}.shared_experts", moe)
