"""Kimi Linear (Kimi Team 2025): Kimi delta attention, and latent attention without positions."""

from __future__ import annotations

from typing import Any

from ferrum_jax.models.families.deepseek_v3 import check_choice, latent_names
from ferrum_jax.models.families.experts import shared_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mamba2 import only_silu
from ferrum_jax.models.families.mixtral import numbered_expert_names
from ferrum_jax.models.families.qwen3_next import FULL, LINEAR
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Joined, Linear, Plain, Source, View, depthwise
from ferrum_jax.types import (
    ConfigError,
    GroupScore,
    KDAConfig,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RouterKind,
)

_IGNORED = (
    "head_dim",
    "num_key_value_heads",
    "num_nextn_predict_layers",
    "output_router_logits",
    "qk_head_dim",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "use_grouped_topk",
)
"""Keys without an effect; positions come from the recurrence alone."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: kimi_linear`, in the spelling of the hub or of transformers.

    Raises:
        UnsupportedError: tied embeddings, latent attention with a rope, a router without sigmoid.
    """
    reader.ignore(*_IGNORED)
    reader.must_be_off("tie_word_embeddings")
    reader.must_be("mla_use_nope", True)
    reader.must_be("moe_router_activation_func", "sigmoid")
    reader.must_be("moe_layer_freq", 1)
    only_silu(reader, "hidden_act")
    table: Any = reader.get("linear_attn_config", None) or {}
    mixers = {
        FULL: LayerSpec(_latent(reader)),
        LINEAR: LayerSpec(recurrent=_delta(reader, table)),
    }
    blocks = {
        "dense": MLPConfig(reader.size("intermediate_size", 9216)),
        "sparse": _experts(reader),
    }
    count = reader.size("num_hidden_layers", 27)
    kinds = _listed(reader, "layer_types", _mixer_kinds(reader, table, count), count, mixers)
    first = reader.index("first_k_dense_replace", 1)
    default = ["dense" if i < first else "sparse" for i in range(count)]
    feeds = _listed(reader, "mlp_layer_types", default, count, blocks)
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size", 163_840),
        hidden_size=reader.size("hidden_size", 2304),
        layers=tuple(
            LayerSpec(mixers[kind].attention, blocks[feed], mixers[kind].recurrent)
            for kind, feed in zip(kinds, feeds, strict=True)
        ),
        max_positions=_size(reader, "max_position_embeddings", "model_max_length", 1_048_576),
        norm_eps=reader.number("rms_norm_eps", 1e-5),
    )


def _size(reader: ConfigReader, new: str, old: str, default: int) -> int:
    """A size under either of two names."""
    return reader.optional_size(old) or reader.size(new, default)


def _listed(
    reader: ConfigReader, key: str, default: list[str], count: int, known: dict[str, Any]
) -> list[str]:
    """One word per layer, out of those that are known."""
    kinds = reader.get(key, None) or default
    if not isinstance(kinds, list) or len(kinds) != count or set(map(str, kinds)) - known.keys():
        raise ConfigError(
            f"{reader.where}: {key} is {kinds!r}; it must name {' or '.join(known)} for each of "
            f"{count} layers"
        )
    return kinds


def _mixer_kinds(reader: ConfigReader, table: dict[str, Any], count: int) -> list[str]:
    """By the table that counts layers from one, else every fourth layer attends after the first."""
    full, delta = table.get("full_attn_layers"), table.get("kda_layers")
    if full is None or delta is None:
        return [FULL if i and i % 4 == 0 else LINEAR for i in range(count)]
    if sorted(full + delta) != list(range(1, count + 1)):
        raise ConfigError(
            f"{reader.where}: linear_attn_config has full_attn_layers {full} and kda_layers "
            f"{delta}; together they must name each layer from 1 to {count} once"
        )
    return [FULL if i + 1 in full else LINEAR for i in range(count)]


def _latent(reader: ConfigReader) -> MLAConfig:
    nope, shared = reader.size("qk_nope_head_dim", 128), reader.size("qk_rope_head_dim", 64)
    return MLAConfig(
        num_heads=reader.size("num_attention_heads", 32),
        kv_rank=reader.size("kv_lora_rank", 512),
        nope_dim=nope,
        rope_dim=shared,
        value_dim=reader.size("v_head_dim", 128),
        scale=(nope + shared) ** -0.5,
        rope=None,
        q_rank=reader.optional_size("q_lora_rank"),
        bias=reader.flag("attention_bias", False),
    )


def _delta(reader: ConfigReader, table: dict[str, Any]) -> KDAConfig:
    """The table of the hub's files wins over the keys of transformers."""
    sizes = {
        "num_heads": ("linear_num_heads", 32),
        "head_dim": ("linear_head_dim", 128),
        "short_conv_kernel_size": ("linear_conv_kernel_dim", 4),
    }
    if unknown := sorted(table.keys() - sizes.keys() - {"full_attn_layers", "kda_layers"}):
        raise ConfigError(f"{reader.where}: linear_attn_config has unknown {', '.join(unknown)}")
    plain = {key: reader.size(name, default) for key, (name, default) in sizes.items()}
    named = ConfigReader(table, f"{reader.where}: linear_attn_config")
    heads, head, conv = (named.size(key, default) for key, default in plain.items())
    return KDAConfig(heads, head, conv, norm_eps=reader.number("rms_norm_eps", 1e-5))


def _experts(reader: ConfigReader) -> MoEConfig:
    count = _size(reader, "num_local_experts", "num_experts", 256)
    chosen = _size(reader, "num_experts_per_tok", "num_experts_per_token", 8)
    groups = _size(reader, "n_group", "num_expert_group", 1)
    kept = reader.size("topk_group", 1)
    check_choice(reader, count, chosen, groups, kept)
    size = reader.size("moe_intermediate_size", 1024)
    shared = _size(reader, "n_shared_experts", "num_shared_experts", 1)
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=size,
        norm_topk=reader.flag("moe_renormalize", reader.get("norm_topk_prob", True)),
        norm_eps=1e-20,
        router=RouterKind.SIGMOID,
        choice_bias=True,
        groups=groups,
        groups_kept=kept,
        group_score=GroupScore.TOP2_SUM,
        weight_scale=reader.number("routed_scaling_factor", 2.446),
        shared=MLPConfig(shared * size),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, attention=latent_names, recurrent=_delta_names, moe=_expert_names)


def _delta_names(prefix: str, delta: KDAConfig) -> dict[str, Source]:
    here = f"{prefix}.self_attn"
    inner, size = delta.inner_size, delta.conv_size
    projections = tuple(Linear(f"{here}.{x}_proj.weight") for x in "qkv")
    convs = tuple(depthwise(f"{here}.{x}_conv1d.weight", inner, size) for x in "qkv")
    return {
        "qkv": Joined(projections, (1, 1, 1), axis=1),
        "conv": Joined(convs, (1, 1, 1), axis=1),
        "decay_down": Linear(f"{here}.f_a_proj.weight"),
        "decay_up": Linear(f"{here}.f_b_proj.weight"),
        "gate_down": Linear(f"{here}.g_a_proj.weight"),
        "gate_up": Linear(f"{here}.g_b_proj.weight"),
        "beta": Linear(f"{here}.b_proj.weight"),
        "dt_bias": Plain(f"{here}.dt_bias"),
        "A_log": View(f"{here}.A_log", (1, 1, delta.num_heads, 1)),
        "norm": Plain(f"{here}.o_norm.weight"),
        "out": Linear(f"{here}.o_proj.weight", inputs=2),
    }


def _expert_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    here = f"{prefix}.block_sparse_moe"
    return {
        **numbered_expert_names(prefix, moe),
        "choice_bias": Plain(f"{here}.gate.e_score_correction_bias"),
        **shared_names(f"{here}.shared_experts", moe),
    }
