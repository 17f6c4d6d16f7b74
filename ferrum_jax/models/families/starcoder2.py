"""StarCoder 2 (Lozhkov et al. 2024): LayerNorm, biases everywhere, no gate, a window."""

from __future__ import annotations

from ferrum_jax.models.families.common import layer_norm_model, read_attention, with_windows
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: starcoder2`."""
    bias = reader.flag("use_bias", True)
    attention = read_attention(reader, read_rope(reader), qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "gelu_pytorch_tanh"),
        gated=False,
        mlp_bias=bias,
    )
    reader.must_be("mlp_type", "default")
    reader.must_be("norm_type", "layer_norm")
    # Left over from the code that trained it; hidden_act and norm_epsilon are what counts.
    reader.ignore("activation_function", "layer_norm_epsilon", "scale_attn_weights")
    reader.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    reader.ignore("embedding_dropout", "residual_dropout")
    spec = LayerSpec(attention, mlp, norm=NormKind.LAYER)
    windows = [reader.optional_size("sliding_window")] * reader.size("num_hidden_layers")
    return layer_norm_model(reader, with_windows(spec, windows), "norm_epsilon", tied=True)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(up=("mlp.c_fc",), down="mlp.c_proj"))
