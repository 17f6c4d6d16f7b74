"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): LayerNorm, biases, attention and
feed-forward block side by side, a quarter of each head turns, one joined projection."""

from __future__ import annotations

from ferrum_jax.models.families.common import layer_norm_model, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind

_LAYOUT = Layout(
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    unembed="embed_out",
    layers="gpt_neox.layers",
    qkv=("attention.query_key_value",),
    out="attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gpt_neox`."""
    bias = reader.flag("attention_bias", True)
    theta, fraction = reader.number("rotary_emb_base", 10_000.0), reader.number("rotary_pct", 0.25)
    # What other model types call these two is not read here, and may only repeat them.
    reader.must_be("rope_theta", None, theta)
    reader.must_be("partial_rotary_factor", None, fraction)
    rope = partial_rope(reader, theta=theta, fraction=fraction)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "gelu"),
        gated=False,
        mlp_bias=True,
    )
    reader.ignore("classifier_dropout", "hidden_dropout", "is_decoder")
    reader.ignore("attention_probs_dropout_prob", "hidden_dropout_prob")
    spec = LayerSpec(
        attention, mlp, norm=NormKind.LAYER, parallel=reader.flag("use_parallel_residual", True)
    )
    layers = (spec,) * reader.size("num_hidden_layers")
    return layer_norm_model(reader, layers, "layer_norm_eps")


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, _LAYOUT)
