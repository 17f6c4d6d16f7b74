"""Which sites a model has, of what shape, and whether taps fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from ferrum_jax.types import (
    EVERYWHERE,
    SITES,
    Edit,
    ModelConfig,
    MoEConfig,
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
    attention, sparse = spec.attention, isinstance(spec.mlp, MoEConfig)
    keys = (attention.num_kv_heads, attention.head_dim)
    queries = (attention.num_heads, attention.head_dim)
    hidden = None if sparse else (spec.mlp.ffn_size,)
    shapes: dict[str, tuple[int, ...] | None] = {
        "q": queries,
        "k": keys,
        "v": keys,
        "z": queries,
        "pattern": (attention.num_heads, -1),
        "mlp_pre": hidden,
        "mlp_post": hidden,
        "router": (spec.mlp.num_experts,) if isinstance(spec.mlp, MoEConfig) else None,
    }
    return shapes.get(site, (config.hidden_size,))


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
    """`check_taps` of the edits alone; bare functions are let pass.

    While the layers are traced nobody knows them: an edit then has to fit one of all.
    """
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
        raise RequestError(
            f"there is no site {site!r} in layers {', '.join(map(str, layers))}; "
            f"this model has {', '.join(has)}"
        )
