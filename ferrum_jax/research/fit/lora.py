"""LoRA: changes of weights by matrices of low rank (Hu et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array

from ferrum_jax.models import Params
from ferrum_jax.models.adapters import merge_adapters
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.research.prompt import checked_layers
from ferrum_jax.types import (
    Adapters,
    AttentionConfig,
    LayerSpec,
    LowRank,
    MLPConfig,
    ModelConfig,
    RequestError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

ATTENTION_TARGETS = ("q", "k", "v", "o")
MLP_TARGETS = ("gate", "up", "down")
TARGETS = ATTENTION_TARGETS + MLP_TARGETS
Pair = tuple[Array, Array]
"""a `[inputs, rank]` and b `[rank, outputs...]`"""


@dataclass(frozen=True)
class LoRA(Trainable):
    """`W + alpha / rank * A B` in place of W, for some projections of some layers.

    Value, for layer 3 and target q: `3.q.a [inputs, rank]`, random, and `3.q.b [rank, outputs]`,
    zero, so that the fit starts at the model itself.

    The sum is formed in the weights' dtype, while fitting as when it is merged. In bfloat16 changes
    below a 256th of a weight may be lost by rounding; fit in float32 where that matters. A step
    holds the changed matrices (not the others) a second time, and their gradients.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q", "v")
    """Among q, k, v, o, gate, up and down; an MLP without a gate has up and down."""
    layers: tuple[int, ...] | None = None
    """None: all."""

    def __post_init__(self) -> None:
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        if self.layers is not None:
            layers = (self.layers,) if isinstance(self.layers, int) else tuple(self.layers)
            object.__setattr__(self, "layers", layers)
        unknown = [name for name in targets if name not in TARGETS]
        if unknown or not targets or len(set(targets)) < len(targets):
            raise RequestError(
                f"targets is {targets}; name some of {', '.join(TARGETS)}, each once"
            )
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise RequestError(f"rank is {self.rank!r}; give a number from 1")
        if not math.isfinite(self.alpha):
            raise RequestError(f"alpha is {self.alpha!r}; give a finite number")

    def init(self, llm: LLM, seed: int) -> Value:
        """A normal with std 1 / sqrt(inputs), B zero.

        Raises:
            RequestError: a layer that does not exist, or a gate that its MLP does not have.
            UnsupportedError: a target is a mixture of experts, latent attention, or not there.
        """
        rng = np.random.default_rng(seed)
        value: dict[str, Array] = {}
        for layer in checked_layers(self.layers, llm.config):
            for target in self.targets:
                inputs, outputs = _sizes(llm.config, layer, target)
                a = rng.standard_normal((inputs, self.rank), np.float32) / inputs**0.5
                value[f"{layer}.{target}.a"] = jnp.asarray(a, jnp.float32)
                value[f"{layer}.{target}.b"] = jnp.zeros((self.rank, outputs))
        return value

    def merge(self, config: ModelConfig, params: Params, value: Value) -> Params:
        """The weights with the changes added; those that are no target are shared, not copied."""
        return merge_adapters(params, self.adapters(config, value))

    def adapters(self, config: ModelConfig, value: Value) -> Adapters:
        """A value as requests carry it; float32, also while it is traced."""
        changes: dict[str, LowRank] = {}
        for layer in checked_layers(self.layers, config):
            pairs: dict[str, Pair] = {}
            for target in self.targets:
                a, b = (value[f"{layer}.{target}.{matrix}"] for matrix in "ab")
                pairs[target] = jnp.asarray(a), jnp.asarray(b)
            for parameter, parts in _by_parameter(config.layers[layer], pairs).items():
                a = jnp.concatenate([a for a, _ in parts], axis=1)
                b = jnp.concatenate([b for _, b in parts], axis=0)
                scales = jnp.full((1, a.shape[1]), self.alpha / self.rank)
                changes[f"layers.{layer}.{parameter}"] = LowRank(a, b, scales)
        return Adapters(changes, np.ones((1, 1), np.float32))


def _sizes(config: ModelConfig, layer: int, target: str) -> tuple[int, int]:
    """Inputs and outputs of a projection."""
    spec, width = config.layers[layer], config.hidden_size
    if target in ATTENTION_TARGETS:
        attention = spec.attention
        if not isinstance(attention, AttentionConfig) or attention.kv_from is not None:
            raise UnsupportedError(
                f"layer {layer} has no attention with q, k and v of its own, for which there is "
                f"LoRA here; choose targets among {', '.join(MLP_TARGETS)}, or other layers"
            )
        queries = attention.num_heads * attention.head_dim
        keys = attention.num_kv_heads * attention.head_dim
        sizes = {"q": (width, queries), "k": (width, keys), "v": (width, keys)}
        return sizes.get(target, (queries, width))
    mlp = spec.mlp
    if not isinstance(mlp, MLPConfig):
        what = "is a mixture of experts" if mlp is not None else "does not exist"
        raise UnsupportedError(
            f"the MLP of layer {layer} {what}, for which there is no LoRA here; "
            f"choose targets among {', '.join(ATTENTION_TARGETS)}, or other layers"
        )
    if target == "gate" and not mlp.gated:
        raise RequestError(f"the MLP of layer {layer} has no gate; its targets are up and down")
    return (mlp.ffn_size, width) if target == "down" else (width, mlp.ffn_size)


def _by_parameter(spec: LayerSpec, pairs: dict[str, Pair]) -> dict[str, list[Pair]]:
    """The pairs of each joined parameter, every b laid out as the parameter's outputs are."""
    found: dict[str, list[Pair]] = {}
    for target, (a, b) in pairs.items():
        rank = b.shape[0]
        if target in ("q", "k", "v"):
            assert isinstance(spec.attention, AttentionConfig)
            kv_heads, head = spec.attention.num_kv_heads, spec.attention.head_dim
            group = spec.attention.num_heads // kv_heads
            first = {"q": 0, "k": group, "v": group + 1}[target]
            part = b.reshape(rank, kv_heads, -1, head)
            behind = group + 2 - first - part.shape[2]
            joined = jnp.pad(part, ((0, 0), (0, 0), (first, behind), (0, 0)))
            found.setdefault("attention.qkv", []).append((a, joined))
        elif target == "o":
            found["attention.o"] = [(a, b)]
        elif target == "down":
            found["mlp.down"] = [(a, b)]
        else:
            assert isinstance(spec.mlp, MLPConfig)
            before = 1 if spec.mlp.gated and target == "up" else 0
            behind = 1 if target == "gate" else 0
            joined = jnp.pad(b[:, None], ((0, 0), (before, behind), (0, 0)))
            found.setdefault("mlp.gate_up", []).append((a, joined))
    return found
