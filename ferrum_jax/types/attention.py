"""How a layer attends: grouped-query and latent attention, and the rotary embeddings of both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ferrum_jax.types.norms import NormKind


class RopeKind(StrEnum):
    """How rotary frequencies are stretched beyond the trained context."""

    DEFAULT = "default"
    LINEAR = "linear"
    DYNAMIC = "dynamic"
    YARN = "yarn"
    LONGROPE = "longrope"
    LLAMA3 = "llama3"
    PROPORTIONAL = "proportional"
    """The frequencies of a whole head, of which a fraction turns and the rest stands still."""


@dataclass(frozen=True)
class RopeScaling:
    """The figures of a rope kind; a kind reads only its own."""

    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    original_max_positions: int = 0
    attention_factor: float | None = None
    long_attention_factor: float | None = None
    """Of longrope beyond the trained context, where it differs."""
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
    """Rotary position embedding (Su et al. 2021)."""

    theta: float = 10_000.0
    rotary_fraction: float = 1.0
    """The part of a head that turns."""
    scaling: RopeScaling = RopeScaling()
    interleaved: bool = False
    """Element 2i pairs with 2i + 1 (GPT-J); otherwise element i with i + H/2 (half-split)."""


class QKNormOver(StrEnum):
    """What a norm of queries and keys runs over."""

    HEAD = "head"
    """Each head, all with the same weights."""
    EACH_HEAD = "each_head"
    """Each head, with weights of its own."""
    PROJECTION = "projection"
    """All heads of the projection together."""


@dataclass(frozen=True)
class QueryTemperature:
    """Queries grow with their position: q * (1 + beta log(1 + floor((position + offset) / length)))
    (Llama 4, Ministral 3)."""

    beta: float
    length: float
    offset: float = 0.0


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
    chunk: int | None = None
    """A query sees the keys of its own block of so many positions only (Llama 4)."""
    soft_cap: float | None = None
    """Scores become cap * tanh(scores / cap)."""
    sinks: bool = False
    """One learned logit per head that takes part in the softmax and adds no value."""
    alibi_slopes: tuple[float, ...] | None = None
    """Per head what a key's score loses for each position of its distance (Press et al. 2022)."""
    alibi_rounded: bool = False
    """Slope times key position is rounded to bfloat16 and then scaled as a score is (Falcon)."""
    qk_norm: NormKind | None = None
    """Normalise queries and keys before the rope."""
    qk_norm_over: QKNormOver = QKNormOver.HEAD
    qk_norm_after_rope: bool = False
    v_norm: NormKind | None = None
    """Normalise every value head."""
    temperature: QueryTemperature | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    out_gate: bool = False
    """Each head's output times the sigmoid of a second projection of the layer's input."""
    qkv_clip: float | None = None
    """Queries, keys and values are cut to [-clip, clip]."""
    input_scale: float = 1.0
    key_scale: float = 1.0
    """Multipliers of the layer's input and of the keys (Falcon H1)."""
    kv_from: int | None = None
    """The layer whose keys and values are used; None: its own."""
    value_dim: int | None = None
    """Elements of a value head where they differ from a key's."""
    values_are_keys: bool = False
    """Values are projected as the keys are, and then go their own way (Gemma 4)."""
    values_in_keys: bool = False
    """A value is the beginning of its key and is not stored apart (latent attention)."""

    @property
    def value_size(self) -> int:
        """Elements of a value head."""
        return self.value_dim or self.head_dim


@dataclass(frozen=True)
class MLAConfig:
    """Multi-head latent attention (DeepSeek-AI 2024) of one layer.

    Keys and values of all heads are read from one latent vector per token, which is what the cache
    holds, beside one rotary key that the heads share. A query is laid into the latent space, so
    that attention runs over the cached vectors as they are.
    """

    num_heads: int
    kv_rank: int
    """Elements of the latent vector."""
    nope_dim: int
    """Elements of a query and key head without a rotary embedding."""
    rope_dim: int
    """Elements with one."""
    value_dim: int
    scale: float
    rope: RopeConfig | None
    q_rank: int | None = None
    """Queries are projected through so many elements; None: at once."""
    latent_eps: float = 1e-6
    """Of the norms inside."""
    bias: bool = False
    """Of the projections into the ranks, and of the output."""
    temperature: QueryTemperature | None = None
    window: int | None = None

    @property
    def head_dim(self) -> int:
        """Elements of a query head."""
        return self.nope_dim + self.rope_dim

    @property
    def core(self) -> AttentionConfig:
        """The attention over latent vectors: one kv head, its value the key's first part."""
        return AttentionConfig(
            num_heads=self.num_heads,
            num_kv_heads=1,
            head_dim=self.kv_rank + self.rope_dim,
            scale=self.scale,
            rope=None,
            window=self.window,
            value_dim=self.kv_rank,
            values_in_keys=True,
        )
