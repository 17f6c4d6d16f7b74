"""The model that drafts, the heads, and what is measured, as data."""

from dataclasses import dataclass

from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, RopeConfig

ATTENTION = AttentionConfig(
    num_heads=2, num_kv_heads=1, head_dim=64, scale=64**-0.5, rope=RopeConfig(theta=10_000.0)
)
DRAFT = ModelConfig(
    model_type="llama",
    vocab_size=4096,
    hidden_size=128,
    layers=(LayerSpec(ATTENTION, MLPConfig(ffn_size=352)),) * 2,
    max_positions=512,
    norm_eps=1e-5,
    tie_embeddings=True,
)
"""893,568 parameters, a sixth of the demo model's: 1.8 MB in bf16."""


@dataclass(frozen=True)
class Training:
    """A run on the corpus of experiment 001."""

    steps: int
    sequences: int = 16
    length: int = 256
    peak_rate: float = 3e-3
    warmup_steps: int = 50
    end_rate: float = 3e-5
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    beta2: float = 0.95
    seed: int = 0
    checkpoint_every: int = 50

    @property
    def tokens(self) -> int:
        return self.steps * self.sequences * self.length


DISTILLATION = Training(steps=3000)
HEADS = Training(steps=250, peak_rate=1e-3, weight_decay=0.0, seed=1)
NUM_HEADS = 3
"""Heads for the second, third and fourth token; the first comes from the model itself."""


@dataclass(frozen=True)
class Plan:
    """What the engine is timed with."""

    prompt: int = 32
    generated: int = 96
    documents: int = 8
    """The first of the held-out documents of experiment 001."""
    batches: tuple[int, ...] = (1, 8)
    """Sequences that run together."""
    lengths: tuple[int, ...] = (2, 4, 8)
    """Draft lengths that are held fixed; the adaptive one goes up to the last."""
    turns: int = 5
    seed: int = 0
