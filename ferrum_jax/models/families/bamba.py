"""Bamba (IBM, Princeton, CMU and UIUC 2024): Mamba 2, and attention on a few layers."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.mamba2 import (
    check_heads,
    group_size,
    mixer_names,
    only_silu,
    read_limits,
)
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, Mamba2Config, MLPConfig, ModelConfig, RopeConfig

IGNORED = (
    "attn_rotary_emb",
    "mamba_chunk_size",
    "mamba_dt_rank",
    "num_logits_to_keep",
    "use_mamba_kernels",
    "z_loss_coefficient",
)
"""Keys of kernels and training, and a rotary size that transformers does not read."""

NORMS = {"mixer_norm": "input_layernorm", "mlp_norm": "pre_ff_layernorm"}
LAYOUT = Layout(
    final_norm="model.final_layernorm",
    norms=NORMS,
    up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: bamba`."""
    reader.ignore(*IGNORED)
    inner = reader.size("mamba_expand", 2) * reader.size("hidden_size")
    mixer = read_mixer(reader, inner, state_size=256)
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, _half_rope(reader), qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        reader.size("intermediate_size"),
        reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
    )
    attends = reader.indices("attn_layer_indices")
    layers = [
        LayerSpec(attention, mlp) if i in attends else LayerSpec(recurrent=mixer, mlp=mlp)
        for i in range(reader.size("num_hidden_layers"))
    ]
    return hybrid_config(reader, layers, max_positions=262_144)


def _half_rope(reader: ConfigReader) -> RopeConfig:
    """Half of a head turns, whatever a `partial_rotary_factor` beside `rope_theta` says."""
    reader.ignore("partial_rotary_factor")
    old = reader.get("rope_scaling", None)
    raw = dict(reader.get("rope_parameters", None) or old or {})
    fraction = raw.pop("partial_rotary_factor", 0.5)
    theta = reader.get("rope_theta", None) or 10_000.0
    return replace(parse_rope(reader, raw, theta), rotary_fraction=fraction)


def read_mixer(
    reader: ConfigReader, inner: int, *, state_size: int, eps: float = 1e-5
) -> Mamba2Config:
    """A Mamba 2 mixer whose keys begin with `mamba_`; keywords are defaults of the model type."""
    only_silu(reader, "hidden_act")
    heads, groups = reader.size("mamba_n_heads", 128), reader.size("mamba_n_groups", 1)
    auto = reader.get("mamba_d_head", "auto") == "auto"
    size = inner // heads if auto else reader.size("mamba_d_head")
    check_heads(reader, "mamba_n_heads * mamba_d_head", heads * size, inner)
    low, high = read_limits(reader)
    bias = reader.flag("mamba_proj_bias", False)
    return Mamba2Config(
        num_heads=heads,
        head_dim=size,
        state_size=reader.size("mamba_d_state", state_size),
        num_groups=groups,
        conv_size=reader.size("mamba_d_conv", 4),
        conv_bias=reader.flag("mamba_conv_bias", True),
        proj_bias=bias,
        out_bias=bias,
        norm_eps=reader.number("rms_norm_eps", eps),
        norm_group=group_size(reader, inner, heads, groups),
        dt_min=low,
        dt_max=high,
    )


def hybrid_config(
    reader: ConfigReader,
    layers: list[LayerSpec],
    *,
    max_positions: int,
    eps: float = 1e-5,
    embed_scale: float = 1.0,
    logit_scale: float = 1.0,
) -> ModelConfig:
    """The whole model; `max_positions` and `eps` are what the model type assumes."""
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=reader.size("hidden_size"),
        layers=tuple(layers),
        max_positions=reader.size("max_position_embeddings", max_positions),
        norm_eps=reader.number("rms_norm_eps", eps),
        tie_embeddings=reader.flag("tie_word_embeddings", False),
        embed_scale=embed_scale,
        logit_scale=logit_scale,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, LAYOUT, recurrent=beside_attention)


def beside_attention(prefix: str, mixer: Mamba2Config) -> dict[str, Source]:
    """A Mamba 2 mixer in a layer that may have attention too."""
    return mixer_names(f"{prefix}.mamba", mixer)
