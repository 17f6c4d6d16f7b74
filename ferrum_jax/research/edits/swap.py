"""Patches between prompts: activation patching and path patching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ferrum_jax.models.sites import site_shape
from ferrum_jax.research.edits.build import unit_pairs
from ferrum_jax.research.edits.patch import patch
from ferrum_jax.research.edits.spans import Layers, layer_list, position_list
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import ModelConfig, RequestError, Taps, UnsupportedError

Prompt = str | list[int]
SAYING = ("z", "mixer_out", "mlp_out")
"""The sites of all that is added to the residual stream."""


def swap(
    llm: LLM,
    source: Prompt,
    layer: Layers = None,
    positions: Any = None,
    site: str = "resid_post",
    *,
    heads: Any = None,
    source_positions: Any = None,
    taps: Taps | None = None,
) -> Taps:
    """A patch with what the source prompt computes (Meng et al. 2022): run another with it.

        corrupted = fj.edits.swap(llm, "The Colosseum is in", 3, -1)
        llm.generate(["The Louvre is in"], taps=corrupted)

    Each call runs the source once. For many patches from one source (every head, every layer)
    capture it once, with `llm.capture`, and `patch` from that.

    Args:
        layer: one layer, several, or None for all that have the site.
        positions: which tokens of the other prompt are changed, as a list (negative: from its
            prompt's end). None: the positions of the source.
        heads: of sites with heads, those that are swapped; None: all.
        source_positions: whose activations they take; None: `positions` in the source.
        taps: edits of the source's run.

    Raises:
        RequestError: a site, a layer, a head or a position that does not exist, or numbers of
            positions that differ.
    """
    layers = _layers_with(llm, site, layer)
    (found,) = llm.capture([llm.encode(source)], site, layers, taps=taps)
    total = Taps()
    for i, activations in found[site].items():
        index = _source_index(positions, source_positions, len(activations))
        where = range(len(activations)) if positions is None else positions
        rows = activations if index is None else activations[index]
        total += patch(rows, i, _as_list(where), site, heads=heads)
    return total


def path_patch(
    llm: LLM,
    prompt: Prompt,
    source: Prompt,
    senders: Iterable[tuple[int, int]],
    receivers: Mapping[str, Iterable[int | tuple[int, int]]] | None = None,
    *,
    positions: Any = None,
) -> Taps:
    """A patch of only the direct path from some heads to some later places (Wang et al. 2022).

    The prompt runs with the senders' output taken from the source, while every other head, mixer
    and MLP keeps what it says on the prompt itself: so the change travels along the residual stream
    alone. What then arrives at the receivers is the patch that is returned, for a run of `prompt`.

    Args:
        prompt, source: of equal length in tokens.
        senders: (layer, head) pairs whose `z` comes from the source.
        receivers: by site the layers, or of sites with heads (layer, head) pairs, such as
            `{"q": [(5, 2)], "mlp_pre": [4]}`; None: the logits.
        positions: tokens whose senders are swapped; None: all.

    Raises:
        RequestError: lengths that differ, or a head, layer, site or position that does not exist.
        UnsupportedError: layers that end with a block of per-layer inputs (Gemma 4).
    """
    _check_layers(llm.config)
    own, other = llm.encode(prompt), llm.encode(source)
    if len(own) != len(other):
        raise RequestError(
            f"the prompt has {len(own)} tokens and the source {len(other)}; path patching needs as "
            "many of both"
        )
    receiving = _receivers(llm, receivers)
    pairs = [(int(layer), int(head)) for layer, head in unit_pairs("head", senders)]
    frozen = _kept(llm, own)
    swapped = Taps()
    for layer, heads in _by_layer(pairs).items():
        swapped += swap(llm, other, layer, positions, "z", heads=heads)
    arrived = Taps()
    for site, heads_of in receiving.items():
        layers = None if site == "logits" else list(heads_of)
        (found,) = llm.capture([own], site, layers, taps=frozen + swapped)
        arrived += _patches(site, found[site], heads_of)
    return arrived


def _check_layers(config: ModelConfig) -> None:
    for layer, spec in enumerate(config.layers):
        if spec.per_layer_input is not None:
            raise UnsupportedError(
                f"layer {layer} ends with a block of per-layer inputs, which has no site, so that "
                "no path past it can be held fixed; patch single activations with fj.edits.swap"
            )


def _kept(llm: LLM, ids: list[int]) -> Taps:
    """Every head, recurrent mixer and feed-forward block as it is on the prompt itself."""
    config = llm.config
    layers = range(config.num_layers)
    sites = [s for s in SAYING if any(site_shape(config, s, i) is not None for i in layers)]
    (found,) = llm.capture([ids], sites)
    return sum((_patches(site, found[site]) for site in sites), Taps())


def _patches(
    site: str,
    layers: Mapping[int, np.ndarray],
    heads_of: Mapping[int, list[int] | None] | None = None,
) -> Taps:
    """A site's activations in place, in every layer, from the first token on."""
    total = Taps()
    for layer, activations in layers.items():
        heads = None if heads_of is None else heads_of[layer]
        total += patch(activations, layer, site=site, heads=heads)
    return total


def _receivers(
    llm: LLM, receivers: Mapping[str, Iterable[int | tuple[int, int]]] | None
) -> dict[str, dict[int, list[int] | None]]:
    """By site the receiving heads of each layer; None: all of it."""
    if receivers is None:
        return {"logits": {llm.config.num_layers: None}}
    if not receivers:
        raise RequestError("receivers is empty; name sites and layers, or leave it out for logits")
    found: dict[str, dict[int, list[int] | None]] = {}
    for site, places in receivers.items():
        listed = list(places)
        pairs = [place for place in listed if isinstance(place, tuple)]
        whole = [place for place in listed if not isinstance(place, tuple)]
        found[site] = {**_by_layer(pairs), **dict.fromkeys(layer_list(whole) if whole else [])}
        if not found[site]:
            raise RequestError(f"receivers names nothing at {site!r}; give layers or heads")
    return found


def _by_layer(pairs: list[tuple[int, int]]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, head in pairs:
        layers.setdefault(layer, []).append(head)
    return layers


def _layers_with(llm: LLM, site: str, layer: Layers) -> list[int] | None:
    if layer is None:
        return None
    if site == "logits":
        raise RequestError("the site 'logits' belongs to no layer; leave layer out")
    return layer_list(layer)


def _source_index(positions: Any, source_positions: Any, count: int) -> np.ndarray | None:
    """Which tokens of the source give their activations; None: all, in order."""
    chosen = positions if source_positions is None else source_positions
    if chosen is None:
        return None
    listed = _as_list(chosen)
    for position in listed:
        if not -count <= position < count:
            raise RequestError(
                f"position {position} is not in the source, which has 0 to {count - 1}"
            )
    return np.asarray(listed)


def _as_list(positions: Any) -> list[int]:
    items: list[Any] = [positions] if isinstance(positions, int | np.integer) else list(positions)
    return [int(p) for p in position_list(items, len(items))[:, 0]]
