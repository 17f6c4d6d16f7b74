"""Random Llamas of known sizes, for measuring speed without a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ferrum_jax.types import ModelConfig


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama with tied embeddings and heads of 64."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    def config(self) -> ModelConfig:
        from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, RopeConfig

        attention = AttentionConfig(
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=64,
            scale=64**-0.5,
            rope=RopeConfig(),
        )
        return ModelConfig(
            model_type="llama",
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            layers=(LayerSpec(attention, MLPConfig(self.ffn)),) * self.layers,
            max_positions=8192,
            norm_eps=1e-5,
            tie_embeddings=True,
        )


SHAPES = {
    "10m": LlamaShape(hidden=256, layers=8, heads=4, kv_heads=2, ffn=704, vocab=16_000),
    "100m": LlamaShape(hidden=768, layers=12, heads=12, kv_heads=4, ffn=2048, vocab=32_000),
    "1b": LlamaShape(hidden=2048, layers=16, heads=32, kv_heads=8, ffn=8192, vocab=128_256),
}
