"""The models, batches and implementations whose decode step is timed, as data."""

from dataclasses import dataclass

from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    RopeConfig,
)


@dataclass(frozen=True)
class Sizes:
    """A dense model's shape."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    qk_norm: bool
    theta: float

    def config(self) -> ModelConfig:
        """The model that `ferrum_jax` runs."""
        attention = AttentionConfig(
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            rope=RopeConfig(theta=self.theta),
            qk_norm=NormKind.RMS if self.qk_norm else None,
        )
        return ModelConfig(
            model_type="qwen3" if self.qk_norm else "llama",
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            layers=(LayerSpec(attention, MLPConfig(self.ffn)),) * self.layers,
            max_positions=131_072,
            tie_embeddings=self.tied,
        )


LLAMA = Sizes("llama-3-8b", 4096, 32, 32, 8, 128, 14_336, 128_256, False, False, 500_000.0)
QWEN = Sizes("qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151_936, True, True, 1_000_000.0)
TINY = Sizes("tiny", 32, 2, 4, 2, 16, 48, 128, True, True, 10_000.0)


@dataclass(frozen=True)
class Plan:
    """The whole experiment."""

    seconds: float = 500.0
    """After which nothing new begins; a run takes at most a minute more."""
    models: tuple[Sizes, ...] = (LLAMA, QWEN)
    batches: tuple[int, ...] = (16, 1, 64, 256)
    context: int = 1024
    """Tokens that each sequence holds when its next one is decoded."""
    attentions: tuple[str, ...] = ("triton", "mosaic", "xla")
    page: int = 16
    steps: int = 20
    """Steps that are dispatched before the last is waited for."""
    repeats: int = 5
    limit_megabytes: int = 4000
    interpret: bool = False


DRY = Plan(
    models=(TINY,),
    batches=(2,),
    context=20,
    page=4,
    steps=2,
    repeats=1,
    attentions=("triton", "xla"),
    limit_megabytes=8,
    interpret=True,
)
"""The same path on a CPU with interpreted kernels: it shows that the script runs, nothing more."""
