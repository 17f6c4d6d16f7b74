"""Phi 1.5 and 2 (Li et al. 2023): a parallel block behind one LayerNorm, biases everywhere, half
of each head turns."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import layer_norm_model, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind

_LAYOUT = Layout(
    final_norm="model.final_layernorm",
    norms={"mixer_norm": "input_layernorm"},
    out="self_attn.dense",
    qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
    up=("mlp.fc1",),
    down="mlp.fc2",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: phi`."""
    attention = read_attention(
        reader,
        partial_rope(reader, fraction=0.5),
        qkv_bias=True,
        out_bias=True,
        qk_norm=NormKind.LAYER if reader.flag("qk_layernorm", False) else None,
    )
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "gelu_new"),
        gated=False,
        mlp_bias=True,
    )
    reader.ignore("embd_pdrop", "resid_pdrop")
    spec = LayerSpec(attention, mlp, norm=NormKind.LAYER, parallel=True, shared_norm=True)
    layers = (spec,) * reader.size("num_hidden_layers")
    config = layer_norm_model(reader, layers, "layer_norm_eps")
    return replace(config, unembed_bias=True)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, _LAYOUT)
