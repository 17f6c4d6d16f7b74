"""Cohere 2 (Command R7B, 2024): a parallel block behind one LayerNorm without a bias; windows
and a rope on three layers of four, neither on the fourth."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import head_size, layer_norm_model, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind

_NORM = NormKind.LAYER_UNBIASED


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: cohere2`."""
    # The file's head_dim is not used; one that differs would be read differently elsewhere.
    hidden, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    reader.must_be("head_dim", head_size(reader, hidden, heads), None)
    _refuse_other_blocks(reader)
    bias = reader.flag("attention_bias", False)
    rope = partial_rope(reader, interleaved=True)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(reader.size("intermediate_size"), reader.activation("hidden_act", "silu"))
    full = LayerSpec(
        replace(attention, rope=None), mlp, norm=_NORM, parallel=True, shared_norm=True
    )
    window = reader.size("sliding_window", 4096)
    sliding = replace(full, attention=replace(attention, window=window))
    layers = [sliding if kind == "sliding_attention" else full for kind in _kinds(reader)]
    config = layer_norm_model(reader, layers, "layer_norm_eps", tied=True)
    return replace(config, logit_scale=reader.number("logit_scale", 0.0625))


def _kinds(reader: ConfigReader) -> list[str]:
    count, period = reader.size("num_hidden_layers"), reader.size("sliding_window_pattern", 4)
    reader.ignore("layer_switch", "order_of_interleaved_layers")
    default = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(count)]
    return reader.layer_types(count, default)


def _refuse_other_blocks(reader: ConfigReader) -> None:
    reader.must_be("position_embedding_type", "rope_gptj")
    reader.must_be("rotary_pct", 1.0)
    for key in ("use_gated_activation", "use_parallel_block"):
        reader.must_be(key, True)
    reader.ignore("use_embedding_sharing", "use_parallel_embedding")
    reader.must_be_off("use_qk_norm")


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout())
