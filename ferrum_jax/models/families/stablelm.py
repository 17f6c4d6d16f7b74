"""StableLM 2 (Bellagamba et al. 2024): LayerNorm, a quarter of each head turns, optionally a
parallel block and a norm for each query and key head."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import grouped, layer_norm_model, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Joined, Plain, Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind, QKNormOver


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: stablelm`."""
    attention = replace(
        read_attention(
            reader,
            partial_rope(reader, fraction=0.25),
            qkv_bias=reader.flag("use_qkv_bias", False),
            qk_norm=NormKind.LAYER_UNBIASED if reader.flag("qk_layernorm", False) else None,
        ),
        qk_norm_over=QKNormOver.EACH_HEAD,
    )
    mlp = MLPConfig(reader.size("intermediate_size", 6912), reader.activation("hidden_act", "silu"))
    parallel = reader.flag("use_parallel_residual", False)
    reader.ignore("hidden_dropout")
    spec = LayerSpec(attention, mlp, norm=NormKind.LAYER, parallel=parallel, shared_norm=parallel)
    layers = (spec,) * reader.size("num_hidden_layers", 32)
    return layer_norm_model(reader, layers, "layer_norm_eps")


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    table = weight_names(config, Layout())
    for i, spec in enumerate(config.layers):
        attention = grouped(spec)
        if attention.qk_norm is None:
            continue
        counts = {"q": attention.num_heads, "k": attention.num_kv_heads}
        for kind, heads in counts.items():
            prefix = f"model.layers.{i}.self_attn.{kind}_layernorm.norms"
            table[f"layers.{i}.attention.{kind}_norm.weight"] = Joined(
                tuple(Plain(f"{prefix}.{head}.weight") for head in range(heads)), (1,) * heads
            )
    return table
