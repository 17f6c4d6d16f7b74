"""Where the parameters of a model stand in its checkpoint: one table for all families.

A family gives a `Layout`, the names of what a checkpoint shares with Llama's, and a function for
each block that it lays out in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ferrum_jax.models.weights.sources import Heads, Linear, Plain, SideBySide, Source
from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, NormKind

PRE_NORMS = {"mixer_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""Our norms by the name that a pre-norm checkpoint gives them."""
SANDWICH_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Layout:
    """The checkpoint's name of each part; those of a layer stand behind `layers` and its number."""

    embed: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    unembed: str = "lm_head"
    layers: str = "model.layers"
    norms: dict[str, str] = field(default_factory=lambda: PRE_NORMS)
    """By our names of them; those of a block that a layer does not have are left out."""
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Three projections, or one that has each kv head's queries, its key and its value in turn."""
    out: str = "self_attn.o_proj"
    qk_norms: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    sinks: str = "self_attn.sinks"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """Gate and up projection; one that has both below each other, or that has no gate."""
    down: str = "mlp.down_proj"


LLAMA = Layout()
Names = Callable[[str, Any], dict[str, Source]]
"""From a layer's prefix and the config of one of its blocks to the sources of that block."""


def weight_names(
    config: ModelConfig,
    layout: Layout = LLAMA,
    *,
    attention: Names | None = None,
    recurrent: Names | None = None,
    moe: Names | None = None,
) -> dict[str, Source]:
    """Where each parameter stands.

    Args:
        attention: the names inside attention where they are not the layout's.
        recurrent: those inside a recurrent mixer.
        moe: those inside a mixture of experts; None: the family adds them itself.
    """
    table: dict[str, Source] = {"embed": Plain(f"{layout.embed}.weight", table=True)}
    table |= _norm("final_norm", config.final_norm, layout.final_norm)
    if not config.tie_embeddings:
        table["unembed"] = Linear(f"{layout.unembed}.weight")
    if config.unembed_bias:
        table["unembed_bias"] = Plain(f"{layout.unembed}.bias")
    for i, spec in enumerate(config.layers):
        prefix = f"{layout.layers}.{i}"
        names = _norms(spec, layout, prefix)
        if attention is not None and spec.attention is not None:
            names |= under("attention", attention(prefix, spec.attention))
        elif isinstance(spec.attention, AttentionConfig):
            names |= under("attention", attention_names(prefix, spec.attention, layout))
        if recurrent is not None and spec.recurrent is not None:
            names |= under("recurrent", recurrent(prefix, spec.recurrent))
        if isinstance(spec.mlp, MLPConfig):
            names |= under("mlp", mlp_names(prefix, spec.mlp, layout.up, layout.down))
        elif moe is not None and spec.mlp is not None:
            names |= under("mlp", moe(prefix, spec.mlp))
        table |= under(f"layers.{i}", names)
    return table


def under(prefix: str, names: dict[str, Source]) -> dict[str, Source]:
    """The same sources of parameters that stand below `prefix`."""
    return {f"{prefix}.{key}": source for key, source in names.items()}


def attention_names(
    prefix: str, attention: AttentionConfig, layout: Layout = LLAMA
) -> dict[str, Source]:
    """Projections, norms and sinks of grouped-query attention."""
    table: dict[str, Source] = {
        "qkv": _joined(layout.qkv, prefix, "weight"),
        "o": Linear(f"{prefix}.{layout.out}.weight", inputs=2),
    }
    if attention.qkv_bias:
        table["qkv_bias"] = _joined(layout.qkv, prefix, "bias")
    if attention.out_bias:
        table["o_bias"] = Plain(f"{prefix}.{layout.out}.bias")
    for ours, theirs in zip(("q_norm", "k_norm"), layout.qk_norms, strict=True):
        table |= _norm(ours, attention.qk_norm, f"{prefix}.{theirs}")
    if attention.sinks:
        table["sinks"] = Plain(f"{prefix}.{layout.sinks}")
    return table


def _joined(names: tuple[str, ...], prefix: str, kind: str) -> Source:
    if len(names) == 1:
        return _single(f"{prefix}.{names[0]}", kind)
    q, k, v = (f"{prefix}.{name}.{kind}" for name in names)
    return Heads((q, k, v))


def _single(name: str, kind: str) -> Source:
    return Linear(f"{name}.weight") if kind == "weight" else Plain(f"{name}.bias")


def mlp_names(
    prefix: str,
    mlp: MLPConfig,
    up: tuple[str, ...] = ("gate_proj", "up_proj"),
    down: str = "down_proj",
) -> dict[str, Source]:
    """Projections of a dense feed-forward block, whose names stand behind `prefix`."""

    def inward(kind: str) -> Source:
        if len(up) == 1:
            return _single(f"{prefix}.{up[0]}", kind)
        return SideBySide(tuple(f"{prefix}.{name}.{kind}" for name in up))

    table = {"gate_up": inward("weight"), "down": Linear(f"{prefix}.{down}.weight")}
    if mlp.mlp_bias:
        table |= {"gate_up_bias": inward("bias"), "down_bias": Plain(f"{prefix}.{down}.bias")}
    return table


def _norms(spec: LayerSpec, layout: Layout, prefix: str) -> dict[str, Source]:
    """The norms around the blocks that a layer has."""
    mixes = spec.attention is not None or spec.recurrent is not None
    table: dict[str, Source] = {}
    for ours, theirs in layout.norms.items():
        of_mlp = ours.startswith("mlp")
        absent = (spec.mlp is None if of_mlp else not mixes) or (
            spec.shared_norm and ours == "mlp_norm"
        )
        if not absent:
            table |= _norm(ours, spec.norm, f"{prefix}.{theirs}")
    return table


def _norm(ours: str, kind: NormKind | None, theirs: str) -> dict[str, Source]:
    if kind is None or not kind.scaled:
        return {}
    kinds = ("weight", "bias") if kind.biased else ("weight",)
    return {f"{ours}.{part}": Plain(f"{theirs}.{part}") for part in kinds}
