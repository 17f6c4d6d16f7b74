"""The one forward: prefill, decode, scoring, capture and gradients all call it.

Dimension key: T tokens of all sequences end to end, D model, N query heads, K kv heads, H head,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.interfaces import Attend
from ferrum_jax.models.attention import Sequences
from ferrum_jax.models.layer import layer
from ferrum_jax.models.norm import normalise
from ferrum_jax.models.outputs_first import OutputsFirst
from ferrum_jax.models.params import LayerParams, Params
from ferrum_jax.models.ragged import dense_layout
from ferrum_jax.models.rope import Angles, rope_angles
from ferrum_jax.models.sites import check_edits
from ferrum_jax.models.taps import LayerTap, TapRun, check_all_reached, placed
from ferrum_jax.types import (
    Edit,
    KVCache,
    LayerSpec,
    MLAConfig,
    ModelConfig,
    ModelError,
    RaggedLayout,
    RopeConfig,
    Taps,
)

NO_TAPS = Taps()
Captured = dict[str, dict[int, Array]]
"""Activations by site and layer."""


def forward(
    params: Params,
    tokens_T: Int[Array, " T"],
    positions_T: Int[Array, " T"],
    cache: KVCache | None,
    *,
    config: ModelConfig,
    attend: Attend,
    taps: Taps = NO_TAPS,
    remat: bool = False,
    layout: RaggedLayout | None = None,
) -> tuple[Float[Array, "T D"], KVCache | None]:
    """Hidden states after the final norm, in the weights' dtype, and the next cache.

    `unembed` turns hidden states into logits, and is where edits of the site `logits` act.
    Dense attention takes `cache=None`; recurrent layers then start from nothing, and otherwise
    need `layout`, which says whose state each token goes on from. With `remat` a gradient keeps
    each layer's input only and computes the layer again (Chen et al. 2016).

    Raises:
        ModelError: `taps` captures (use `forward_capture`) or names a site that is never reached.
    """
    if taps.capture:
        raise ModelError(
            f"forward returns no captures, and {', '.join(taps.capture)} was asked for; "
            "call forward_capture"
        )
    hidden, cache, _ = forward_capture(
        params,
        tokens_T,
        positions_T,
        cache,
        config=config,
        attend=attend,
        taps=taps,
        remat=remat,
        layout=layout,
    )
    return hidden, cache


def forward_capture(
    params: Params,
    tokens_T: Int[Array, " T"],
    positions_T: Int[Array, " T"],
    cache: KVCache | None,
    *,
    config: ModelConfig,
    attend: Attend,
    taps: Taps = NO_TAPS,
    remat: bool = False,
    layout: RaggedLayout | None = None,
) -> tuple[Float[Array, "T D"], KVCache | None, Captured]:
    """`forward`, and what `taps.capture` names as `{site: {layer: [T, ...]}}`.

    Raises:
        ModelError: a site that is never reached.
        RequestError: an edit of a layer, head or shape that the model does not have; inside a
            `jax.jit` whose argument it is only what its shapes tell.
    """
    check_edits(config, taps, num_keys=tokens_T.shape[0] if cache is None else -1)
    if layout is None and config.is_recurrent:
        if cache is not None:
            raise ModelError("recurrent layers with a cache need layout, whose states they go on")
        layout = dense_layout(positions_T)
    taps = placed(taps, positions_T)
    with jax.named_scope("embed"):
        x = _embed(params, tokens_T, positions_T, config)
    per_layer_TLP = None if params.per_layer is None else _per_layer(params, tokens_T, x, config)
    angles = _angles_by_rope(config, positions_T)
    caches: list[Any] = []
    states: list[Any] = []
    shared_kv: dict[int, tuple[Array, Array]] = {}
    captured: Captured = {}
    reached: set[str] = set()
    for i, spec in enumerate(config.layers):
        source = getattr(spec.attention, "kv_from", None)
        held = None
        if cache is not None:
            held = cache.layers[i] if source is None else caches[source]
        run = partial(
            _tapped_layer,
            index=i,
            spec=spec,
            eps=config.norm_eps,
            angles=angles,
            attend=attend,
            taps=taps,
            reached=reached,
            layout=layout,
        )
        with jax.named_scope(f"layer_{i}"):
            x, held, state, kv, values = (jax.checkpoint(run) if remat else run)(
                x,
                params.layers[i],
                held,
                cache.states[i] if cache is not None and cache.states else None,
                positions_T,
                None if source is None else shared_kv[source],
                None if per_layer_TLP is None else per_layer_TLP[:, i],
            )
        for site, value in values.items():
            captured.setdefault(site, {}).update(value)
        shared_kv[i] = kv
        caches.append(held if source is None else None)
        states.append(state)
    with jax.named_scope("final_norm"):
        if config.final_norm is not None:
            x = normalise(x, params.final_norm, config.final_norm, config.norm_eps)
    if "logits" in taps.capture:
        captured["logits"] = {config.num_layers: unembed(params, x, config, taps=taps)}
    check_all_reached(taps, reached)
    if cache is None:
        return x, None, captured
    kept = tuple(states) if cache.states else ()
    return x, replace(cache, layers=tuple(caches), states=kept), captured


def unembed(
    params: Params, hidden: Float[Array, "n D"], config: ModelConfig, *, taps: Taps = NO_TAPS
) -> Float[Array, "n V"]:
    """Logits in fp32, soft cap included, then the edits of the site `logits`.

    Raises:
        ModelError: there are such edits, and `taps.place` does not say where the n tokens stand.
    """
    check_edits(config, Taps(edits={"logits": taps.edits.get("logits", ())}))
    if taps.place is None and any(isinstance(e, Edit) for e in taps.edits.get("logits", ())):
        raise ModelError(
            "edits of the site 'logits' need to know where the tokens stand; give "
            "taps.replace(place=fj.Place(rows, positions, prompt_lens)), or capture 'logits'"
        )
    with jax.named_scope("unembed"):
        if params.embed_out is not None:
            hidden = hidden @ params.embed_out
        logits = _head(params, hidden)
        if params.unembed_bias is not None:
            logits = logits + params.unembed_bias.astype(jnp.float32)
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.final_soft_cap is not None:
            logits = config.final_soft_cap * jnp.tanh(logits / config.final_soft_cap)
        return TapRun(taps)("logits", logits, config.num_layers)


def _head(params: Params, hidden: Array) -> Array:
    """The product with the head, or with the embedding where that is the head, in fp32."""
    if isinstance(params.unembed, OutputsFirst):
        return params.unembed.product(hidden)
    if params.unembed is not None:
        return jnp.matmul(hidden, params.unembed, preferred_element_type=jnp.float32)
    return jnp.einsum("TD,VD->TV", hidden, params.embed, preferred_element_type=jnp.float32)


def _embed(params: Params, tokens_T: Array, positions_T: Array, config: ModelConfig) -> Array:
    """The residual stream before the first layer."""
    x = params.embed[tokens_T]
    if config.embed_scale != 1.0:
        # Gemma rounds the scale to the weights' dtype before it multiplies.
        x = x * jnp.asarray(config.embed_scale, x.dtype)
    if params.embed_in is not None:
        x = x @ params.embed_in
    if params.positions is not None:
        x = x + params.positions[positions_T + config.position_offset]
    if config.embed_norm is not None:
        x = normalise(x, params.embed_norm, config.embed_norm, config.norm_eps)
    return x


def _per_layer(params: Params, tokens_T: Array, x: Array, config: ModelConfig) -> Array:
    """What each layer gets of each token besides the stream `[T, L, P]` (Gemma 4): an embedding of
    its own and a projection of the token's, half of each."""
    p, size = params.per_layer, config.per_layer_size or 0
    own = p.embed[tokens_T] * jnp.asarray(size**0.5, x.dtype)
    projected = jnp.einsum("TD,DLP->TLP", x, p.projection) * config.hidden_size**-0.5
    projected = normalise(projected, p.norm, config.layers[0].norm, config.norm_eps)
    return ((projected + own) * 2**-0.5).astype(x.dtype)


def _angles_by_rope(
    config: ModelConfig, positions_T: Array
) -> dict[tuple[RopeConfig, int], Angles]:
    """Each distinct rope of the model evaluated once."""
    kinds = {
        (a.rope, a.rope_dim if isinstance(a, MLAConfig) else a.head_dim)
        for spec in config.layers
        if (a := spec.attention) is not None and a.rope is not None
    }
    return {
        (rope, dim): rope_angles(positions_T, rope, dim, config.rope_length) for rope, dim in kinds
    }


def _tapped_layer(
    x: Array,
    p: LayerParams,
    held: Any,
    state: Any,
    positions_T: Array,
    shared_kv: Any,
    per_layer_TP: Array | None,
    *,
    index: int,
    spec: LayerSpec,
    eps: float,
    angles: dict,
    attend: Attend,
    taps: Taps,
    reached: set[str],
    layout: RaggedLayout | None,
) -> tuple[Array, Any, Any, Any, Captured]:
    """One layer and what was captured in it; notes the sites that it has in `reached`."""
    run = TapRun(taps)
    attend_here = partial(attend, layer_cache=held, meta=positions_T)
    at = Sequences(positions_T, angles, attend_here, shared_kv)
    x, held, state, kv = layer(
        x, p, spec, eps, at, LayerTap(run, index), state, layout, per_layer_TP
    )
    reached |= run.reached
    return x, held, state, kv, run.captured
