"""Ablations: heads, neurons, whole blocks and layers lose what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ferrum_jax.research.edits.build import (
    as_row,
    make_taps,
    pad_rows,
    unit_pairs,
)
from ferrum_jax.research.edits.operations import NOWHERE, DrawUnits, Fill, SetUnits, Skip
from ferrum_jax.research.edits.spans import Layers, Positions, layer_list
from ferrum_jax.types import RequestError, Taps

Pairs = Iterable[tuple[int, int]]


def ablate_heads(
    heads: Pairs,
    *,
    mean: Mapping[int, Any] | Any = None,
    resample: Mapping[int, Any] | None = None,
    seed: int = 0,
    positions: Positions = None,
) -> Taps:
    """Attention heads, given as (layer, head), lose their output (site `z`).

    Args:
        mean: what they say instead, always: per layer `[N, H]`, as the mean of captured `z` over
            tokens, or an array `[heads, H]`. Zero without it (Michel et al. 2019).
        resample: what they say instead, drawn per token from other text: captured `z` per layer,
            `[M, N, H]` (Chan et al. 2022). The draw follows from `seed` and the position, and is
            the same token for all heads; of layers with more tokens the first are drawn from.
        positions: where; see `spans.position_spans`. None: everywhere.

    Raises:
        RequestError: a head twice, no pair, both `mean` and `resample`, or a layer of which the
            mean or the samples are missing.
    """
    return _ablate_units("z", "head", heads, mean, resample, seed, positions)


def ablate_neurons(
    neurons: Pairs,
    *,
    mean: Mapping[int, Any] | Any = None,
    resample: Mapping[int, Any] | None = None,
    seed: int = 0,
    positions: Positions = None,
) -> Taps:
    """Neurons of dense MLPs, given as (layer, neuron), lose their activation (site `mlp_post`).

    `mean`: per layer `[F]`, or an array `[neurons]`; `resample`: per layer `[M, F]`. The rest is as
    for `ablate_heads`.
    """
    return _ablate_units("mlp_post", "neuron", neurons, mean, resample, seed, positions)


def ablate_mlp(layers: Layers = None, *, mean: Any = None, positions: Positions = None) -> Taps:
    """Feed-forward blocks, mixtures too, add nothing to the residual, or a mean `[D]`.

    Of `layers=None` the layers without one are left as they are. To silence a mixer, scale
    `attn_out` or `mixer_out` by 0.
    """
    return make_taps("mlp_out", Fill(), _constant(mean), layers=layers, positions=positions)


def ablate_layer(layers: Layers, *, positions: Positions = None) -> Taps:
    """Whole layers add nothing: their output is their input (site `resid_post`).

    What is in them still runs: their keys, values and states are as they would be, and their other
    sites hold what nobody reads.
    """
    listed = None if layers is None else layer_list(layers)
    return make_taps("resid_post", Skip(), None, layers=listed, positions=positions)


def _constant(value: Any) -> dict[str, Any]:
    return {"constant": as_row("mean", 0.0 if value is None else value)}


def _ablate_units(
    site: str,
    kind: str,
    units: Pairs,
    mean: Any,
    resample: Mapping[int, Any] | None,
    seed: int,
    positions: Positions,
) -> Taps:
    pairs = unit_pairs(kind, units)
    layers = sorted({int(layer) for layer in pairs[:, 0]})
    rows = pad_rows(pairs, NOWHERE)[None]
    if resample is None:
        constants = None if mean is None else pad_rows(_means(kind, pairs, mean))[None]
        values = {"units": rows, "constants": constants}
        return make_taps(site, SetUnits(kind), values, layers=layers, positions=positions)
    if mean is not None:
        raise RequestError("both mean and resample are given; a unit takes one of them")
    if not isinstance(resample, Mapping):
        raise RequestError("resample is no mapping; give captured activations by layer")
    each = [_of_layer(kind, "resample", resample, *pair, axis=1) for pair in pairs]
    samples = np.stack([x[: min(map(len, each))] for x in each])
    count = samples.shape[1]
    if not count:
        raise RequestError("resample holds no tokens; capture at least one to draw from")
    padded = np.moveaxis(pad_rows(np.moveaxis(pad_rows(samples), 1, 0)), 0, 1)
    values = {
        "units": rows,
        "samples": as_row("resample", padded),
        "count": np.asarray([count], np.int32),
        "seed": np.asarray([_checked_seed(seed)], np.uint32),
    }
    return make_taps(site, DrawUnits(kind), values, layers=layers, positions=positions)


def _means(kind: str, pairs: np.ndarray, mean: Any) -> np.ndarray:
    """The constant of each unit, in the order of the pairs."""
    if isinstance(mean, Mapping):
        return np.stack([_of_layer(kind, "mean", mean, *pair, axis=0) for pair in pairs])
    array = as_row("mean", mean)[0]
    if array.shape[:1] != (len(pairs),):
        raise RequestError(
            f"mean has shape {array.shape} for {len(pairs)} {kind}s; give a row for each, or a "
            "mapping from layers to means"
        )
    return array


def _of_layer(
    kind: str, name: str, given: Mapping[int, Any], layer: int, unit: int, *, axis: int
) -> np.ndarray:
    """A unit's part of what is given for its layer."""
    if layer not in given:
        raise RequestError(f"{name} has nothing for layer {layer}, whose {kind} {unit} is ablated")
    array = np.asarray(as_row(f"{name} of layer {layer}", given[layer])[0])
    if array.ndim <= axis or not unit < array.shape[axis]:
        raise RequestError(
            f"{name} of layer {layer} has shape {array.shape}; axis {axis} must hold its {kind}s, "
            f"{kind} {unit} among them"
        )
    return np.take(array, unit, axis=axis)


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RequestError(f"seed is {seed!r}; give an integer from 0 to 4294967295")
    return seed
