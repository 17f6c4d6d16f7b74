"""Which sites a model has, of what shape, and whether taps fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from ferrum_jax.models.adapters import check_adapters
from ferrum_jax.types import (
    EVERYWHERE,
    SITES,
    Edit,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    RequestError,
    Taps,
    UnsupportedError,
)


def site_shape(config: ModelConfig, site: str, layer: int) -> tuple[int, ...] | None:
    """A token's share of a site: the activation's shape without its first axis.

    None where the layer has no such site; -1 for an axis that follows the sequence's length (the
    keys of `pattern`). The layer of `logits` is `config.num_layers`.
    """
    if site == "logits":
        return (config.vocab_size,) if layer == config.num_layers else None
    if site not in SITES or not 0 <= layer < config.num_layers:
        return None
    spec = config.layers[layer]
    shapes = {
        "resid_pre": (config.hidden_size,),
        "resid_post": (config.hidden_size,),
        **_mixer_shapes(spec, config.hidden_size),
        **_feed_forward_shapes(spec, config.hidden_size),
    }
    return shapes.get(site)


def _mixer_shapes(spec: LayerSpec, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    attention, recurrent = spec.attention, spec.recurrent
    mixes = attention is not None or recurrent is not None
    if mixes and spec.mlp is not None and not spec.parallel:
        shapes["resid_mid"] = (width,)
    if attention is not None:
        heads, size = attention.num_heads, attention.head_dim
        shapes |= {"q": (heads, size), "pattern": (heads, -1), "attn_out": (width,)}
        if isinstance(attention, MLAConfig):
            shapes |= {"latent": (attention.kv_rank,), "k": (1, attention.rope_dim)}
            shapes["z"] = (heads, attention.value_dim)
        else:
            shapes["z"] = (heads, size)
            if attention.kv_from is None:
                shapes["k"] = shapes["v"] = (attention.num_kv_heads, size)
            if attention.out_gate:
                shapes["gate"] = (heads, size)
    if recurrent is not None:
        shapes |= {**recurrent.sites, "mixer_out": (width,)}
    return shapes


def _feed_forward_shapes(spec: LayerSpec, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.mlp is None:
        return shapes
    shapes["mlp_out"] = (width,)
    dense = spec.mlp if isinstance(spec.mlp, MLPConfig) else spec.mlp.shared
    if dense is not None:
        shapes["mlp_pre"] = shapes["mlp_post"] = (dense.ffn_size,)
    if spec.sparse is not None:
        shapes["router"] = shapes["expert_weights"] = (spec.sparse.num_experts,)
    return shapes


def check_taps(config: ModelConfig, taps: Taps, *, num_keys: int = -1) -> None:
    """Raise unless every site, layer, unit and shape that taps name exists in the model.

    Args:
        num_keys: the last axis of `pattern`; -1 where it is not known yet.

    Raises:
        RequestError: it does not; the message says what the model has.
        UnsupportedError: an edit is a bare function, which only `forward` runs.
    """
    if taps.layers is not None and taps.capture != ("logits",):
        for layer in taps.layers:
            _check_layer(config, layer)
    for site in taps.capture:
        layers = range(config.num_layers) if taps.layers is None else taps.layers
        _check_site(config, site, (config.num_layers,) if site == "logits" else layers)
    for site, edits in taps.edits.items():
        for edit in edits:
            if not isinstance(edit, Edit):
                raise UnsupportedError(
                    f"the edit at {site} is {edit!r}; served requests take the edits of fj.edits, "
                    "and fj.edits.custom makes one of a function"
                )
    check_edits(config, taps, num_keys=num_keys)


def check_edits(config: ModelConfig, taps: Taps, *, num_keys: int = -1) -> None:
    """`check_taps` of the edits and adapters alone; bare functions are let pass.

    While the layers are traced nobody knows them: an edit then has to fit one of all.
    """
    if taps.adapters is not None:
        check_adapters(config, taps.adapters)
    for site, edits in taps.edits.items():
        for edit in edits:
            if isinstance(edit, Edit):
                check = _check_somewhere if isinstance(edit.layers, Tracer) else _check_edit
                check(config, site, edit, num_keys)


def _check_somewhere(config: ModelConfig, site: str, edit: Edit, num_keys: int) -> None:
    """Raise unless the edit fits a layer that has the site, if there is one."""
    misfit: RequestError | None = None
    for layer in range(config.num_layers + 1):
        shape = site_shape(config, site, layer)
        if shape is None:
            continue
        try:
            return edit.operation.check(site, layer, _sized(shape, num_keys), edit.values)
        except RequestError as error:
            misfit = misfit or error
    if misfit is not None:
        raise misfit
    return None


def _check_edit(config: ModelConfig, site: str, edit: Edit, num_keys: int) -> None:
    layers = _acting_layers(config, site, edit)
    _check_site(config, site, layers)
    for layer in layers:
        shape = site_shape(config, site, layer)
        if shape is not None:
            edit.operation.check(site, layer, _sized(shape, num_keys), edit.values)


def _sized(shape: tuple[int, ...], num_keys: int) -> tuple[int, ...]:
    return tuple(num_keys if size == -1 else size for size in shape)


def _acting_layers(config: ModelConfig, site: str, edit: Edit) -> tuple[int, ...]:
    """The layers in which an edit acts, of all its rows."""
    everything = (config.num_layers,) if site == "logits" else tuple(range(config.num_layers))
    found: set[int] = set()
    for start, stop in np.asarray(edit.layers).reshape(-1, 2).tolist():
        if start >= stop:
            continue
        if stop == EVERYWHERE:
            found.update(everything)
            continue
        for layer in range(start, stop):
            if site != "logits":
                _check_layer(config, layer)
            found.add(layer)
    return tuple(sorted(found))


def _check_layer(config: ModelConfig, layer: Any) -> None:
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer):
        raise RequestError(f"layer {layer!r} is no integer")
    if not 0 <= layer < config.num_layers:
        raise RequestError(
            f"layer {layer} does not exist; the model has layers 0 to {config.num_layers - 1}"
        )


def _check_site(config: ModelConfig, site: str, layers: Any) -> None:
    """Raise unless a site exists in one of the layers at least."""
    if site not in SITES:
        raise RequestError(f"{site!r} is not a site; the sites are {', '.join(SITES)}")
    if layers and all(site_shape(config, site, layer) is None for layer in layers):
        last = config.num_layers if site == "logits" else config.num_layers - 1
        has = [s for s in SITES if any(site_shape(config, s, i) for i in range(last + 1))]
        having = [str(i) for i in range(last + 1) if site_shape(config, site, i) is not None]
        raise RequestError(
            f"there is no site {site!r} in layers {', '.join(map(str, layers))}; "
            f"this model has {', '.join(has)}"
            + (f"; {site!r} is in layers {', '.join(having)}" if having else "")
        )
