"""An engine over several devices: `EngineConfig.mesh`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ferrum_jax.models import Params
from ferrum_jax.models.grouped import MODEL_AXIS
from ferrum_jax.models.partition import Placement, check_divides
from ferrum_jax.runtime.devices import mesh_devices
from ferrum_jax.types import DeviceInfo, EngineConfig, KVCache, ModelConfig, UnsupportedError


def placement_of(engine: EngineConfig, config: ModelConfig) -> Placement | None:
    """Where a model lies on the mesh of an `EngineConfig`; None: on the default device.

    Raises:
        ConfigError: the model's sizes do not divide.
        DeviceError: there are fewer devices.
        UnsupportedError: a setting that runs on one device only, or several replicas.
    """
    if engine.mesh is None:
        return None
    if engine.num_replicas > 1:
        raise UnsupportedError(
            f"EngineConfig.mesh = {engine.mesh} is of {engine.num_replicas} replicas, and an LLM "
            "is one; load them with fj.Replicas.load"
        )
    count = engine.num_devices
    check_divides(config, count)
    if engine.speculation is not None and engine.speculation.draft != "ngram":
        raise UnsupportedError(
            "a model that drafts runs on one device; use speculative='ngram' or None with "
            f"EngineConfig.mesh = {engine.mesh}"
        )
    return Placement(Mesh(np.array(mesh_devices(count, engine.first_device)), (MODEL_AXIS,)))


def place_params(params: Params, placement: Placement | None) -> Params:
    """The parameters where an engine wants them: of another's mesh they come to one device."""
    if placement is not None:
        return placement.put_params(params)

    def is_divided(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1

    if not any(map(is_divided, jax.tree.leaves(params))):
        return params
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)), params)


def cache_on(placement: Placement | None, make: Callable[[], KVCache]) -> KVCache:
    """A new cache; no device ever holds more than its part."""
    if placement is None:
        return make()
    return jax.jit(make, out_shardings=placement.of_cache(jax.eval_shape(make)))()


def struct_on(placement: Placement | None, x: Any) -> jax.ShapeDtypeStruct:
    """The shape of a step's argument, and where it lies: what has no place, on every device."""
    if placement is None:
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        sharding = placement.replicated
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def results_on(placement: Placement | None, cache: KVCache) -> dict[str, Any]:
    """Options of `jax.jit` for a step: the cache stays where it is, the rest is on every device."""
    if placement is None:
        return {}
    return {"out_shardings": (placement.of_cache(cache), placement.replicated)}


def pooled_bytes(device: DeviceInfo, engine: EngineConfig) -> int | None:
    """Free memory of all devices of the mesh together; those of a CPU share one memory."""
    if device.free_bytes is None or device.platform == "cpu":
        return device.free_bytes
    return device.free_bytes * engine.num_devices
