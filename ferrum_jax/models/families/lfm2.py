"""LFM2 (Liquid AI 2025): gated short convolutions, and attention on some layers."""

from __future__ import annotations

from ferrum_jax.models.families.common import read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Linear, Plain, Source, depthwise
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind, ShortConvConfig

_IGNORED = (
    "block_dim",
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_swiglu",
    "block_use_xavier_init",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "num_heads",
    "theta",
    "use_pos_enc",
)
"""Keys of the original code, which transformers does not read."""


LAYOUT = Layout(
    final_norm="model.embedding_norm",
    norms={"mixer_norm": "operator_norm", "mlp_norm": "ffn_norm"},
    out="self_attn.out_proj",
    qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
    up=("feed_forward.w1", "feed_forward.w3"),
    down="feed_forward.w2",
)
"""The norm behind the last layer has the name of one behind the embedding."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: lfm2`."""
    reader.ignore(*_IGNORED)
    hidden = reader.size("hidden_size")
    attention = read_attention(reader, read_rope(reader, theta=1e6), qk_norm=NormKind.RMS)
    conv = ShortConvConfig(
        size=reader.size("conv_L_cache", 3),
        channels=hidden,
        bias=reader.flag("conv_bias", False),
    )
    mlp = MLPConfig(_ffn_size(reader))
    layers = [
        LayerSpec(attention, mlp) if attends else LayerSpec(recurrent=conv, mlp=mlp)
        for attends in _attends(reader)
    ]
    tie = reader.flag("tie_word_embeddings", True)
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=hidden,
        layers=tuple(layers),
        max_positions=reader.size("max_position_embeddings"),
        norm_eps=reader.number("norm_eps", 1e-5),
        tie_embeddings=reader.flag("tie_embedding", tie),
    )


def _ffn_size(reader: ConfigReader) -> int:
    """Two thirds of the size named, times a factor, rounded up to a multiple."""
    size = reader.size("intermediate_size", 12_288)
    size = reader.size("block_ff_dim", size)
    factor = reader.get("block_ffn_dim_multiplier", 1.0)
    multiple = reader.size("block_multiple_of", 256)
    if not reader.flag("block_auto_adjust_ff_dim", True):
        return size
    size = int(2 * size / 3)
    if factor is None:
        return size
    size = int(reader.number("block_ffn_dim_multiplier", 1.0) * size)
    return multiple * -(-size // multiple)


def _attends(reader: ConfigReader) -> list[bool]:
    """Per layer whether it attends: by `layer_types`, by `full_attn_idxs`, or all of them."""
    count = reader.size("num_hidden_layers")
    kinds, named = reader.get("layer_types", None), reader.get("full_attn_idxs", None)
    if kinds is None:
        chosen = range(count) if named is None else reader.indices("full_attn_idxs")
        return [i in chosen for i in range(count)]
    kinds = reader.layer_types(count, kinds, ("conv", "full_attention"))
    return [kind == "full_attention" for kind in kinds]


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, LAYOUT, recurrent=_conv_names)


def _conv_names(layer: str, conv: ShortConvConfig) -> dict[str, Source]:
    prefix = f"{layer}.conv"
    table: dict[str, Source] = {
        "project": Linear(f"{prefix}.in_proj.weight"),
        "conv": depthwise(f"{prefix}.conv.weight", conv.channels, conv.size),
        "out": Linear(f"{prefix}.out_proj.weight"),
    }
    if conv.bias:
        parts = {"project_bias": "in_proj", "conv_bias": "conv", "out_bias": "out_proj"}
        table |= {f"{ours}": Plain(f"{prefix}.{theirs}.bias") for ours, theirs in parts.items()}
    return table
