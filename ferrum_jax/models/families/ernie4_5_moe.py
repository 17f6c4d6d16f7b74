"""ERNIE 4.5 MoE (Baidu 2025): interleaved rope, a softmax router whose choice is corrected."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.experts import expert_names, shared_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Linear, Source
from ferrum_jax.types import Activation, LayerSpec, MLPConfig, ModelConfig, MoEConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: ernie4_5_moe`."""
    bias = reader.flag("use_bias", False)
    rope = partial_rope(reader, theta=5e5, interleaved=True)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias)
    activation = reader.activation("hidden_act", "silu")
    dense = MLPConfig(reader.size("intermediate_size", 12288), activation, mlp_bias=bias)
    experts, sparse = _experts(reader, activation, bias), _sparse(reader)
    config = model_config(
        reader,
        [LayerSpec(attention, experts if is_sparse else dense) for is_sparse in sparse],
        tie_embeddings=True,
        eps=1e-5,
    )
    return replace(config, unembed_bias=bias)


def _sparse(reader: ConfigReader) -> list[bool]:
    """Which layers are mixtures: by an interval, between a first and a last one."""
    count = reader.size("num_hidden_layers")
    first, step = reader.index("moe_layer_start_index", 1), reader.size("moe_layer_interval", 1)
    open_ended = reader.get("moe_layer_end_index", -1) == -1
    last = count - 1 if open_ended else reader.index("moe_layer_end_index")
    return [(i + 1) % step == 0 and first <= i <= last for i in range(count)]


def _experts(reader: ConfigReader, activation: Activation, bias: bool) -> MoEConfig:
    count, chosen = reader.size("moe_num_experts", 64), reader.size("moe_k", 6)
    check_count(reader, "moe_k", chosen, count)
    reader.must_be("moe_gate", "topk")
    reader.must_be("moe_use_aux_free", True)
    reader.ignore(
        "moe_capacity", "num_nextn_predict_layers", "output_router_logits", "router_aux_loss_coef"
    )
    size = reader.size("moe_intermediate_size", 1536)
    beside = reader.index("moe_num_shared_experts", 2) * size
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=size,
        activation=activation,
        choice_bias=True,
        norm_floor=reader.number("moe_norm_min", 1e-12),
        shared=MLPConfig(beside, activation, mlp_bias=bias) if beside else None,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=_moe_names)


def _moe_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    here = f"{prefix}.mlp"
    return {
        "router": Linear(f"{here}.gate.weight"),
        # Stored as one row.
        "choice_bias": Linear(f"{here}.moe_statics.e_score_correction_bias"),
        **expert_names(here, moe),
        **shared_names(f"{here}.shared_experts", moe),
    }
