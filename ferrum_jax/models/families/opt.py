"""OPT (Zhang et al. 2022): LayerNorm, biases, learned positions from row 2 on; the norms of the
350M model stand behind the sums, and its embeddings are narrower than its layers."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import head_size
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    NormPlacement,
)

_OFFSET = 2
"""RowBlocks of the table of positions before that of position 0."""
_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_LAYOUT = Layout(
    embed="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    layers="model.decoder.layers",
    norms=dict(zip(("mixer_norm", "mlp_norm"), _NORMS, strict=True)),
    out="self_attn.out_proj",
    up=("fc1",),
    down="fc2",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: opt`."""
    width, positions = reader.size("hidden_size"), reader.size("max_position_embeddings", 2048)
    embed = reader.optional_size("word_embed_proj_dim") or width
    before = reader.flag("do_layer_norm_before", True)
    ends = before and not reader.flag("_remove_final_layer_norm", False)
    reader.ignore("_remove_final_layer_norm", "prefix", "init_std")
    reader.ignore("activation_dropout", "dropout", "layerdrop")
    spec = _layer(reader, width, NormPlacement.PRE if before else NormPlacement.AFTER_SUM)
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=width,
        layers=(spec,) * reader.size("num_hidden_layers"),
        max_positions=positions,
        norm_eps=1e-5,
        final_norm=spec.norm if ends else None,
        tie_embeddings=reader.flag("tie_word_embeddings", True),
        embed_size=None if embed == width else embed,
        learned_positions=positions + _OFFSET,
        position_offset=_OFFSET,
    )


def _layer(reader: ConfigReader, width: int, placement: NormPlacement) -> LayerSpec:
    bias, heads = reader.flag("enable_bias", True), reader.size("num_attention_heads")
    size = head_size(reader, width, heads)
    attention = AttentionConfig(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size,
        scale=size**-0.5,
        rope=None,
        qkv_bias=bias,
        out_bias=bias,
    )
    mlp = MLPConfig(
        ffn_size=reader.size("ffn_dim"),
        activation=reader.activation("activation_function", "relu"),
        gated=False,
        mlp_bias=bias,
    )
    weights = reader.flag("layer_norm_elementwise_affine", True)
    norm = NormKind.LAYER if weights else NormKind.LAYER_UNSCALED
    return LayerSpec(attention, mlp, norm=norm, placement=placement)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    layout = _LAYOUT
    if config.layers[0].placement is NormPlacement.AFTER_SUM:
        ours = ("mixer_post_norm", "mlp_post_norm")
        layout = replace(_LAYOUT, norms=dict(zip(ours, _NORMS, strict=True)))
    table = weight_names(config, layout)
    table["positions"] = Plain("model.decoder.embed_positions.weight", table=True)
    if config.embed_size is not None:
        table["embed_in"] = Linear("model.decoder.project_in.weight")
        table["embed_out"] = Linear("model.decoder.project_out.weight")
    return table
