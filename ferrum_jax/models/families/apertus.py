"""Apertus (Hernández-Cano et al. 2025): xIELU without a gate, norms of every query and key head."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope, read_rope
from ferrum_jax.models.weights.sources import Joined, Plain, Source
from ferrum_jax.types import (
    Activation,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    RopeConfig,
    UnsupportedError,
)

THETA = 12e6
DEFAULT_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""Of a file that says nothing about its rope."""
NORMS = {"mixer_norm": "attention_layernorm", "mlp_norm": "feedforward_layernorm"}


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: apertus`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader, _rope(reader), qkv_bias=bias, out_bias=bias, qk_norm=NormKind.RMS
    )
    # Keys of the training code, which transformers does not read; the files have these values.
    if not reader.flag("qk_norm", True):
        raise UnsupportedError(
            f"{reader.where}: qk_norm = False is not supported; this model type always norms "
            "queries and keys"
        )
    reader.must_be_off("post_norm", "mlp_bias")
    reader.ignore("hidden_dropout")
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "xielu"),
        gated=False,
    )
    layers = (LayerSpec(attention, mlp),) * reader.size("num_hidden_layers")
    return model_config(reader, layers, eps=1e-5)


def _rope(reader: ConfigReader) -> RopeConfig:
    if reader.get("rope_parameters", None) or reader.get("rope_scaling", None):
        return read_rope(reader, theta=THETA)
    return parse_rope(reader, DEFAULT_ROPE, reader.get("rope_theta", None) or THETA)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint.

    Beside the two learned figures of xIELU a file has its beta and epsilon, the same in all.
    """
    table = weight_names(config, Layout(norms=NORMS, up=("mlp.up_proj",)))
    for i, spec in enumerate(config.layers):
        mlp = f"model.layers.{i}.mlp"
        if isinstance(spec.mlp, MLPConfig) and spec.mlp.activation is Activation.XIELU:
            figures = (Plain(f"{mlp}.act_fn.alpha_p"), Plain(f"{mlp}.act_fn.alpha_n"))
            table[f"layers.{i}.mlp.alpha"] = Joined(figures, (1, 1))
    return table
