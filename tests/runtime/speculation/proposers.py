"""Drafts whose quality a test chooses, and a checkpoint for a model that drafts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ferrum_jax as fj
from ferrum_jax.models import Params
from ferrum_jax.models.weights.save import save_weights
from ferrum_jax.types import ModelConfig


@dataclass(frozen=True)
class Knowing:
    """Makes proposers that know how texts go on, and say every `wrong`-th token wrongly."""

    texts: tuple[tuple[int, ...], ...]
    wrong: int = 0
    """0: none is wrong."""
    vocab_size: int = 4096

    def __call__(self) -> Knowing:
        return self

    def propose(self, token_ids: Sequence[int], count: int) -> list[int]:
        known = tuple(token_ids)
        for text in self.texts:
            if text[: len(known)] == known:
                return [self._said(text, i) for i in range(len(known), len(text))][:count]
        return []

    def _said(self, text: tuple[int, ...], position: int) -> int:
        is_wrong = self.wrong and position % self.wrong == 0
        return (text[position] + is_wrong) % self.vocab_size


def texts_of(outputs: list[fj.types.RequestOutput]) -> tuple[tuple[int, ...], ...]:
    """Prompt and completion of every output."""
    return tuple(
        (*output.prompt_token_ids, *completion.token_ids)
        for output in outputs
        for completion in output.outputs
    )


def speculate(draft: str | Callable = "ngram", **changes) -> fj.Speculation:
    """Drafts that are always as long as they can be."""
    return fj.Speculation(draft, **{"num_tokens": 3, "min_chance": 0.0, "ngram": (1, 3), **changes})


def write_llama(directory: Path, config: ModelConfig, params: Params) -> str:
    """A checkpoint of a plain llama model; its directory."""
    directory.mkdir(exist_ok=True)
    spec = config.layers[0]
    record = {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": spec.mlp.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": spec.attention.num_heads,
        "num_key_value_heads": spec.attention.num_kv_heads,
        "head_dim": spec.attention.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": spec.attention.rope.theta,
        "tie_word_embeddings": config.tie_embeddings,
    }
    (directory / "config.json").write_text(json.dumps(record))
    save_weights(config, params, directory)
    return str(directory)
