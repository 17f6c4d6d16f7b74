"""The one forward: prefill, decode, scoring, capture and gradients all call it.

Dimension key: T tokens of all sequences end to end, D model, N query heads, K kv heads, H head,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.interfaces import Attend
from ferrum_jax.models.mlp import mlp, moe
from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import AttentionParams, LayerParams, Params
from ferrum_jax.models.rope import Angles, apply_rope, rope_angles
from ferrum_jax.models.sites import check_edits
from ferrum_jax.models.taps import TapRun, check_all_reached, placed
from ferrum_jax.types import (
    AttentionConfig,
    Edit,
    KVCache,
    LayerCache,
    LayerSpec,
    ModelConfig,
    ModelError,
    MoEConfig,
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
) -> tuple[Float[Array, "T D"], KVCache | None]:
    """Hidden states after the final norm, in the weights' dtype, and the next cache.

    `unembed` turns hidden states into logits, and is where edits of the site `logits` act.
    Dense attention takes `cache=None`. With `remat` a gradient keeps each layer's input only and
    computes the layer again (Chen et al. 2016).

    Raises:
        ModelError: `taps` captures (use `forward_capture`) or names a site that is never reached.
    """
    if taps.capture:
        raise ModelError(
            f"forward returns no captures, and {', '.join(taps.capture)} was asked for; "
            "call forward_capture"
        )
    hidden, cache, _ = forward_capture(
        params, tokens_T, positions_T, cache, config=config, attend=attend, taps=taps, remat=remat
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
) -> tuple[Float[Array, "T D"], KVCache | None, Captured]:
    """`forward`, and what `taps.capture` names as `{site: {layer: [T, ...]}}`.

    Raises:
        ModelError: a site that is never reached.
        RequestError: an edit of a layer, head or shape that the model does not have; inside a
            `jax.jit` whose argument it is only what its shapes tell.
    """
    check_edits(config, taps, num_keys=tokens_T.shape[0] if cache is None else -1)
    taps = placed(taps, positions_T)
    with jax.named_scope("embed"):
        x = _embed(params, tokens_T, config)
    ropes = _angles_by_rope(config, positions_T)
    caches: list[LayerCache | None] = []
    captured: Captured = {}
    reached: set[str] = set()
    for i, spec in enumerate(config.layers):
        run = partial(
            _tapped_layer,
            index=i,
            spec=spec,
            eps=config.norm_eps,
            ropes=ropes,
            attend=attend,
            taps=taps,
            reached=reached,
        )
        layer_cache = None if cache is None else cache.layers[i]
        with jax.named_scope(f"layer_{i}"):
            x, layer_cache, values = (jax.checkpoint(run) if remat else run)(
                x, params.layers[i], layer_cache, positions_T
            )
        for site, value in values.items():
            captured.setdefault(site, {}).update(value)
        caches.append(layer_cache)
    with jax.named_scope("final_norm"):
        x = normalise(x, params.final_norm, config.final_norm, config.norm_eps)
    if "logits" in taps.capture:
        captured["logits"] = {config.num_layers: unembed(params, x, config, taps=taps)}
    check_all_reached(taps, reached)
    next_cache = None if cache is None else KVCache(layers=tuple(caches))  # type: ignore[arg-type]
    return x, next_cache, captured


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
        if params.unembed is None:
            logits = jnp.einsum(
                "TD,VD->TV", hidden, params.embed, preferred_element_type=jnp.float32
            )
        else:
            logits = jnp.einsum(
                "TD,DV->TV", hidden, params.unembed, preferred_element_type=jnp.float32
            )
        if config.final_soft_cap is not None:
            logits = config.final_soft_cap * jnp.tanh(logits / config.final_soft_cap)
        return TapRun(taps)("logits", logits, config.num_layers)


def _embed(params: Params, tokens_T: Array, config: ModelConfig) -> Array:
    x = params.embed[tokens_T]
    if config.embed_scale == 1.0:
        return x
    # Gemma rounds the scale to the weights' dtype before it multiplies.
    return x * jnp.asarray(config.embed_scale, x.dtype)


def _angles_by_rope(
    config: ModelConfig, positions_T: Array
) -> dict[tuple[RopeConfig, int], Angles]:
    """Each distinct rope of the model evaluated once."""
    kinds = {
        (spec.attention.rope, spec.attention.head_dim)
        for spec in config.layers
        if spec.attention.rope is not None
    }
    return {
        (rope, dim): rope_angles(positions_T, rope, dim, config.rope_length) for rope, dim in kinds
    }


def _tapped_layer(
    x: Array,
    p: LayerParams,
    layer_cache: LayerCache | None,
    positions_T: Array,
    *,
    index: int,
    spec: LayerSpec,
    eps: float,
    ropes: dict,
    attend: Attend,
    taps: Taps,
    reached: set[str],
) -> tuple[Array, LayerCache | None, Captured]:
    """One layer and what was captured in it; notes the sites that it has in `reached`."""
    run = TapRun(taps)
    attend_here = partial(attend, layer_cache=layer_cache, meta=positions_T)
    x, layer_cache = _layer(x, p, spec, eps, ropes, attend_here, _Tap(run, index))
    reached |= run.reached
    return x, layer_cache, run.captured


class _Tap:
    """`TapRun` of one layer: `x = tap("q", x)`."""

    def __init__(self, run: TapRun, layer: int):
        self._run, self._layer = run, layer

    def __call__(self, site: str, x: Array) -> Array:
        return self._run(site, x, self._layer)

    def pattern(self) -> Callable[[Array], Array] | None:
        """For attention, which need not form its weights where nobody looks."""
        return partial(self, "pattern") if self._run.wants("pattern") else None


def _layer(
    x: Array, p: LayerParams, spec: LayerSpec, eps: float, ropes: dict, attend, tap
) -> tuple[Array, LayerCache | None]:
    """x + attention, then + feed-forward, each with the norms that its placement asks for."""

    def norm(y: Array, weights) -> Array:
        return y if weights is None else normalise(y, weights, spec.norm, eps)

    x = tap("resid_pre", x)
    with jax.named_scope("attention"):
        out, layer_cache = _attention(
            norm(x, p.attention_norm), p.attention, spec.attention, eps, ropes, attend, tap
        )
        x = tap("resid_mid", x + tap("attn_out", norm(out, p.attention_post_norm)))
    with jax.named_scope("mlp"):
        block = moe if isinstance(spec.mlp, MoEConfig) else mlp
        out = block(norm(x, p.mlp_norm), p.mlp, spec.mlp, tap)  # type: ignore[arg-type]
        x = tap("resid_post", x + tap("mlp_out", norm(out, p.mlp_post_norm)))
    return x, layer_cache


def _attention(
    x: Array, p: AttentionParams, spec: AttentionConfig, eps: float, ropes: dict, attend, tap
) -> tuple[Array, LayerCache | None]:
    q, k, v = _project(x, p)
    if spec.qk_norm is not None:
        q = normalise(q, p.q_norm, spec.qk_norm, eps)
        k = normalise(k, p.k_norm, spec.qk_norm, eps)
    if spec.rope is not None:
        angles = ropes[spec.rope, spec.head_dim]
        q, k = apply_rope(q, angles), apply_rope(k, angles)
    q, k, v = tap("q", q), tap("k", k), tap("v", v)
    z, layer_cache = attend(q, k, v, spec=spec, sinks=p.sinks, tap_pattern=tap.pattern())
    z_TM = tap("z", z).reshape(x.shape[0], -1)
    out = z_TM @ p.o.reshape(z_TM.shape[1], -1)
    return (out if p.o_bias is None else out + p.o_bias), layer_cache


def _project(x: Array, p: AttentionParams) -> tuple[Array, Array, Array]:
    """Queries `[T, N, H]`, keys and values `[T, K, H]`.

    `TD,DKGH->TKGH`, written as the plain matmul that XLA runs fastest on a CPU.
    """
    y = (x @ p.qkv.reshape(x.shape[-1], -1)).reshape(x.shape[0], *p.qkv.shape[1:])
    if p.qkv_bias is not None:
        y = y + p.qkv_bias
    return y[:, :, :-2].reshape(x.shape[0], -1, y.shape[-1]), y[:, :, -2], y[:, :, -1]
