"""BLOOM (Le Scao et al. 2022): LayerNorm, also of the embeddings, biases, and positions by ALiBi
alone."""

from __future__ import annotations

from ferrum_jax.models.families.common import alibi_slopes, head_size
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Plain, Source
from ferrum_jax.types import (
    Activation,
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
)

BLOCK = Layout(
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    layers="transformer.h",
    qkv=("self_attention.query_key_value",),
    out="self_attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
)
"""Falcon has these names too."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: bloom`."""
    # transformers lets the old names win.
    width = reader.optional_size("n_embed") or reader.size("hidden_size", 64)
    reader.ignore("hidden_size")
    mlp = MLPConfig(4 * width, Activation.GELU_TANH, gated=False, mlp_bias=True)
    spec = LayerSpec(
        _attention(reader, width),
        mlp,
        norm=NormKind.LAYER,
        residual_from_norm=reader.flag("apply_residual_connection_post_layernorm", False),
    )
    _leave_out(reader, width)
    count = reader.optional_size("num_hidden_layers") or reader.size("n_layer", 2)
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size", 250880),
        hidden_size=width,
        layers=(spec,) * count,
        max_positions=reader.size("seq_length", 2048),
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        final_norm=NormKind.LAYER,
        tie_embeddings=reader.flag("tie_word_embeddings", True),
        embed_norm=NormKind.LAYER,
    )


def _attention(reader: ConfigReader, width: int) -> AttentionConfig:
    heads = reader.optional_size("num_attention_heads") or reader.size("n_head", 8)
    size = head_size(reader, width, heads)
    return AttentionConfig(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size,
        scale=size**-0.5,
        rope=None,
        alibi_slopes=alibi_slopes(heads),
        qkv_bias=True,
        out_bias=True,
    )


def _leave_out(reader: ConfigReader, width: int) -> None:
    reader.must_be("n_inner", None, 4 * width)
    # How it was trained, and in which order equal sums are formed.
    reader.ignore("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion")
    reader.ignore("hidden_dropout", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv")
    reader.ignore("unk_token_id")
    if reader.size("pretraining_tp", 1) > 1:
        # Its sums over the parts leave the biases out, and no checkpoint was trained so.
        reader.must_be_off("slow_but_exact")
    reader.ignore("slow_but_exact")


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    table = weight_names(config, BLOCK)
    for kind in ("weight", "bias"):
        name = f"transformer.word_embeddings_layernorm.{kind}"
        table[f"embed_norm.{kind}"] = Plain(name)
    return table
