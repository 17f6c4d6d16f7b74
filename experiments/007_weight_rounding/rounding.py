"""Round to nearest, and back to float32: the values that quantised weights would stand for.

Dimension key: D model, N query heads, K kv heads, G = N / K, H head, F ffn, V vocabulary.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp

import ferrum_jax as fj
from ferrum_jax.models import Params
from ferrum_jax.models.params import LayerParams


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded: to a dtype, or to integers with one scale per group."""

    name: str
    bits: int | None
    """of the integers; None: bfloat16"""
    group: int | None = None
    """weights along the input that share a scale; None: a whole output channel"""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, a float16 scale per group counted; a channel's scale is not."""
        if self.bits is None:
            return 16.0
        return self.bits + (0.0 if self.group is None else 16 / self.group)


@dataclass(frozen=True)
class Matrix:
    """A kind of weight matrix: where it lies in its array, and how many leading axes are inputs."""

    array: str
    inputs: int
    part: tuple = (...,)
    """index of the part of the array, whose input axes come first"""


MATRICES = {
    "q": Matrix("attention.qkv", 1, (slice(None), slice(None), slice(None, -2))),
    "k": Matrix("attention.qkv", 1, (slice(None), slice(None), -2)),
    "v": Matrix("attention.qkv", 1, (slice(None), slice(None), -1)),
    "o": Matrix("attention.o", 2),
    "gate": Matrix("mlp.gate_up", 1, (slice(None), 0)),
    "up": Matrix("mlp.gate_up", 1, (slice(None), 1)),
    "down": Matrix("mlp.down", 1),
}
"""Those of a layer. The embedding, which is the unembedding too, has a channel per token."""
EMBEDDING = "embedding"


def rounded_model(
    llm: fj.LLM,
    rounding: Rounding,
    kinds: Collection[str] = (*MATRICES, EMBEDDING),
    layers: Collection[int] | None = None,
) -> fj.LLM:
    """The model with some kinds of matrices of some layers (None: all) rounded."""
    params: Params = llm.params
    chosen = range(len(params.layers)) if layers is None else layers
    new_layers = tuple(
        _layer(layer, rounding, kinds) if i in chosen else layer
        for i, layer in enumerate(params.layers)
    )
    embed = params.embed
    if EMBEDDING in kinds:
        embed = rounded(embed.T, rounding).T
    return llm.alike(llm.config, params.replace(layers=new_layers, embed=embed))


def _layer(layer: LayerParams, rounding: Rounding, kinds: Collection[str]) -> LayerParams:
    for kind in kinds:
        if kind == EMBEDDING:
            continue
        matrix = MATRICES[kind]
        block_name, field = matrix.array.split(".")
        block = getattr(layer, block_name)
        array = getattr(block, field)
        part = array[matrix.part]
        rows = part.reshape(prod(part.shape[: matrix.inputs]), -1)
        new = rounded(rows, rounding).reshape(part.shape)
        block = block.replace(**{field: array.at[matrix.part].set(new)})
        layer = layer.replace(**{block_name: block})
    return layer


def rounded(weights: jax.Array, rounding: Rounding) -> jax.Array:
    """float32 `[inputs, outputs]`, every value replaced by the nearest that can be stored.

    Integers lie from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1, times a scale that makes the largest
    of the group the largest integer. Scales of groups are rounded to float16, as they are counted.
    """
    if rounding.bits is None:
        return weights.astype(jnp.bfloat16).astype(jnp.float32)
    inputs, outputs = weights.shape
    groups = weights.reshape(-1, rounding.group or inputs, outputs)
    largest = 2 ** (rounding.bits - 1) - 1
    scales = jnp.abs(groups).max(axis=1, keepdims=True) / largest
    if rounding.group is not None:
        scales = scales.astype(jnp.float16).astype(jnp.float32)
    steps = jnp.where(scales > 0, groups / jnp.where(scales > 0, scales, 1), 0)
    integers = jnp.clip(jnp.round(steps), -largest, largest)
    return (integers * scales).reshape(inputs, outputs)


def shares(llm: fj.LLM) -> dict[str, float]:
    """By kind its share of the weights that are rounded."""
    sizes = dict.fromkeys(MATRICES, 0)
    for layer in llm.params.layers:
        for kind, matrix in MATRICES.items():
            block, field = matrix.array.split(".")
            sizes[kind] += getattr(getattr(layer, block), field)[matrix.part].size
    sizes[EMBEDDING] = llm.params.embed.size
    return {kind: size / sum(sizes.values()) for kind, size in sizes.items()}
