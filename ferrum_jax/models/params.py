"""The weights of a model as plain pytrees, and the shapes that a config asks for.

Dimension key: D model, N query heads, K kv heads, G = N / K, H head, F ffn, E experts,
V vocabulary.
A field that a layer does not use is None, and so has no leaf.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    ModelError,
    MoEConfig,
    NormKind,
    NormPlacement,
)


@struct.dataclass
class NormParams:
    """A norm over the last axis."""

    weight: Any
    bias: Any = None


@struct.dataclass
class AttentionParams:
    """Projections of one attention layer; `q`, `k` and `v` give the parts of the joined one."""

    qkv: Any
    """[D, K, G + 2, H]: per kv head the queries of its group, its key and its value. One matmul
    in place of three, and it shards over kv heads."""
    o: Any
    """[N, H, D]"""
    qkv_bias: Any = None
    """[K, G + 2, H]"""
    o_bias: Any = None
    q_norm: Any = None
    k_norm: Any = None
    sinks: Any = None
    """[N]"""

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
class MLPParams:
    """A dense feed-forward block."""

    gate_up: Any
    """[D, U, F]: U = 2, gate and up projection as one matmul; without a gate U = 1"""
    down: Any
    """[F, D]"""
    gate_up_bias: Any = None
    """[U, F]"""
    down_bias: Any = None


@struct.dataclass
class MoEParams:
    """A router and its gated experts."""

    router: Any
    """[D, E]"""
    gate: Any
    """[E, D, F]"""
    up: Any
    """[E, D, F]"""
    down: Any
    """[E, F, D]"""


@struct.dataclass
class LayerParams:
    """One decoder layer; the norms that its placement does not use are None."""

    attention: AttentionParams
    mlp: MLPParams | MoEParams
    attention_norm: Any = None
    attention_post_norm: Any = None
    mlp_norm: Any = None
    mlp_post_norm: Any = None


@struct.dataclass
class Params:
    """A whole model."""

    embed: Any
    """[V, D]"""
    layers: tuple[LayerParams, ...]
    final_norm: NormParams
    unembed: Any = None
    """[D, V]; None: the embedding is tied"""


def param_shapes(config: ModelConfig) -> Params:
    """The parameters that a config asks for, every leaf a tuple of ints (its shape)."""
    width, vocab = config.hidden_size, config.vocab_size
    return Params(
        embed=(vocab, width),
        layers=tuple(_layer(spec, width) for spec in config.layers),
        final_norm=_norm(config.final_norm, width),
        unembed=None if config.tie_embeddings else (width, vocab),
    )


def _norm(kind: NormKind, size: int) -> NormParams:
    return NormParams(weight=(size,), bias=(size,) if kind is NormKind.LAYER else None)


def _layer(spec: LayerSpec, width: int) -> LayerParams:
    pre = spec.placement is not NormPlacement.POST
    post = spec.placement is not NormPlacement.PRE
    norm = _norm(spec.norm, width)
    return LayerParams(
        attention=_attention(spec.attention, width),
        mlp=_mlp(spec.mlp, width),
        attention_norm=norm if pre else None,
        attention_post_norm=norm if post else None,
        mlp_norm=norm if pre else None,
        mlp_post_norm=norm if post else None,
    )


def _attention(a: AttentionConfig, width: int) -> AttentionParams:
    joined = (a.num_kv_heads, a.num_heads // a.num_kv_heads + 2, a.head_dim)
    return AttentionParams(
        qkv=(width, *joined),
        o=(a.num_heads, a.head_dim, width),
        qkv_bias=joined if a.qkv_bias else None,
        o_bias=(width,) if a.out_bias else None,
        q_norm=_norm(a.qk_norm, a.head_dim) if a.qk_norm else None,
        k_norm=_norm(a.qk_norm, a.head_dim) if a.qk_norm else None,
        sinks=(a.num_heads,) if a.sinks else None,
    )


def _mlp(m: MLPConfig | MoEConfig, width: int) -> MLPParams | MoEParams:
    if isinstance(m, MoEConfig):
        up = (m.num_experts, width, m.ffn_size)
        down = (m.num_experts, m.ffn_size, width)
        return MoEParams(router=(width, m.num_experts), gate=up, up=up, down=down)
    joined = (2 if m.gated else 1, m.ffn_size)
    return MLPParams(
        gate_up=(width, *joined),
        down=(m.ffn_size, width),
        gate_up_bias=joined if m.mlp_bias else None,
        down_bias=(width,) if m.mlp_bias else None,
    )


def flatten_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """`param_shapes` as a flat table, `layers.0.attention.q -> (D, N, H)`."""
    leaves = jax.tree_util.tree_leaves_with_path(
        param_shapes(config), is_leaf=lambda x: _is_shape(x)
    )
    return {path_name(path): shape for path, shape in leaves}


def unflatten(config: ModelConfig, arrays: dict[str, Any]) -> Params:
    """`Params` from a flat table that has an array for each name of `flatten_shapes`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[path_name(path)],
        param_shapes(config),
        is_leaf=lambda x: _is_shape(x),
    )


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path with dots: `layers.0.attention.q`."""
    return ".".join(str(getattr(key, "name", getattr(key, "idx", key))) for key in path)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) > 0 and all(isinstance(n, int) for n in x)


def check_params(config: ModelConfig, params: Params) -> None:
    """Raise `ModelError`, listing every difference, unless `params` fit `config`."""
    wanted = flatten_shapes(config)
    held = {
        path_name(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    problems = [f"missing {name} {wanted[name]}" for name in sorted(wanted.keys() - held.keys())]
    problems += [f"unused {name} {held[name]}" for name in sorted(held.keys() - wanted.keys())]
    problems += [
        f"{name} is {held[name]}, the config asks for {wanted[name]}"
        for name in sorted(wanted.keys() & held.keys())
        if wanted[name] != held[name]
    ]
    if problems:
        raise ModelError(
            f"these parameters do not fit this config ({len(problems)} differences): "
            + "; ".join(problems[:20])
            + ("; ..." if len(problems) > 20 else "")
        )


def init_params(config: ModelConfig, seed: int = 0, dtype: str = "float32") -> Params:
    """Random parameters: matrices normal with std 1/sqrt(fan-in), embeddings 0.02, norms neutral.

    Drawn on the host by numpy, so that a seed means the same on every device and jax version.
    """
    rng = np.random.default_rng(seed)
    arrays = {
        name: jnp.asarray(_init_leaf(rng, name, shape, config), dtype)
        for name, shape in flatten_shapes(config).items()
    }
    return unflatten(config, arrays)


def _init_leaf(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], config: ModelConfig
) -> np.ndarray:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight":
        return np.full(shape, 0.0 if _unit_offset(name, config) else 1.0, np.float32)
    if leaf.endswith("bias") or leaf == "sinks":
        return np.zeros(shape, np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if leaf == "embed":
        return values * np.float32(0.02)
    return values / np.float32(_fan_in(leaf, shape) ** 0.5)


def _fan_in(leaf: str, shape: tuple[int, ...]) -> int:
    """The inputs of a projection: two axes of `o`, the middle one of stacked experts."""
    if leaf == "o":
        return shape[0] * shape[1]
    return shape[1] if len(shape) == 3 and leaf not in ("gate_up", "qkv") else shape[0]


def _unit_offset(name: str, config: ModelConfig) -> bool:
    if name.startswith("final_norm"):
        return config.final_norm is NormKind.RMS_UNIT_OFFSET
    spec = config.layers[int(name.split(".")[1])]
    kind = spec.attention.qk_norm if ".attention." in name else spec.norm
    return kind is NormKind.RMS_UNIT_OFFSET
