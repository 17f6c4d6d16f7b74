"""The shapes of the parameters that a config asks for, and whether parameters have them."""

from __future__ import annotations

from typing import Any

import jax

from ferrum_jax.models.mixers import mixer_of
from ferrum_jax.models.params import (
    AttentionParams,
    LayerParams,
    MLAParams,
    MLPParams,
    MoEParams,
    NormParams,
    Params,
    PerLayerEmbedParams,
    PerLayerInputParams,
    path_name,
)
from ferrum_jax.models.quantized import is_quantized
from ferrum_jax.types import (
    Activation,
    AttentionConfig,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    ModelError,
    MoEConfig,
    NormKind,
    NormPlacement,
    QKNormOver,
)


def param_shapes(config: ModelConfig) -> Params:
    """The parameters that a config asks for, every leaf a tuple of ints (its shape)."""
    width, vocab = config.hidden_size, config.vocab_size
    embed = config.embed_size or width
    projected = config.embed_size is not None
    return Params(
        embed=(vocab, embed),
        layers=tuple(_layer(spec, config) for spec in config.layers),
        final_norm=_norm(config.final_norm, width),
        unembed=None if config.tie_embeddings else (embed, vocab),
        unembed_bias=(vocab,) if config.unembed_bias else None,
        positions=(config.learned_positions, width) if config.learned_positions else None,
        embed_norm=_norm(config.embed_norm, width),
        embed_in=(embed, width) if projected else None,
        embed_out=(width, embed) if projected else None,
        per_layer=_per_layer(config),
    )


def _per_layer(config: ModelConfig) -> PerLayerEmbedParams | None:
    if config.per_layer_size is None:
        return None
    each = (config.num_layers, config.per_layer_size)
    return PerLayerEmbedParams(
        embed=(config.per_layer_vocab or config.vocab_size, *each),
        projection=(config.hidden_size, *each),
        norm=NormParams(weight=(config.per_layer_size,)),
    )


def _norm(kind: NormKind | None, *shape: int) -> NormParams | None:
    if kind is None or not kind.scaled:
        return None if kind is None else NormParams()
    return NormParams(weight=shape, bias=shape if kind.biased else None)


def _layer(spec: LayerSpec, config: ModelConfig) -> LayerParams:
    width = config.hidden_size
    pre = spec.placement in (NormPlacement.PRE, NormPlacement.SANDWICH)
    post = spec.placement is not NormPlacement.PRE
    mixes = spec.attention is not None or spec.recurrent is not None
    feeds = spec.mlp is not None
    norm = _norm(spec.norm, width)
    beside = norm if spec.experts_beside is not None else None
    return LayerParams(
        attention=None if spec.attention is None else _attention(spec.attention, width),
        mlp=_feed_forward(spec.mlp, width),
        recurrent=(
            None
            if spec.recurrent is None
            else mixer_of(spec.recurrent).shapes(spec.recurrent, width)
        ),
        mixer_norm=norm if pre and mixes else None,
        mixer_post_norm=norm if post and mixes else None,
        mlp_norm=norm if pre and feeds and not spec.shared_norm else None,
        mlp_post_norm=norm if post and feeds else None,
        experts_beside=_feed_forward(spec.experts_beside, width),
        beside_mlp_norm=beside,
        beside_norm=beside,
        beside_post_norm=beside,
        per_layer_input=_per_layer_input(spec, config),
        scalar=(1,) if spec.layer_scalar else None,
    )


def _per_layer_input(spec: LayerSpec, config: ModelConfig) -> PerLayerInputParams | None:
    if spec.per_layer_input is None:
        return None
    width, size = config.hidden_size, config.per_layer_size or 0
    return PerLayerInputParams(
        gate=(width, size), projection=(size, width), norm=_norm(spec.norm, width)
    )


def _attention(a: AttentionConfig | MLAConfig, width: int) -> AttentionParams | MLAParams:
    if isinstance(a, MLAConfig):
        return _latent(a, width)
    own = 2 if a.kv_from is None else 0
    joined = (a.num_kv_heads, a.num_heads // a.num_kv_heads + own, a.head_dim)
    return AttentionParams(
        qkv=(width, *joined),
        o=(a.num_heads, a.head_dim, width),
        qkv_bias=joined if a.qkv_bias else None,
        o_bias=(width,) if a.out_bias else None,
        q_norm=_qk_norm(a, a.num_heads),
        k_norm=_qk_norm(a, a.num_kv_heads) if own else None,
        v_norm=_norm(a.v_norm, a.head_dim) if own else None,
        sinks=(a.num_heads,) if a.sinks else None,
        gate=(width, a.num_heads, a.head_dim) if a.out_gate else None,
    )


def _qk_norm(a: AttentionConfig, heads: int) -> NormParams | None:
    sizes = {
        QKNormOver.HEAD: (a.head_dim,),
        QKNormOver.EACH_HEAD: (heads, a.head_dim),
        QKNormOver.PROJECTION: (heads * a.head_dim,),
    }
    return _norm(a.qk_norm, *sizes[a.qk_norm_over])


def _latent(a: MLAConfig, width: int) -> MLAParams:
    ranked = a.q_rank is not None
    down = a.kv_rank + a.rope_dim
    return MLAParams(
        q=(a.q_rank or width, a.num_heads, a.head_dim),
        kv_down=(width, down),
        latent_norm=NormParams(weight=(a.kv_rank,)),
        kv_up=(a.kv_rank, a.num_heads, a.nope_dim + a.value_dim),
        o=(a.num_heads, a.value_dim, width),
        q_down=(width, a.q_rank) if ranked else None,
        q_norm=NormParams(weight=(a.q_rank,)) if ranked else None,
        q_down_bias=(a.q_rank,) if ranked and a.bias else None,
        kv_down_bias=(down,) if a.bias else None,
        o_bias=(width,) if a.bias else None,
    )


def _feed_forward(m: MLPConfig | MoEConfig | None, width: int) -> MLPParams | MoEParams | None:
    if m is None:
        return None
    if isinstance(m, MLPConfig):
        return _mlp(m, width)
    inner, experts = m.latent_size or width, m.num_experts
    wide = (experts, m.ffn_size) if m.expert_bias else None
    projected = m.latent_size is not None
    return MoEParams(
        router=(width, experts),
        up=(experts, inner, m.ffn_size),
        down=(experts, m.ffn_size, inner),
        gate=(experts, inner, m.ffn_size) if m.gated else None,
        router_bias=(experts,) if m.router_bias else None,
        choice_bias=(experts,) if m.choice_bias else None,
        router_scale=(width,) if m.router_norm else None,
        expert_scale=(experts,) if m.expert_scale else None,
        gate_bias=wide if m.gated else None,
        up_bias=wide,
        down_bias=(experts, inner) if m.expert_bias else None,
        shared=None if m.shared is None else _mlp(m.shared, width),
        shared_gate=(width, 1) if m.shared_gate else None,
        latent_down=(width, inner) if projected else None,
        latent_up=(inner, width) if projected else None,
    )


def _mlp(m: MLPConfig, width: int) -> MLPParams:
    joined = (2 if m.gated else 1, m.ffn_size)
    return MLPParams(
        gate_up=(width, *joined),
        down=(m.ffn_size, width),
        gate_up_bias=joined if m.mlp_bias else None,
        down_bias=(width,) if m.mlp_bias else None,
        alpha=(2,) if m.activation is Activation.XIELU else None,
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


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) > 0 and all(isinstance(n, int) for n in x)


def check_params(config: ModelConfig, params: Params) -> None:
    """Raise `ModelError`, listing every difference, unless `params` fit `config`."""
    wanted = flatten_shapes(config)
    held = {
        path_name(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
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
