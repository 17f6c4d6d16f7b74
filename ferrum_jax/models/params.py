"""The weights of a model as plain pytrees.

Dimension key: D model, N query heads, K kv heads, G = N / K, H head, F ffn, E experts,
V vocabulary.
A field that a layer does not use is None, and so has no leaf.
"""

from __future__ import annotations

from typing import Any

from flax import struct


@struct.dataclass
class NormParams:
    """A norm over the last axis; both are None where it has no weights."""

    weight: Any = None
    bias: Any = None


@struct.dataclass
class AttentionParams:
    """Projections of one attention layer; `q`, `k` and `v` give the parts of the joined one."""

    qkv: Any
    """[D, K, G + 2, H]: per kv head the queries of its group, its key and its value. One matmul
    in place of three, and it shards over kv heads. [D, K, G, H] where keys and values are those of
    another layer."""
    o: Any
    """[N, H, D]"""
    qkv_bias: Any = None
    """[K, G + 2, H]"""
    o_bias: Any = None
    q_norm: Any = None
    k_norm: Any = None
    v_norm: Any = None
    sinks: Any = None
    """[N]"""
    gate: Any = None
    """[D, N, H]"""

    @property
    def q(self) -> Any:
        """[D, N, H]"""
        queries = self.qkv[:, :, :-2]
        return queries.reshape(queries.shape[0], -1, queries.shape[-1])

    @property
    def k(self) -> Any:
        """[D, K, H]"""
        return self.qkv[:, :, -2]

    @property
    def v(self) -> Any:
        """[D, K, H]"""
        return self.qkv[:, :, -1]


@struct.dataclass
class MLAParams:
    """Projections of one layer of latent attention. C latent, n elements without rope, r with."""

    q: Any
    """[D, N, n + r], or [Q, N, n + r] behind `q_down`"""
    kv_down: Any
    """[D, C + r]: the latent vector, and the rotary key that the heads share"""
    latent_norm: Any
    kv_up: Any
    """[C, N, n + V]: keys without rope and values out of the latent vector"""
    o: Any
    """[N, V, D]"""
    q_down: Any = None
    """[D, Q]"""
    q_norm: Any = None
    q_down_bias: Any = None
    kv_down_bias: Any = None
    o_bias: Any = None


@struct.dataclass
class MLPParams:
    """A dense feed-forward block."""

    gate_up: Any
    """[D, U, F]: U = 2, gate and up projection as one matmul; without a gate U = 1"""
    down: Any
    """[F, D]"""
    gate_up_bias: Any = None
    """[U, F]"""
    down_bias: Any = None
    alpha: Any = None
    """[2]: of xIELU, its positive and its negative side, before softplus"""


@struct.dataclass
class MoEParams:
    """A router and its experts; M is D, or the latent size."""

    router: Any
    """[D, E]"""
    gate: Any
    """[E, M, F]; None: the experts have none"""
    up: Any
    """[E, M, F]"""
    down: Any
    """[E, F, M]"""
    router_bias: Any = None
    """[E]"""
    choice_bias: Any = None
    """[E]"""
    router_scale: Any = None
    """[D]"""
    expert_scale: Any = None
    """[E]"""
    gate_bias: Any = None
    up_bias: Any = None
    """[E, F]"""
    down_bias: Any = None
    """[E, M]"""
    shared: Any = None
    """`MLPParams`"""
    shared_gate: Any = None
    """[D, 1]"""
    latent_down: Any = None
    """[D, M]"""
    latent_up: Any = None
    """[M, D]"""


@struct.dataclass
class PerLayerInputParams:
    """The block that ends a layer with the token's embedding for it. P elements of that."""

    gate: Any
    """[D, P]"""
    projection: Any
    """[P, D]"""
    norm: Any


@struct.dataclass
class LayerParams:
    """One decoder layer; what its spec does not ask for is None."""

    attention: Any = None
    """`AttentionParams` or `MLAParams`"""
    mlp: Any = None
    """`MLPParams` or `MoEParams`"""
    recurrent: Any = None
    """of its mixer's own class"""
    mixer_norm: Any = None
    mixer_post_norm: Any = None
    mlp_norm: Any = None
    mlp_post_norm: Any = None
    experts_beside: Any = None
    """`MoEParams`"""
    beside_mlp_norm: Any = None
    """behind the dense block"""
    beside_norm: Any = None
    """before the experts"""
    beside_post_norm: Any = None
    """behind them"""
    per_layer_input: Any = None
    scalar: Any = None
    """[1]"""


@struct.dataclass
class PerLayerEmbedParams:
    """The embeddings that each layer has of its own, and the projection added to them."""

    embed: Any
    """[W, L, P]"""
    projection: Any
    """[D, L, P]"""
    norm: Any


@struct.dataclass
class Params:
    """A whole model."""

    embed: Any
    """[V, D]"""
    layers: tuple[LayerParams, ...]
    final_norm: Any = None
    unembed: Any = None
    """[D, V]; None: the embedding is tied"""
    unembed_bias: Any = None
    """[V]"""
    positions: Any = None
    """[rows, D]"""
    embed_norm: Any = None
    embed_in: Any = None
    """[embed size, D]"""
    embed_out: Any = None
    """[D, embed size]"""
    per_layer: Any = None
    """`PerLayerEmbedParams`"""


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path with dots: `layers.0.attention.q`."""
    return ".".join(str(getattr(key, "name", getattr(key, "idx", key))) for key in path)
