"""What a model is: one frozen, value-equal `LayerSpec` per layer, and what surrounds them.

Everything here is hashable data, so a config can be a static argument of `jax.jit`
and two equal configs share one compilation.
"""

from __future__ import annotations

from dataclasses import dataclass

from ferrum_jax.types.attention import AttentionConfig, MLAConfig
from ferrum_jax.types.feedforward import Activation, MLPConfig, MoEConfig
from ferrum_jax.types.model_table import model_table
from ferrum_jax.types.norms import NormKind, NormPlacement
from ferrum_jax.types.recurrent import RecurrentConfig


@dataclass(frozen=True)
class LayerSpec:
    """All that distinguishes one decoder layer from another.

    A layer mixes tokens by attention, by a recurrence, or by both beside each other (their sum),
    and then runs a feed-forward block. Either may be absent.
    """

    attention: AttentionConfig | MLAConfig | None = None
    mlp: MLPConfig | MoEConfig | None = None
    recurrent: RecurrentConfig | None = None
    norm: NormKind = NormKind.RMS
    placement: NormPlacement = NormPlacement.PRE
    parallel: bool = False
    """Mixer and feed-forward block read the same residual stream, and both are added to it."""
    shared_norm: bool = False
    """... and read it through one norm."""
    residual_from_norm: bool = False
    """What a block's output is added to is the normed stream, not the stream."""
    attention_scale: float = 1.0
    recurrent_scale: float = 1.0
    mlp_scale: float = 1.0
    """Multipliers of what a block adds."""
    mixer_residual_scale: float = 1.0
    mlp_residual_scale: float = 1.0
    """Multipliers of what it is added to."""
    experts_beside: MoEConfig | None = None
    """A mixture of experts beside the dense block, each with norms of its own (Gemma 4)."""
    per_layer_input: Activation | None = None
    """The layer ends with a block gated, through this activation, by an embedding of its own for
    each token (Gemma 4)."""
    layer_scalar: bool = False
    """The layer's result is multiplied by a learned number."""

    @property
    def sparse(self) -> MoEConfig | None:
        """The layer's mixture of experts, if it has one."""
        return self.mlp if isinstance(self.mlp, MoEConfig) else self.experts_beside


@dataclass(frozen=True)
class ModelConfig:
    """A whole decoder-only model. `print(config)` shows it as a table."""

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    max_positions: int
    norm_eps: float = 1e-6
    final_norm: NormKind | None = NormKind.RMS
    tie_embeddings: bool = False
    embed_scale: float = 1.0
    embed_size: int | None = None
    """Elements of an embedding that is projected to the hidden size, and back before it is
    unembedded; None: the hidden size, without projections."""
    embed_norm: NormKind | None = None
    learned_positions: int | None = None
    """Rows of a table of position embeddings, added to the tokens'."""
    position_offset: int = 0
    """The row of position 0."""
    per_layer_size: int | None = None
    """Elements of the embedding that each layer has of its own (`LayerSpec.per_layer_input`)."""
    per_layer_vocab: int | None = None
    unembed_bias: bool = False
    logit_scale: float = 1.0
    """Multiplier of the logits."""
    final_soft_cap: float | None = None
    rope_length: int | None = None
    """Length at which length-dependent rope kinds (dynamic, longrope) are evaluated; None: the
    longest position of the forward at hand, as transformers does. The engine fixes it to
    `max_model_len`, so that a cached key stays right as its sequence grows."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def is_recurrent(self) -> bool:
        """Whether a layer keeps a state per sequence beside, or in place of, keys and values."""
        return any(spec.recurrent is not None for spec in self.layers)

    def __str__(self) -> str:
        return "\n".join(model_table(self))
