"""Mixtures of experts: the router, and the experts as grouped matmuls.

Dimension key: T tokens, D model, M what experts work on, F ffn, E experts, J experts per token,
Y = T x J rows, U groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.models.grouped import group_rows, grouped_matmul
from ferrum_jax.models.mlp import ACTIVATIONS, mlp
from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import MoEParams, NormParams
from ferrum_jax.models.taps import LayerTap
from ferrum_jax.types import GroupScore, MoEConfig, NormKind, RouterKind

NEVER = -1e30
"""The score of an expert that may not be chosen; finite, so that no sum is nan."""


def moe(
    x: Float[Array, "T D"],
    params: MoEParams,
    spec: MoEConfig,
    tap: LayerTap,
    *,
    routed_by: Float[Array, "T D"] | None = None,
    eps: float = 1e-6,
) -> Float[Array, "T D"]:
    """Each token through its k best experts, none dropped.

    Sites: router (fp32 logits `[T, E]`), expert_weights (fp32 `[T, E]`, zero where not chosen).

    Args:
        routed_by: what the router reads; None: what the experts do.
    """
    logits = _logits(x if routed_by is None else routed_by, params, spec, eps)
    weights_TJ, experts_TJ = choose_experts(tap("router", logits), params, spec)
    if tap.wants("expert_weights"):
        weights_TJ, experts_TJ = _tapped(weights_TJ, experts_TJ, spec, tap)
    inner = x
    if params.latent_down is not None:
        inner = tap.adapted("latent_down", x, x @ params.latent_down)
    out = _experts(inner, weights_TJ, experts_TJ, params, spec, tap)
    if params.latent_up is not None:
        out = tap.adapted("latent_up", out, out @ params.latent_up)
    if spec.shared is None:
        return out
    shared = mlp(x, params.shared, spec.shared, tap.within("shared"))
    if params.shared_gate is not None:
        shared = jax.nn.sigmoid(x @ params.shared_gate) * shared
    return out + shared


def _logits(x: Array, p: MoEParams, spec: MoEConfig, eps: float) -> Float[Array, "T E"]:
    if spec.router_norm:
        scale = p.router_scale.astype(jnp.float32) * x.shape[-1] ** -0.5
        x = (normalise(x, NormParams(), NormKind.RMS_UNSCALED, eps) * scale).astype(x.dtype)
    logits = jnp.einsum("TD,DE->TE", x, p.router, preferred_element_type=jnp.float32)
    logits = logits.astype(jnp.float32)
    return logits if p.router_bias is None else logits + p.router_bias.astype(jnp.float32)


def choose_experts(
    logits_TE: Float[Array, "T E"], p: MoEParams, spec: MoEConfig
) -> tuple[Float[Array, "T J"], Int[Array, "T J"]]:
    """The chosen experts and the weights of what they return, in fp32.

    A logit at the lowest float is never chosen before one that is not: so routing is forced.
    """
    count = spec.experts_per_token
    if spec.router is RouterKind.SPARSE_MIXER:
        return _sparse_mixer(logits_TE, count, spec.router_jitter)
    if spec.router is RouterKind.SOFTMAX_OF_CHOSEN:
        best_TJ, experts_TJ = jax.lax.top_k(logits_TE, count)
        return jax.nn.softmax(best_TJ, axis=-1) * spec.weight_scale, experts_TJ
    sigmoid = spec.router is RouterKind.SIGMOID
    scores = jax.nn.sigmoid(logits_TE) if sigmoid else jax.nn.softmax(logits_TE, axis=-1)
    choice = scores if p.choice_bias is None else scores + p.choice_bias.astype(jnp.float32)
    choice = jnp.where(logits_TE > jnp.finfo(jnp.float32).min, choice, NEVER)
    if spec.groups > 1:
        choice = _within_best_groups(choice, spec)
    _, experts_TJ = jax.lax.top_k(choice, count)
    weights_TJ = jnp.take_along_axis(scores, experts_TJ, axis=1)
    if spec.norm_topk:
        total = jnp.sum(weights_TJ, axis=-1, keepdims=True) + spec.norm_eps
        weights_TJ = weights_TJ / jnp.maximum(total, spec.norm_floor)
    weights_TJ = weights_TJ * spec.weight_scale
    if p.expert_scale is not None:
        weights_TJ = weights_TJ * p.expert_scale.astype(jnp.float32)[experts_TJ]
    return weights_TJ, experts_TJ


def _within_best_groups(choice_TE: Array, spec: MoEConfig) -> Array:
    """Scores of the experts in the best groups; the others are chosen only where those are too few,
    as when routing is forced, and before the ones that may never be."""
    by_group = choice_TE.reshape(-1, spec.groups, spec.num_experts // spec.groups)
    if spec.group_score is GroupScore.MAX:
        group_TU = jnp.max(by_group, axis=-1)
    else:
        group_TU = jnp.sum(jax.lax.top_k(by_group, 2)[0], axis=-1)
    _, best = jax.lax.top_k(group_TU, spec.groups_kept)
    kept_TU = jnp.any(jax.nn.one_hot(best, spec.groups, dtype=bool), axis=1)
    otherwise = jnp.where(by_group > NEVER, NEVER / 2, NEVER)
    return jnp.where(kept_TU[:, :, None], by_group, otherwise).reshape(choice_TE.shape)


def _sparse_mixer(logits_TE: Array, count: int, jitter: float) -> tuple[Array, Array]:
    """One expert after the other: the largest logit, weighed among those that are not far below."""
    left, weights, experts = logits_TE, [], []
    for _ in range(count):
        top = jnp.max(left, axis=-1, keepdims=True)
        best = jnp.argmax(left, axis=-1, keepdims=True)
        far = (top - logits_TE) / jnp.maximum(jnp.abs(logits_TE), top) > 2 * jitter
        probs = jax.nn.softmax(jnp.where(far, -jnp.inf, left), axis=-1)
        weights.append(jnp.take_along_axis(probs, best, axis=1))
        experts.append(best)
        chosen = jnp.arange(left.shape[1]) == best
        left = jnp.where(chosen, -jnp.inf, left)
    return jnp.concatenate(weights, axis=1), jnp.concatenate(experts, axis=1).astype(jnp.int32)


def _tapped(weights_TJ: Array, experts_TJ: Array, spec: MoEConfig, tap) -> tuple[Array, Array]:
    """The routing as those who look at `expert_weights` leave it: the k largest by magnitude."""
    rows = jnp.arange(weights_TJ.shape[0])[:, None]
    empty = jnp.zeros((weights_TJ.shape[0], spec.num_experts))
    dense_TE = empty.at[rows, experts_TJ].set(weights_TJ)
    dense_TE = tap("expert_weights", dense_TE)
    _, experts_TJ = jax.lax.top_k(jnp.abs(dense_TE), spec.experts_per_token)
    return jnp.take_along_axis(dense_TE, experts_TJ, axis=1), experts_TJ


def _experts(
    x: Float[Array, "T M"],
    weights_TJ: Array,
    experts_TJ: Array,
    p: MoEParams,
    spec: MoEConfig,
    tap: LayerTap,
) -> Float[Array, "T M"]:
    """The weighted sum of the chosen experts' outputs.

    Rows are sorted by expert, so that every expert is one block of a grouped matmul.
    """
    order_Y = jnp.argsort(experts_TJ.reshape(-1), stable=True)
    expert_Y = experts_TJ.reshape(-1)[order_Y]
    groups = group_rows(expert_Y, spec.num_experts)
    weight_Y1 = weights_TJ.reshape(-1)[order_Y, None]
    token_Y = order_Y // spec.experts_per_token
    rows = x[token_Y]
    if spec.weights_scale_input:
        rows = (rows * weight_Y1).astype(rows.dtype)

    def through(rows: Array, name: str, bias: Array | None) -> Array:
        out = grouped_matmul(rows, getattr(p, name), groups)
        if (found := tap.low_rank(name)) is not None:
            change, factors_TR = found
            inner = grouped_matmul(rows, change.a, groups) * factors_TR[token_Y]
            out = out + grouped_matmul(inner.astype(out.dtype), change.b, groups)
        return out if bias is None else out + bias[expert_Y]

    up = through(rows, "up", p.up_bias)
    hidden = up if p.gate is None else through(rows, "gate", p.gate_bias)
    if spec.clamp is not None:
        hidden, up = jnp.minimum(hidden, spec.clamp), jnp.clip(up, -spec.clamp, spec.clamp)
    if spec.swish_alpha is not None:
        hidden = hidden * jax.nn.sigmoid(spec.swish_alpha * hidden)
    else:
        hidden = ACTIVATIONS[spec.activation](hidden)
    if p.gate is not None:
        hidden = hidden * (up + spec.up_offset if spec.up_offset else up)
    out = through(hidden, "down", p.down_bias)
    if not spec.weights_scale_input:
        out = out * weight_Y1.astype(out.dtype)
    out_TJM = out[jnp.argsort(order_Y)].reshape(*experts_TJ.shape, -1)
    return jnp.sum(out_TJM, axis=1)
