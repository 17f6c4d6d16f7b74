"""What a model is: one frozen, value-equal `LayerSpec` per layer, and what surrounds them.

Everything here is hashable data, so a config can be a static argument of `jax.jit`
and two equal configs share one compilation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NormKind(StrEnum):
    """How a normalisation scales its input; all compute in fp32."""

    RMS = "rms"
    """x / rms(x) * w (Zhang and Sennrich 2019)."""
    RMS_UNIT_OFFSET = "rms_unit_offset"
    """x / rms(x) * (1 + w), as Gemma stores its weights."""
    LAYER = "layer"
    """(x - mean) / std * w + b (Ba et al. 2016)."""


class NormPlacement(StrEnum):
    """Where a block normalises."""

    PRE = "pre"
    """x + f(norm(x))."""
    POST = "post"
    """x + norm(f(x))."""
    SANDWICH = "sandwich"
    """x + norm(f(norm(x))): four norms a layer."""


class Activation(StrEnum):
    """The non-linearity of an MLP."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"
    """x * sigmoid(1.702 x)."""
    RELU = "relu"
    RELU_SQUARED = "relu_squared"


class RopeKind(StrEnum):
    """How rotary frequencies are stretched beyond the trained context."""

    DEFAULT = "default"
    LINEAR = "linear"
    DYNAMIC = "dynamic"
    YARN = "yarn"
    LONGROPE = "longrope"
    LLAMA3 = "llama3"


@dataclass(frozen=True)
class RopeScaling:
    """The figures of a rope kind; a kind reads only its own."""

    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    original_max_positions: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequence."""
        return self.kind in (RopeKind.DYNAMIC, RopeKind.LONGROPE)


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021), half-split: element i pairs with i + H/2."""

    theta: float = 10_000.0
    rotary_fraction: float = 1.0
    scaling: RopeScaling = RopeScaling()


@dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention of one layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeConfig | None
    window: int | None = None
    """Keys visible to a query, itself included; None: all earlier ones."""
    soft_cap: float | None = None
    """Scores become cap * tanh(scores / cap)."""
    sinks: bool = False
    """One learned logit per head that takes part in the softmax and adds no value."""
    qk_norm: NormKind | None = None
    """Normalise every query and key head before the rope."""
    qkv_bias: bool = False
    out_bias: bool = False


@dataclass(frozen=True)
class MLPConfig:
    """A dense feed-forward block: gated (`act(x W_gate) * (x W_up)`) or plain (`act(x W_up)`)."""

    ffn_size: int
    activation: Activation = Activation.SILU
    gated: bool = True
    mlp_bias: bool = False


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of gated experts: softmax router in fp32, the k best per token."""

    num_experts: int
    experts_per_token: int
    ffn_size: int
    activation: Activation = Activation.SILU
    norm_topk: bool = True
    """Divide the chosen weights by their sum."""


@dataclass(frozen=True)
class LayerSpec:
    """All that distinguishes one decoder layer from another."""

    attention: AttentionConfig
    mlp: MLPConfig | MoEConfig
    norm: NormKind = NormKind.RMS
    placement: NormPlacement = NormPlacement.PRE


@dataclass(frozen=True)
class ModelConfig:
    """A whole decoder-only model. `print(config)` shows it as a table."""

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    max_positions: int
    norm_eps: float = 1e-6
    final_norm: NormKind = NormKind.RMS
    tie_embeddings: bool = False
    embed_scale: float = 1.0
    final_soft_cap: float | None = None
    rope_length: int | None = None
    """Length at which length-dependent rope kinds (dynamic, longrope) are evaluated; None: the
    longest position of the forward at hand, as transformers does. The engine fixes it to
    `max_model_len`, so that a cached key stays right as its sequence grows."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return "\n".join(_table(self))


def _table(config: ModelConfig) -> list[str]:
    """The model's facts, then a row for each run of equal layers."""
    tied = "tied" if config.tie_embeddings else "untied"
    scale = f", scaled by {config.embed_scale:g}" if config.embed_scale != 1 else ""
    cap = f"; logits capped at {config.final_soft_cap:g}" if config.final_soft_cap else ""
    rows = [("layers", "norm", "attention", "position", "feed-forward")]
    start = 0
    for i in range(1, config.num_layers + 1):
        if i == config.num_layers or config.layers[i] != config.layers[start]:
            span = f"{start}" if i == start + 1 else f"{start}-{i - 1}"
            rows.append((span, *_cells(config.layers[start])))
            start = i
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{config.model_type}: {config.num_layers} layers, hidden {config.hidden_size}, "
        f"vocabulary {config.vocab_size}, positions {config.max_positions}",
        f"  embeddings {tied}{scale}; final norm {config.final_norm}, eps {config.norm_eps:g}{cap}",
        *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
    ]


def _cells(spec: LayerSpec) -> tuple[str, str, str, str]:
    a, m = spec.attention, spec.mlp
    heads = f"{a.num_heads} heads x {a.head_dim}, {a.num_kv_heads} kv"
    extras = {
        f"window {a.window}": a.window is not None,
        f"cap {a.soft_cap}": a.soft_cap is not None,
        "sinks": a.sinks,
        f"qk-norm {a.qk_norm}": a.qk_norm is not None,
        "qkv bias": a.qkv_bias,
        "out bias": a.out_bias,
    }
    heads += "".join(f", {text}" for text, present in extras.items() if present)
    rope = a.rope
    position = "none" if rope is None else f"rope {rope.scaling.kind}, theta {rope.theta:g}"
    if isinstance(m, MoEConfig):
        ffn = f"{m.num_experts} experts x {m.ffn_size}, top {m.experts_per_token}, {m.activation}"
    else:
        ffn = f"{m.ffn_size}, {m.activation}{' gated' if m.gated else ''}"
        ffn += ", bias" if m.mlp_bias else ""
    return f"{spec.norm} {spec.placement}", heads, position, ffn
