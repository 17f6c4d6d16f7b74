"""What a step must at least read and multiply, from the config alone.

The formulas count what any implementation has to do, not what this one does: padding, activations,
logits and sampling are left out, so a fraction of the limit can only be too low.

    decode bytes    = matmul weights + B x (the keys and values that one sequence sees
                      + its recurrent states, read and written)
    decode flops    = B x (2 x active matmul weights + attention + recurrence)
    prefill bytes   = matmul weights + the states of the sequences, written
    prefill flops   = sequences x (sum over tokens of (2 x active weights of the layers + attention
                      + recurrence) + the logits of the last token)
    attention       = 2 x N x (key + value elements of a head) flops for each key that a query sees
                      (scores and values)
    recurrence      = for each element of a state 2 flops to write to it and 2 to read from it; the
                      delta rules read twice

A tied embedding is read once, as the matrix of the logits; the rows that look up the input tokens
are not counted, nor are those of tables of positions and of the layers' own embeddings. Of a
mixture of experts, flops count the k chosen ones and bytes at most B x k; its router, its shared
expert and its projections are always read. Latent attention over a cache scores the latent vectors
themselves, and in a prefill the cheaper of those and the heads' own keys and values. Layers that
share the keys and values of another read them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ferrum_jax.kv import layer_token_bytes, slot_bytes
from ferrum_jax.models.quantized import VALUE_BYTES, quantises
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.types import (
    AttentionConfig,
    DataType,
    GatedDeltaConfig,
    KDAConfig,
    LayerSpec,
    MLAConfig,
    ModelConfig,
)

EXPERT_WEIGHTS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
"""Of a mixture, those that a token uses of its own experts only."""
BESIDE_LAYERS = ("embed_in", "per_layer.projection")
"""Matrices outside of the layers that every token goes through."""


@dataclass(frozen=True)
class Cost:
    """Lower bounds of one step."""

    flops: float
    bytes: float


def decode_cost(
    config: ModelConfig,
    batch: int,
    context: float,
    itemsize: int,
    kv_dtype: DataType = DataType.FLOAT32,
    quantization: str | None = None,
) -> Cost:
    """One token for each of `batch` sequences that hold `context` tokens.

    Args:
        itemsize: bytes per element of the weights.
        kv_dtype: of the cache.
        quantization: as in `EngineConfig`; scales are left out.
    """
    weights = _weight_bytes(config, float(batch), itemsize, quantization)
    kv = sum(_kv_bytes(config, spec, context, kv_dtype) for spec in config.layers)
    return Cost(
        flops=batch
        * (
            2 * _layer_weights(config, experts=1.0)
            + 2 * _logit_weights(config)
            + sum(_mixer_flops(spec, context, cached=True) for spec in config.layers)
        ),
        bytes=weights + batch * (kv + 2 * slot_bytes(config)),
    )


def prefill_cost(
    config: ModelConfig,
    sequences: int,
    length: int,
    itemsize: int,
    quantization: str | None = None,
) -> Cost:
    """The prompts of `sequences` sequences, `length` tokens each, in one step."""
    mixers = sum(
        config.layers.count(spec)
        * sum(_mixer_flops(spec, position, cached=False) for position in range(1, length + 1))
        for spec in set(config.layers)
    )
    tokens = sequences * length
    return Cost(
        flops=2.0 * tokens * _layer_weights(config, experts=1.0)
        + sequences * (mixers + 2.0 * _logit_weights(config)),
        bytes=_weight_bytes(config, float(tokens), itemsize, quantization)
        + float(sequences * slot_bytes(config)),
    )


def _weight_bytes(
    config: ModelConfig, tokens: float, itemsize: int, quantization: str | None
) -> float:
    """Of the matmuls that so many tokens need."""

    def size(name: str) -> float:
        return VALUE_BYTES[quantization] if quantization and quantises(name) else itemsize

    return _layer_sum(config, tokens, size) + itemsize * _logit_weights(config)


def _layer_weights(config: ModelConfig, *, experts: float) -> float:
    """Weights of the layers that `experts` tokens touch, every token its own k experts."""
    return _layer_sum(config, experts, lambda name: 1)


def _layer_sum(config: ModelConfig, experts: float, size: Callable[[str], float]) -> float:
    total = 0.0
    for name, shape in flatten_shapes(config).items():
        if name.startswith("layers."):
            layer, *path = name.split(".")[1:]
            share = _share(config.layers[int(layer)], path, experts)
            total += size(name) * share * math.prod(shape)
        elif name in BESIDE_LAYERS:
            total += size(name) * math.prod(shape)
    return total


def _share(spec: LayerSpec, path: list[str], experts: float) -> float:
    """How much of a parameter is touched."""
    mixture = spec.sparse
    block = "mlp" if mixture is spec.mlp else "experts_beside"
    if mixture is None or len(path) != 2 or path[0] != block or path[1] not in EXPERT_WEIGHTS:
        return 1.0
    return min(1.0, experts * mixture.experts_per_token / mixture.num_experts)


def _logit_weights(config: ModelConfig) -> int:
    width = config.embed_size or config.hidden_size
    projection = 0 if config.embed_size is None else config.embed_size * config.hidden_size
    return config.vocab_size * width + projection


def _kv_bytes(config: ModelConfig, spec: LayerSpec, context: float, dtype: DataType) -> float:
    """Keys and values that a query sees, the scales of a quantised cache included."""
    source = getattr(spec.attention, "kv_from", None)
    holder = spec if source is None else config.layers[source]
    return layer_token_bytes(holder, dtype) * _visible(spec, context)


def _mixer_flops(spec: LayerSpec, context: float, *, cached: bool) -> float:
    """Of one token that has `context` keys, itself included, besides the weights."""
    flops, mixer = 0.0, spec.recurrent
    if spec.attention is not None:
        flops += 2 * _elements(spec.attention, cached=cached) * _visible(spec, context)
    if mixer is not None:
        reads = 2 if isinstance(mixer, GatedDeltaConfig | KDAConfig) else 1
        flops += 2 * (1 + reads) * math.prod(mixer.state_shapes.get("state", (0,)))
    return flops


def _elements(a: AttentionConfig | MLAConfig, *, cached: bool) -> int:
    """Of a key and its value in all heads, as they are multiplied."""
    if isinstance(a, AttentionConfig):
        return a.num_heads * (a.head_dim + a.value_size)
    latent = 2 * a.kv_rank + a.rope_dim
    return a.num_heads * (latent if cached else min(latent, a.head_dim + a.value_dim))


def _visible(spec: LayerSpec, context: float) -> float:
    """Keys that a query sees."""
    chunk = getattr(spec.attention, "chunk", None)
    if chunk is not None:
        context = (context - 1) % chunk + 1
    window = None if spec.attention is None else spec.attention.window
    return context if window is None else min(context, window)
