"""One decoder layer: mixers, then a feed-forward block, around the residual stream.

Dimension key: T tokens, D model, P elements of a layer's own embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ferrum_jax.models.attention import Sequences, attention, latent_attention
from ferrum_jax.models.mixers import mixer_of
from ferrum_jax.models.mlp import ACTIVATIONS, mlp
from ferrum_jax.models.moe import moe
from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import LayerParams
from ferrum_jax.models.ragged import State, Tile, by_token, scan_tiles
from ferrum_jax.models.taps import LayerTap
from ferrum_jax.types import (
    LayerSpec,
    MLAConfig,
    MoEConfig,
    NormPlacement,
    RaggedLayout,
    RecurrentConfig,
)


def layer(
    x: Array,
    p: LayerParams,
    spec: LayerSpec,
    eps: float,
    at: Sequences,
    tap: LayerTap,
    state: State | None,
    layout: RaggedLayout | None,
    per_layer_TP: Array | None,
) -> tuple[Array, Any, Any, Any]:
    """The stream behind the layer, its cache, its state, and its keys and values."""

    def norm(y: Array, weights: Any) -> Array:
        return y if weights is None else normalise(y, weights, spec.norm, eps)

    x = tap("resid_pre", x)
    read = norm(x, p.mixer_norm)
    mixed, held, state, kv = _mixers(read, p, spec, eps, at, tap, state, layout)
    after_sum = spec.placement is NormPlacement.AFTER_SUM
    if mixed is not None and not spec.parallel:
        base = read if spec.residual_from_norm else x
        x = _sum(base, spec.mixer_residual_scale, mixed)
        x = norm(x, p.mixer_post_norm) if after_sum else x
        if spec.mlp is not None:
            x = tap("resid_mid", x)
    if spec.mlp is not None:
        with jax.named_scope("mlp"):
            read = read if spec.shared_norm else norm(x, p.mlp_norm)
            out = _feed_forward(read, x, p, spec, eps, tap, norm)
            out = out if after_sum else norm(out, p.mlp_post_norm)
            out = tap("mlp_out", _times(out, spec.mlp_scale))
        base = read if spec.residual_from_norm else x
        x = _sum(base, spec.mlp_residual_scale, out)
        x = norm(x, p.mlp_post_norm) if after_sum else x
    if spec.parallel and mixed is not None:
        x = x + mixed
    if spec.per_layer_input is not None:
        assert per_layer_TP is not None
        gate = ACTIVATIONS[spec.per_layer_input](x @ p.per_layer_input.gate)
        added = (gate * per_layer_TP) @ p.per_layer_input.projection
        x = x + norm(added, p.per_layer_input.norm)
    if p.scalar is not None:
        x = x * p.scalar
    return tap("resid_post", x), held, state, kv


def _times(x: Array, scale: float) -> Array:
    return x if scale == 1.0 else x * scale


def _sum(base: Array, scale: float, added: Array) -> Array:
    return _times(base, scale) + added


def _mixers(
    read: Array,
    p: LayerParams,
    spec: LayerSpec,
    eps: float,
    at: Sequences,
    tap: LayerTap,
    state: State | None,
    layout: RaggedLayout | None,
) -> tuple[Array | None, Any, Any, Any]:
    """What attention, a recurrence, or both add. Sites: attn_out, mixer_out."""

    def behind(out: Array) -> Array:
        if p.mixer_post_norm is None or spec.placement is NormPlacement.AFTER_SUM:
            return out
        return normalise(out, p.mixer_post_norm, spec.norm, eps)

    mixed, held, kv = None, None, None
    if spec.attention is not None:
        with jax.named_scope("attention"):
            inside = tap.within("attention")
            if isinstance(spec.attention, MLAConfig):
                out, held = latent_attention(read, p.attention, spec.attention, at, inside)
            else:
                out, held, kv = attention(read, p.attention, spec.attention, eps, at, inside)
            mixed = tap("attn_out", _times(behind(out), spec.attention_scale))
    if spec.recurrent is not None:
        with jax.named_scope("recurrent"):
            assert layout is not None
            run = _Recurrence(spec.recurrent, state, layout, tap)
            out = mixer_of(spec.recurrent).mix(read, p.recurrent, spec.recurrent, run)
            state = run.states
            out = tap("mixer_out", _times(behind(out), spec.recurrent_scale))
            mixed = out if mixed is None else mixed + out
    return mixed, held, state, kv


class _Recurrence:
    """Takes a mixer's chunk function along the sequences, from the states of their slots."""

    def __init__(
        self, spec: RecurrentConfig, states: State | None, layout: RaggedLayout, tap: LayerTap
    ):
        self._cached = states is not None
        self._layout, self._tap = layout, tap
        shapes = spec.state_shapes
        empty = {k: jnp.zeros((1, *shape), jnp.float32) for k, shape in shapes.items()}
        self._states = empty if states is None else states
        self._looks = "state" in shapes and tap.wants("state")

    @property
    def states(self) -> State | None:
        """As the tokens leave them; None where nothing is cached."""
        return self._states if self._cached else None

    def tap(self, site: str, x: Array) -> Array:
        return self._tap(site, x)

    def __call__(self, chunk: Callable[..., Any], inputs_T: Any) -> Any:
        if not self._looks:
            out, self._states = scan_tiles(chunk, inputs_T, self._states, self._layout)
            return out
        # Every token's state is looked at: tokens go one by one, each with its number.
        layout = by_token(self._layout)

        def watched(state: State, inputs: tuple, tile: Tile) -> tuple[State, tuple]:
            inputs, token = inputs
            state, out = chunk(state, inputs, tile)
            edited = self._tap.at(token[0])("state", state["state"])
            kept = jnp.where(tile.valid[0], edited, state["state"])
            return {**state, "state": kept}, (out, kept[None])

        tokens = jnp.arange(layout.tile_of_token.shape[0])
        (out, seen), self._states = scan_tiles(watched, (inputs_T, tokens), self._states, layout)
        self._tap.keep("state", seen)
        return out


def _feed_forward(
    read: Array,
    stream: Array,
    p: LayerParams,
    spec: LayerSpec,
    eps: float,
    tap: LayerTap,
    norm: Callable[[Array, Any], Array],
) -> Array:
    if isinstance(spec.mlp, MoEConfig):
        return moe(read, p.mlp, spec.mlp, tap.within("mlp"), eps=eps)
    assert spec.mlp is not None
    out = mlp(read, p.mlp, spec.mlp, tap.within("mlp"))
    if spec.experts_beside is None:
        return out
    given = norm(stream, p.beside_norm)
    inside = tap.within("experts_beside")
    experts = moe(given, p.experts_beside, spec.experts_beside, inside, routed_by=stream, eps=eps)
    return norm(out, p.beside_mlp_norm) + norm(experts, p.beside_post_norm)
