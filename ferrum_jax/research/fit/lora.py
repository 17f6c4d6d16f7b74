"""LoRA: changes of weights by matrices of low rank (Hu et al. 2021).

Dimension key: D model, N query heads, K kv heads, G = N / K, H head, F ffn, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array

from ferrum_jax.models import Params
from ferrum_jax.models.params import AttentionParams, LayerParams, MLPParams
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.research.prompt import checked_layers
from ferrum_jax.types import ModelConfig, MoEConfig, RequestError, UnsupportedError

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

ATTENTION_TARGETS = ("q", "k", "v", "o")
MLP_TARGETS = ("gate", "up", "down")
TARGETS = ATTENTION_TARGETS + MLP_TARGETS


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
            UnsupportedError: an MLP of experts is a target.
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
        layers = list(params.layers)
        for layer in checked_layers(self.layers, config):
            changes = {target: self._change(value, f"{layer}.{target}") for target in self.targets}
            layers[layer] = _changed_layer(layers[layer], changes)
        return params.replace(layers=tuple(layers))  # type: ignore[attr-defined]

    def _change(self, value: Value, name: str) -> Array:
        """float32 `[inputs, outputs]`"""
        a, b = jnp.asarray(value[f"{name}.a"]), jnp.asarray(value[f"{name}.b"])
        return (self.alpha / self.rank) * (a @ b)


def _sizes(config: ModelConfig, layer: int, target: str) -> tuple[int, int]:
    """Inputs and outputs of a projection."""
    spec, width = config.layers[layer], config.hidden_size
    attention, mlp = spec.attention, spec.mlp
    if target in ATTENTION_TARGETS:
        queries = attention.num_heads * attention.head_dim
        keys = attention.num_kv_heads * attention.head_dim
        sizes = {"q": (width, queries), "k": (width, keys), "v": (width, keys)}
        return sizes.get(target, (queries, width))
    if isinstance(mlp, MoEConfig):
        raise UnsupportedError(
            f"the MLP of layer {layer} is a mixture of experts, for which there is no LoRA here; "
            f"choose targets among {', '.join(ATTENTION_TARGETS)}, or other layers"
        )
    if target == "gate" and not mlp.gated:
        raise RequestError(f"the MLP of layer {layer} has no gate; its targets are up and down")
    return (mlp.ffn_size, width) if target == "down" else (width, mlp.ffn_size)


def _changed_layer(p: LayerParams, changes: dict[str, Array]) -> LayerParams:
    changed = p
    if any(name in changes for name in ATTENTION_TARGETS):
        changed = changed.replace(attention=_changed_attention(p.attention, changes))  # type: ignore[attr-defined]
    if any(name in changes for name in MLP_TARGETS):
        assert isinstance(p.mlp, MLPParams)
        changed = changed.replace(mlp=_changed_mlp(p.mlp, changes))  # type: ignore[attr-defined]
    return changed


def _changed_attention(p: AttentionParams, changes: dict[str, Array]) -> AttentionParams:
    """q, k and v are parts of one matrix `[D, K, G + 2, H]`."""
    new = {}
    width, kv_heads, joined, head = p.qkv.shape
    counts = {"q": joined - 2, "k": 1, "v": 1}
    if any(name in changes for name in counts):
        parts = [
            changes[name].reshape(width, kv_heads, count, head)
            if name in changes
            else jnp.zeros((width, kv_heads, count, head))
            for name, count in counts.items()
        ]
        new["qkv"] = _plus(p.qkv, jnp.concatenate(parts, axis=2))
    if "o" in changes:
        new["o"] = _plus(p.o, changes["o"].reshape(p.o.shape))
    return p.replace(**new)  # type: ignore[attr-defined]


def _changed_mlp(p: MLPParams, changes: dict[str, Array]) -> MLPParams:
    """gate and up are parts of one matrix `[D, U, F]`; without a gate, up is all of it."""
    new = {}
    names = ("gate", "up") if p.gate_up.shape[1] == 2 else ("up",)
    if any(name in changes for name in names):
        width, _, ffn = p.gate_up.shape
        parts = [changes.get(name, jnp.zeros((width, ffn))) for name in names]
        new["gate_up"] = _plus(p.gate_up, jnp.stack(parts, axis=1))
    if "down" in changes:
        new["down"] = _plus(p.down, changes["down"])
    return p.replace(**new)  # type: ignore[attr-defined]


def _plus(weights: Array, change: Array) -> Array:
    """In the weights' dtype, rounded once."""
    return (jnp.asarray(weights, jnp.float32) + change).astype(weights.dtype)
