"""GLM 4 (0414, 2025): four norms a layer, half of each head turns in pairs, gate and up joined."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormPlacement

NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: glm4`."""
    attention = read_attention(
        reader,
        partial_rope(
            reader, fraction=reader.number("partial_rotary_factor", 0.5), interleaved=True
        ),
        head_dim=128,
        qkv_bias=reader.flag("attention_bias", True),
    )
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    spec = LayerSpec(attention, mlp, placement=NormPlacement.SANDWICH)
    return model_config(reader, [spec] * reader.size("num_hidden_layers"), eps=1.5625e-7)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(norms=NORMS, up=("mlp.gate_up_proj",)))
