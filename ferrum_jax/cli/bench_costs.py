"""What a step must at least read and multiply, from the config alone.

The formulas count what any implementation has to do, not what this one does: padding, activations,
logits and sampling are left out, so a fraction of the limit can only be too low.

    decode bytes    = matmul weights + B x the keys and values of one sequence
    decode flops    = B x (2 x active matmul weights + attention)
    prefill flops   = sequences x (sum over tokens of (2 x active weights of the layers + attention)
                      + the logits of the last token)
    attention       = 4 x N x H flops for each key that a query sees (scores and values)

A tied embedding is read once, as the matrix of the logits; the rows that look up the input tokens
are not counted. Of a mixture of experts, flops count the k chosen ones and bytes at most B x k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ferrum_jax.kv import layer_token_bytes
from ferrum_jax.models.params import flatten_shapes
from ferrum_jax.types import DataType, LayerSpec, ModelConfig, MoEConfig


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
) -> Cost:
    """One token for each of `batch` sequences that hold `context` tokens.

    Args:
        itemsize: bytes per element of the weights.
        kv_dtype: of the cache.
    """
    kv = sum(_kv_bytes(spec, context, kv_dtype) for spec in config.layers)
    return Cost(
        flops=batch
        * (
            2 * _layer_weights(config, experts=1.0)
            + 2 * _logit_weights(config)
            + sum(_attention_flops(spec, context) for spec in config.layers)
        ),
        bytes=itemsize * (_layer_weights(config, experts=float(batch)) + _logit_weights(config))
        + batch * kv,
    )


def prefill_cost(config: ModelConfig, sequences: int, length: int, itemsize: int) -> Cost:
    """The prompts of `sequences` sequences, `length` tokens each, in one step."""
    attention = sum(
        sum(_attention_flops(spec, position) for position in range(1, length + 1))
        for spec in set(config.layers)
        for _ in range(config.layers.count(spec))
    )
    tokens = sequences * length
    return Cost(
        flops=2.0 * tokens * _layer_weights(config, experts=1.0)
        + sequences * (attention + 2.0 * _logit_weights(config)),
        bytes=float(
            itemsize * (_layer_weights(config, experts=float(tokens)) + _logit_weights(config))
        ),
    )


def _layer_weights(config: ModelConfig, *, experts: float) -> float:
    """Weights of the layers that `experts` tokens touch, every token its own k experts."""
    total = 0.0
    for name, shape in flatten_shapes(config).items():
        if not name.startswith("layers."):
            continue
        share = 1.0
        mlp = config.layers[int(name.split(".")[1])].mlp
        if isinstance(mlp, MoEConfig) and ".mlp." in name and not name.endswith("router"):
            share = min(1.0, experts * mlp.experts_per_token / mlp.num_experts)
        total += share * math.prod(shape)
    return total


def _logit_weights(config: ModelConfig) -> int:
    return config.vocab_size * config.hidden_size


def _kv_bytes(spec: LayerSpec, context: float, dtype: DataType) -> float:
    """Keys and values that a query sees, the scales of a quantised cache included."""
    return layer_token_bytes(spec, dtype) * _visible(spec, context)


def _attention_flops(spec: LayerSpec, context: float) -> float:
    a = spec.attention
    return 4 * a.num_heads * a.head_dim * _visible(spec, context)


def _visible(spec: LayerSpec, context: float) -> float:
    window = spec.attention.window
    return context if window is None else min(context, window)
