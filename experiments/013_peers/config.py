"""What is compared, as data."""

from dataclasses import dataclass, field

PACKAGES = ("torch==2.13.0", "transformers==5.24.0", "llama-cpp-python==0.3.36", "gguf")
"""Of the peers' environment; the last two may fail to build where there is no compiler."""


@dataclass(frozen=True)
class Plan:
    """One random Llama of 100 million parameters, the same prompts, greedy, engines in turns."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    head_dim: int = 64
    ffn: int = 2048
    vocab: int = 32_000
    max_positions: int = 2048
    seed: int = 0
    prompt: int = 128
    """tokens of each prompt before decoding"""
    prefill: int = 512
    """tokens of the prompt that is timed by itself"""
    steps: int = 48
    """decode steps that are timed, a token a sequence each"""
    batches: tuple[int, ...] = (1, 8, 16)
    turns: int = 2
    workers: tuple[tuple[str, str], ...] = field(
        default=(
            ("ferrum_jax", "float32"),
            ("transformers, sdpa", "float32"),
            ("transformers, eager", "float32"),
            ("llama.cpp", "float32"),
            ("ferrum_jax", "bfloat16"),
            ("transformers, sdpa", "bfloat16"),
            ("llama.cpp", "bfloat16"),
            ("ferrum_jax", "int8"),
            ("llama.cpp", "q8_0"),
        )
    )
    """engines and the dtype of their weights; they take turns in this order"""


SMALL = Plan(
    hidden=256, layers=2, heads=4, kv_heads=2, head_dim=64, ffn=256, vocab=512,
    prompt=16, prefill=32, steps=4, batches=(1, 2), turns=1,
)  # fmt: skip
"""Shows that every worker runs; its times mean nothing."""
