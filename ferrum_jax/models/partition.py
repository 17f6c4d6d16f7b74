"""How a model and its cache are divided over the devices of a mesh.

Tensor parallel (Shoeybi et al. 2019): each device holds some heads of every attention layer with
their part of the cache, some of the hidden elements of every dense block, some experts, and some
rows of the embedding. Activations are on all devices; XLA sums what each contributes (`o`, `down`
and the embedding) and gathers the logits. What is not named here is on every device: norms,
biases of sums, routers, recurrent mixers with their states, latent caches.

Dimension key: P pages, K kv heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferrum_jax.models.grouped import MODEL_AXIS, DividedExperts
from ferrum_jax.models.params import Params, path_name
from ferrum_jax.models.quantized import QuantizedMatrix, is_quantized, num_input_axes
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    KVCache,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
)

_FEED_FORWARD = {"gate_up": 2, "gate_up_bias": 1, "gate": 0, "up": 0, "down": 0}
"""Of a dense block its hidden elements, of experts the experts."""
AXES = {
    "attention": {"qkv": 1, "qkv_bias": 0, "q": 1, "kv_up": 1, "gate": 1, "o": 0, "sinks": 0},
    "mlp": _FEED_FORWARD,
    "shared": _FEED_FORWARD,
    "experts_beside": _FEED_FORWARD,
    "": {"embed": 0, "unembed": 1, "unembed_bias": 0},
}
"""The axis that is divided, by the block that a parameter is of."""
HEADS_AXIS = 2
"""Of a cache's pages `[P, page_size, K, ...]`."""


def check_divides(config: ModelConfig, count: int) -> None:
    """Whether a model can be divided over so many devices.

    Raises:
        ConfigError: its sizes do not divide; every one of them is named. A vocabulary that does not
            is no error: then each device holds all of it.
    """
    found: dict[str, None] = {}
    for spec in config.layers:
        for name, size in _sizes(spec):
            if size % count:
                found[f"{name} = {size}"] = None
    if found:
        raise ConfigError(
            f"EngineConfig.mesh = ({count},) cannot divide this model: {', '.join(found)} "
            f"{'is' if len(found) == 1 else 'are'} no multiple of {count}; take a number of "
            "devices that divides them"
        )


def _sizes(spec: LayerSpec) -> list[tuple[str, int]]:
    sizes: list[tuple[str, int]] = []
    if isinstance(spec.attention, MLAConfig):
        sizes.append(("heads", spec.attention.num_heads))
    elif isinstance(spec.attention, AttentionConfig):
        sizes.append(("kv heads", spec.attention.num_kv_heads))
    for block in (spec.mlp, spec.experts_beside):
        if isinstance(block, MoEConfig):
            sizes.append(("experts", block.num_experts))
            block = block.shared
        if isinstance(block, MLPConfig):
            sizes.append(("ffn size", block.ffn_size))
    return sizes


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a model lie on a mesh of one axis, `MODEL_AXIS`."""

    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, path: str, leaf: Any) -> Any:
        """A parameter, from the host or a device, on the devices that hold it.

        Each process hands its own devices their parts of an array that all of them have.
        """
        axis = self._axis(path, leaf.shape)
        if not is_quantized(leaf):
            return self._place(leaf, axis)
        values, scales = _quantized_axes(path, leaf, axis)
        if values is not None and leaf.values.shape[values] % self.mesh.size:
            values = scales = None  # Two inputs a byte: their half does not divide.
        return replace(
            leaf,
            values=self._place(leaf.values, values),
            scales=self._place(leaf.scales, scales),
            factors=None if leaf.factors is None else self._place(leaf.factors, None),
        )

    def put_params(self, params: Params) -> Params:
        """All parameters; those that lie there already are not moved."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self.put(path_name(path), leaf), params, is_leaf=is_quantized
        )

    def put_replicated(self, tree: Any) -> Any:
        """Arrays, on every device."""
        return jax.tree.map(lambda leaf: self._place(leaf, None), tree)

    def of_cache(self, cache: KVCache) -> Any:
        """The sharding of each leaf of a cache (or of its shapes)."""

        def one(leaf: Any) -> NamedSharding:
            divides = leaf.shape[HEADS_AXIS] % self.mesh.size == 0
            return self._sharding(HEADS_AXIS if divides else None)

        states = jax.tree.map(lambda _: self.replicated, cache.states)
        return replace(cache, layers=jax.tree.map(one, cache.layers), states=states)

    def for_steps(self, params: Params) -> Params:
        """The parameters with divided experts that each device multiplies by itself."""

        def one(path: tuple[Any, ...], leaf: Any) -> Any:
            *_, block, name = ("", *path_name(path).split("."))
            experts = block in ("mlp", "experts_beside") and name in ("gate", "up", "down")
            return DividedExperts(leaf, self.mesh) if experts and len(leaf.shape) == 3 else leaf

        return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)

    def _axis(self, path: str, shape: tuple[int, ...]) -> int | None:
        block, _, name = path.rpartition(".")
        axis = AXES.get(block.rpartition(".")[2], {}).get(name)
        if axis is None or shape[axis] % self.mesh.size:
            return None
        return axis

    def _sharding(self, axis: int | None) -> NamedSharding:
        if axis is None:
            return self.replicated
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, MODEL_AXIS))

    def _place(self, array: Any, axis: int | None) -> jax.Array:
        sharding = self._sharding(axis)
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if self.mesh.is_multi_process:
            host = np.asarray(array)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
        return jax.device_put(array, sharding)


def _quantized_axes(
    path: str, leaf: QuantizedMatrix, axis: int | None
) -> tuple[int | None, int | None]:
    """The axes of values `[(E,) I, O]` and scales `[(E,) (G,) O]` that are divided.

    The outputs of `gate_up` are gates and then ups: there its inputs are divided.
    """
    if axis is None:
        return None, None
    if leaf.values.ndim == 3:
        return 0, 0
    if axis < num_input_axes(path, leaf.shape) or path.endswith("gate_up"):
        return 0, None
    return 1, leaf.scales.ndim - 1
