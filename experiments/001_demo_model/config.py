"""The demo model and its training run, as data."""

from dataclasses import dataclass

from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    RopeConfig,
)

ATTENTION = AttentionConfig(
    num_heads=4, num_kv_heads=2, head_dim=64, scale=64**-0.5, rope=RopeConfig(theta=10_000.0)
)
MODEL = ModelConfig(
    model_type="llama",
    vocab_size=4096,
    hidden_size=256,
    layers=(LayerSpec(ATTENTION, MLPConfig(ffn_size=704)),) * 6,
    max_positions=512,
    norm_eps=1e-5,
    tie_embeddings=True,
)
"""5,475,584 parameters: 10.95 MB in bf16."""


@dataclass(frozen=True)
class Stage:
    """A part of the run with one shape of batch."""

    steps: int
    sequences: int
    length: int


@dataclass(frozen=True)
class Training:
    """Short sequences first, because attention is what costs on a CPU; long ones last."""

    stages: tuple[Stage, ...] = (Stage(1400, 16, 256), Stage(300, 8, 512))
    peak_rate: float = 3e-3
    warmup_steps: int = 150
    end_rate: float = 3e-5
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    beta2: float = 0.95
    seed: int = 0
    checkpoint_every: int = 100

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> int:
        return sum(s.steps * s.sequences * s.length for s in self.stages)
