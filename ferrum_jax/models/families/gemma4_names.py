"""Where the parameters of Gemma 4 stand in a checkpoint."""

from __future__ import annotations

from ferrum_jax.models.families.layout import SANDWICH_NORMS, Layout, weight_names
from ferrum_jax.models.weights.sources import Heads, Linear, Plain, Source, View
from ferrum_jax.types import AttentionConfig, LayerSpec, ModelConfig, MoEConfig

_BESIDE_NORMS = {
    "beside_mlp_norm": "post_feedforward_layernorm_1",
    "beside_norm": "pre_feedforward_layernorm_2",
    "beside_post_norm": "post_feedforward_layernorm_2",
}


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    table = weight_names(config, Layout(norms=SANDWICH_NORMS), attention=_attention)
    if config.per_layer_size:
        rows, size = config.per_layer_vocab or config.vocab_size, config.per_layer_size
        table |= {
            "per_layer.embed": View(
                "model.embed_tokens_per_layer.weight", (rows, config.num_layers * size)
            ),
            "per_layer.projection": Linear("model.per_layer_model_projection.weight"),
            "per_layer.norm.weight": Plain("model.per_layer_projection_norm.weight"),
        }
    for i, spec in enumerate(config.layers):
        prefix = f"model.layers.{i}"
        own = _own(prefix, spec, config.hidden_size)
        table |= {f"layers.{i}.{key}": source for key, source in own.items()}
    return table


def unused(config: ModelConfig) -> list[str]:
    """Keys and values of layers that use another's, which published files have nevertheless."""
    kinds = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias", "k_norm.weight")
    return [
        f"model.layers.{i}.self_attn.{kind}"
        for i, spec in enumerate(config.layers)
        if isinstance(spec.attention, AttentionConfig) and spec.attention.kv_from is not None
        for kind in (*kinds, "v_norm.weight")
    ]


def _attention(prefix: str, attention: AttentionConfig) -> dict[str, Source]:
    here = f"{prefix}.self_attn"
    table: dict[str, Source] = {
        "qkv": _projections(here, attention, "weight"),
        "o": Linear(f"{here}.o_proj.weight", inputs=2),
        "q_norm.weight": Plain(f"{here}.q_norm.weight"),
    }
    if attention.kv_from is None:
        table["k_norm.weight"] = Plain(f"{here}.k_norm.weight")
    if attention.qkv_bias:
        table["qkv_bias"] = _projections(here, attention, "bias")
    if attention.out_bias:
        table["o_bias"] = Plain(f"{here}.o_proj.bias")
    return table


def _projections(here: str, attention: AttentionConfig, kind: str) -> Source:
    """A layer that uses another's keys has queries only; where values are keys, k stands twice."""
    if attention.kv_from is not None:
        query = f"{here}.q_proj.{kind}"
        return Linear(query) if kind == "weight" else Plain(query)
    values = "k_proj" if attention.values_are_keys else "v_proj"
    return Heads((f"{here}.q_proj.{kind}", f"{here}.k_proj.{kind}", f"{here}.{values}.{kind}"))


def _own(prefix: str, spec: LayerSpec, width: int) -> dict[str, Source]:
    """What this model type has and others do not."""
    table: dict[str, Source] = {"scalar": Plain(f"{prefix}.layer_scalar")}
    if spec.per_layer_input is not None:
        table |= {
            "per_layer_input.gate": Linear(f"{prefix}.per_layer_input_gate.weight"),
            "per_layer_input.projection": Linear(f"{prefix}.per_layer_projection.weight"),
            "per_layer_input.norm.weight": Plain(f"{prefix}.post_per_layer_input_norm.weight"),
        }
    if spec.experts_beside is None:
        return table
    table |= {f"experts_beside.{k}": v for k, v in _experts(prefix, spec.experts_beside, width)}
    for ours, theirs in _BESIDE_NORMS.items():
        table[f"{ours}.weight"] = Plain(f"{prefix}.{theirs}.weight")
    return table


def _experts(prefix: str, moe: MoEConfig, width: int) -> list[tuple[str, Source]]:
    """The router, and experts that are stored together: gate above up, [out, in] each."""
    router, ffn = f"{prefix}.router", moe.ffn_size
    joined, down = f"{prefix}.experts.gate_up_proj", f"{prefix}.experts.down_proj"
    shape = (moe.num_experts, 2 * ffn, width)
    return [
        ("router", Linear(f"{router}.proj.weight")),
        ("router_scale", Plain(f"{router}.scale")),
        ("expert_scale", Plain(f"{router}.per_expert_scale")),
        ("gate", View(joined, shape, cut=(1, 0, ffn, 1), order=(0, 2, 1))),
        ("up", View(joined, shape, cut=(1, ffn, 2 * ffn, 1), order=(0, 2, 1))),
        ("down", View(down, (moe.num_experts, width, ffn), order=(0, 2, 1))),
    ]
