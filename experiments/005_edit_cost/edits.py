"""Edits for every request of a batch: one kind, other places and values for each."""

import jax
import numpy as np
from config import Plan

import ferrum_jax as fj
from ferrum_jax.types import ModelConfig

KINDS = ("none", "heads", "neurons", "steer", "patch", "custom", "mixed")
"""`none` is the unedited batch once more: how far its ratio is from 1 is noise."""
MIXED = ("heads", "steer", "neurons", "custom")
"""A fourth of the requests of `mixed` each."""


def dimmed(x: jax.Array, factor: jax.Array) -> jax.Array:
    """A function of one's own."""
    return factor * x


def batch_of(kind: str, config: ModelConfig, plan: Plan, seed: int) -> list[fj.Taps] | None:
    """One edit per request; another seed gives other layers, heads, neurons and values."""
    if kind == "none":
        return None
    rng = np.random.default_rng([plan.seed, seed])
    kinds = MIXED if kind == "mixed" else (kind,)
    return [_edit(kinds[i % len(kinds)], config, plan, rng) for i in range(plan.requests)]


def _edit(kind: str, config: ModelConfig, plan: Plan, rng: np.random.Generator) -> fj.Taps:
    layer = int(rng.integers(config.num_layers))
    spec, width = config.layers[layer], config.hidden_size
    if kind == "heads":
        return fj.edits.ablate_heads([(layer, int(rng.integers(spec.attention.num_heads)))])
    if kind == "neurons":
        chosen = rng.choice(spec.mlp.ffn_size, plan.neurons, replace=False)
        return fj.edits.ablate_neurons([(layer, int(neuron)) for neuron in chosen])
    if kind == "steer":
        return fj.edits.steer(0.01 * rng.standard_normal(width), layer)
    if kind == "patch":
        activations = rng.standard_normal((plan.patched, width))
        return fj.edits.patch(activations, layer, range(plan.patched))
    return fj.edits.custom("z", dimmed, rng.uniform(0.8, 1.0), layers=layer)
