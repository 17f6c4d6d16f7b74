"""A model's config as a table to read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING

from ferrum_jax.types.attention import AttentionConfig, MLAConfig, QKNormOver, RopeConfig
from ferrum_jax.types.feedforward import MLPConfig, MoEConfig, RouterKind
from ferrum_jax.types.recurrent import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    Mamba2Config,
    MambaConfig,
    RecurrentConfig,
)

if TYPE_CHECKING:
    from ferrum_jax.types.model import LayerSpec, ModelConfig

LONGEST_CELL = 50
"""Characters of a cell before it goes on in the next line."""


def model_table(config: ModelConfig) -> list[str]:
    """The model's facts, then a row for each run of equal layers."""
    rows = [("layers", "norm", "attention", "position", "feed-forward")]
    start = 0
    for i in range(1, config.num_layers + 1):
        if i == config.num_layers or config.layers[i] != config.layers[start]:
            span = f"{start}" if i == start + 1 else f"{start}-{i - 1}"
            rows.append((span, *_cells(config.layers[start])))
            start = i
    lines = [line for row in rows for line in _wrapped(row)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        f"{config.model_type}: {config.num_layers} layers, hidden {config.hidden_size}, "
        f"vocabulary {config.vocab_size}, positions {config.max_positions}",
        f"  {_surroundings(config)}",
        *("  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
    ]


def _wrapped(row: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The lines of a row whose cells may be too long for one."""
    return zip_longest(*(wrap(cell, LONGEST_CELL) for cell in row), fillvalue="")


def _surroundings(config: ModelConfig) -> str:
    """What stands before the first layer and behind the last."""
    embeddings = "embeddings " + ("tied" if config.tie_embeddings else "untied")
    extras = {
        f"scaled by {config.embed_scale:g}": config.embed_scale != 1,
        f"of {config.embed_size}, projected": config.embed_size is not None,
        f"norm {config.embed_norm}": config.embed_norm is not None,
        f"{config.learned_positions} learned positions": config.learned_positions is not None,
        f"{config.per_layer_size} for each layer": config.per_layer_size is not None,
    }
    logits = {
        f"scaled by {config.logit_scale:g}": config.logit_scale != 1,
        "biased": config.unembed_bias,
        f"capped at {config.final_soft_cap or 0:g}": config.final_soft_cap is not None,
    }
    norm = f"; final norm {config.final_norm or 'none'}, eps {config.norm_eps:g}"
    of_logits = ", ".join(_present(logits))
    return (
        ", ".join((embeddings, *_present(extras))) + norm + (of_logits and f"; logits {of_logits}")
    )


def _present(extras: dict[str, bool]) -> list[str]:
    return [text for text, present in extras.items() if present]


def _cells(spec: LayerSpec) -> tuple[str, str, str, str]:
    mixers = [
        *([] if spec.recurrent is None else [_recurrent(spec.recurrent)]),
        *([] if spec.attention is None else [_attention(spec.attention)]),
    ]
    rope = None if spec.attention is None else spec.attention.rope
    blocks = [block for block in (spec.mlp, spec.experts_beside) if block is not None]
    placement = f"{spec.norm} {spec.placement}" + (" parallel" if spec.parallel else "")
    ffn = " and ".join(map(_feed_forward, blocks)) or "none"
    return placement, " and ".join(mixers) or "none", _position(spec, rope), ffn


def _position(spec: LayerSpec, rope: RopeConfig | None) -> str:
    if isinstance(spec.attention, AttentionConfig) and spec.attention.alibi_slopes is not None:
        return "alibi"
    return "none" if rope is None else f"rope {rope.scaling.kind}, theta {rope.theta:g}"


def _attention(a: AttentionConfig | MLAConfig) -> str:
    if isinstance(a, MLAConfig):
        through = "" if a.q_rank is None else f", queries through {a.q_rank}"
        return f"{a.num_heads} heads x {a.head_dim}, latent {a.kv_rank} + {a.rope_dim}{through}"
    over = "" if a.qk_norm_over is QKNormOver.HEAD else f" over {a.qk_norm_over}"
    extras = {
        f"window {a.window}": a.window is not None,
        f"chunks of {a.chunk}": a.chunk is not None,
        f"cap {a.soft_cap}": a.soft_cap is not None,
        "sinks": a.sinks,
        f"qk-norm {a.qk_norm}{over}": a.qk_norm is not None,
        f"v-norm {a.v_norm}": a.v_norm is not None,
        "output gate": a.out_gate,
        "query temperature": a.temperature is not None,
        "qkv bias": a.qkv_bias,
        "out bias": a.out_bias,
        f"keys and values of layer {a.kv_from}": a.kv_from is not None,
    }
    heads = f"{a.num_heads} heads x {a.head_dim}, {a.num_kv_heads} kv"
    return ", ".join((heads, *_present(extras)))


def _recurrent(r: RecurrentConfig) -> str:
    if isinstance(r, MambaConfig):
        return f"mamba {r.inner_size}, state {r.state_size}, conv {r.conv_size}"
    if isinstance(r, Mamba2Config):
        return (
            f"mamba2 {r.num_heads} heads x {r.head_dim}, state {r.state_size}, "
            f"{r.num_groups} groups, conv {r.conv_size}"
        )
    if isinstance(r, GatedDeltaConfig):
        heads = f"{r.num_value_heads} heads x {r.value_dim}, {r.num_key_heads} of keys"
        return f"gated delta {heads} x {r.key_dim}, conv {r.conv_size}"
    if isinstance(r, KDAConfig):
        return f"kimi delta {r.num_heads} heads x {r.head_dim}, conv {r.conv_size}"
    if isinstance(r, LightningConfig):
        return f"lightning {r.num_heads} heads x {r.head_dim}"
    return f"short convolution {r.size}"


def _feed_forward(m: MLPConfig | MoEConfig) -> str:
    if isinstance(m, MLPConfig):
        gated, bias = " gated" if m.gated else "", ", bias" if m.mlp_bias else ""
        return f"{m.ffn_size}, {m.activation}{gated}{bias}"
    extras = {
        f"{m.router}": m.router is not RouterKind.SOFTMAX,
        f"{m.groups_kept} of {m.groups} groups": m.groups > 1,
        "biased choice": m.choice_bias,
        f"shared {m.shared.ffn_size if m.shared else 0}": m.shared is not None,
    }
    experts = f"{m.num_experts} experts x {m.ffn_size}, top {m.experts_per_token}, {m.activation}"
    return ", ".join((experts, *_present(extras)))
