"""One model to compare with transformers, and the sizes that the cases share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One model to compare.

    lengths: the lengths of the two sequences whose logits are stored.
    prompt_length, new_tokens: the greedy continuation.
    dtype: how the checkpoint stores its weights; the arithmetic is float32 in every case.
    shards: into how many files a test should split the checkpoint.
    norm_low: where the norm weights start, see `make_tensor`; -0.5 where the norm is 1 + weight.
    hub_style: config.json holds `config` as written here, with the key names that checkpoints on
        the hub have (`rope_theta`, `rope_scaling`, `torch_dtype`), rather than what
        transformers 5 saves.
    attention: the implementation of attention that the reference runs.
    """

    name: str
    model_type: str
    config: dict[str, Any]
    lengths: tuple[int, int] = (40, 17)
    prompt_length: int = 10
    new_tokens: int = 12
    dtype: str = "float32"
    shards: int = 1
    norm_low: float = 0.5
    hub_style: bool = False
    attention: str = "eager"


def sized(**changes: Any) -> dict[str, Any]:
    """The common sizes, with changes."""
    return {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-3,
    } | changes


def rope(rope_type: str, theta: float = 10000.0, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": theta, **parameters}}
