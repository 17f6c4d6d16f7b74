"""Small model configurations: only what a cache looks at differs."""

from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig


def layer(num_kv_heads: int, head_dim: int) -> LayerSpec:
    return LayerSpec(
        attention=AttentionConfig(
            num_heads=2 * num_kv_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=None,
        ),
        mlp=MLPConfig(ffn_size=8),
    )


def model(*layers: tuple[int, int]) -> ModelConfig:
    """A model whose layers have these numbers of kv heads and head sizes."""
    return ModelConfig(
        model_type="llama",
        vocab_size=16,
        hidden_size=8,
        layers=tuple(layer(*sizes) for sizes in layers),
        max_positions=4096,
    )
