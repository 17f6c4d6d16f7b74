"""A forward in numpy, written from the definitions, that keeps what the readings are checked with.

Float64; one sequence from position 0; heads, tokens and experts one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormKind,
    NormPlacement,
    RopeConfig,
)

VOCAB = 90
ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, scale=0.4, rope=RopeConfig())
DENSE = LayerSpec(ATTENTION, MLPConfig(40))
WINDOWED = LayerSpec(replace(ATTENTION, window=5), MLPConfig(40))
SPARSE = LayerSpec(ATTENTION, MoEConfig(num_experts=5, experts_per_token=2, ffn_size=24))
BIASED = LayerSpec(
    replace(ATTENTION, out_bias=True, qkv_bias=True),
    MLPConfig(40, mlp_bias=True),
    norm=NormKind.LAYER,
)
KINDS = {
    "dense": (DENSE, DENSE, DENSE),
    "windowed": (WINDOWED, DENSE),
    "moe": (SPARSE, SPARSE),
    "layer norm, biases": (BIASED, BIASED),
    "post": (replace(DENSE, placement=NormPlacement.POST),) * 2,
    "sandwich": tuple(
        replace(DENSE, norm=NormKind.RMS_UNIT_OFFSET, placement=NormPlacement.SANDWICH)
        for _ in range(2)
    ),
    "post, layer norm": (replace(BIASED, placement=NormPlacement.POST),) * 2,
}


def make_llm(kind: str, **changes) -> fj.LLM:
    """A model of width 32 whose every parameter matters: norms and biases are random too."""
    layers = KINDS[kind]
    config = ModelConfig(
        model_type="llama",
        vocab_size=VOCAB,
        hidden_size=32,
        layers=layers,
        max_positions=256,
        final_norm=layers[0].norm,
        **changes,
    )
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype),
        init_params(config, seed=2),
    )
    engine = fj.EngineConfig(page_size=4, num_pages=256, max_num_seqs=4, max_num_batched_tokens=32)
    return fj.LLM(config, params, engine=engine)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


@dataclass
class Reference:
    """What a forward met on its way, per layer."""

    embedding: np.ndarray
    resid_post: list[np.ndarray] = field(default_factory=list)
    pattern: list[np.ndarray] = field(default_factory=list)
    """[N, T, S]"""
    heads: list[np.ndarray] = field(default_factory=list)
    """[N, T, D]: what each head adds before biases and norms"""
    attn_out: list[np.ndarray] = field(default_factory=list)
    mlp_out: list[np.ndarray] = field(default_factory=list)


def run(llm: fj.LLM, ids: list[int]) -> Reference:
    config = llm.config
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), llm.params)
    x = params.embed[ids] * config.embed_scale
    found = Reference(x)
    for spec, p in zip(config.layers, params.layers, strict=True):

        def norm(y, weights, kind=spec.norm):
            return y if weights is None else normalised(y, weights, kind, config.norm_eps)

        pattern, heads = attention(norm(x, p.mixer_norm), p.attention, spec.attention)
        bias = 0 if p.attention.o_bias is None else p.attention.o_bias
        attn_out = norm(heads.sum(0) + bias, p.mixer_post_norm)
        x = x + attn_out
        block = experts if isinstance(spec.mlp, MoEConfig) else feed_forward
        mlp_out = norm(block(norm(x, p.mlp_norm), p.mlp, spec.mlp), p.mlp_post_norm)
        x = x + mlp_out
        found.pattern.append(pattern)
        found.heads.append(heads)
        found.attn_out.append(attn_out)
        found.mlp_out.append(mlp_out)
        found.resid_post.append(x)
    return found


def logits(llm: fj.LLM, resid: np.ndarray) -> np.ndarray:
    """The model's final norm, unembedding and soft cap."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), llm.params)
    hidden = normalised(resid, params.final_norm, llm.config.final_norm, llm.config.norm_eps)
    values = hidden @ (params.embed.T if params.unembed is None else params.unembed)
    cap = llm.config.final_soft_cap
    return values if cap is None else cap * np.tanh(values / cap)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normalised(x: np.ndarray, p, kind: NormKind, eps: float) -> np.ndarray:
    if kind is NormKind.LAYER:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * p.weight + p.bias
    weight = 1 + p.weight if kind is NormKind.RMS_UNIT_OFFSET else p.weight
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def attention(x: np.ndarray, p, spec: AttentionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Each head's weights and what it adds; query head n reads kv head n // G."""
    count, groups = len(x), spec.num_heads // spec.num_kv_heads
    patterns, added = [], []
    for n in range(spec.num_heads):
        parts = []
        for slot in (n % groups, groups, groups + 1):
            part = x @ p.qkv[:, n // groups, slot]
            bias = 0 if p.qkv_bias is None else p.qkv_bias[n // groups, slot]
            parts.append(part + bias)
        q, k, v = parts
        scores = rotated(q, spec) @ rotated(k, spec).T * spec.scale
        distance = np.arange(count)[:, None] - np.arange(count)
        visible = (distance >= 0) & (distance < (spec.window or count))
        patterns.append(softmax(np.where(visible, scores, -np.inf)))
        added.append(patterns[-1] @ v @ p.o[n])
    return np.stack(patterns), np.stack(added)


def rotated(x: np.ndarray, spec: AttentionConfig) -> np.ndarray:
    """Rotary embedding: elements i and i + H/2 as one complex number, turned by its angle."""
    half = spec.head_dim // 2
    frequencies = spec.rope.theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(
        1j * np.arange(len(x))[:, None] * frequencies
    )
    return np.concatenate([turned.real, turned.imag], axis=1)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def feed_forward(x: np.ndarray, p, spec: MLPConfig) -> np.ndarray:
    bias = np.zeros((2, spec.ffn_size)) if p.gate_up_bias is None else p.gate_up_bias
    gate, up = (x @ p.gate_up[:, i] + bias[i] for i in (0, 1))
    return silu(gate) * up @ p.down + (0 if p.down_bias is None else p.down_bias)


def experts(x: np.ndarray, p, spec: MoEConfig) -> np.ndarray:
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        weights = softmax(token @ p.router)
        chosen = np.argsort(-weights)[: spec.experts_per_token]
        for e in chosen:
            share = weights[e] / weights[chosen].sum()
            out[t] += share * (silu(token @ p.gate[e]) * (token @ p.up[e]) @ p.down[e])
    return out
