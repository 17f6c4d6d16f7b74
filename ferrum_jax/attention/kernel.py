"""Which attention a step runs: decided once, from what was asked for, the device and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import pallas_kernels
from ferrum_jax.attention.layout import PagedMeta
from ferrum_jax.attention.paged import paged_attention, write_kv
from ferrum_jax.interfaces import Attend
from ferrum_jax.types import (
    AttentionConfig,
    DataType,
    DeviceInfo,
    KVCacheConfig,
    LayerCache,
    MLAConfig,
    ModelConfig,
    UnsupportedError,
)

BindAttention = Callable[[PagedMeta], Attend]
OLDEST_GPU = 8.0
"""Compute capability from which GPUs multiply bfloat16 and copy asynchronously."""
HOPPER = 9.0


def choose_attention(
    name: str,
    device: DeviceInfo,
    config: ModelConfig,
    kv: KVCacheConfig,
    *,
    num_devices: int = 1,
) -> BindAttention:
    """The paged attention of an `EngineConfig.attention`, to be bound to each step's layout.

    `auto` is `triton` where device and model allow it, else `xla`: `mosaic`, for Hopper GPUs, has
    not been measured yet.

    Raises:
        UnsupportedError: that implementation does not run on this device or for this model.
    """
    plain = partial(paged_attention, by_head=True) if num_devices > 1 else paged_attention
    if name == "xla":
        return plain
    kernels = "mosaic" if name == "mosaic" else "triton"
    divided = "the GPU kernels run on one device" if num_devices > 1 else None
    problem = divided or _device_problem(device, kernels) or _model_problem(config, kv, kernels)
    if problem is None:
        return gpu_attention(kernels)
    if name == "auto":
        return plain
    raise UnsupportedError(f"attention={name!r} cannot run here: {problem}; use 'auto' or 'xla'")


def gpu_attention(kernels: str = "triton", *, interpret: bool = False) -> BindAttention:
    """The Pallas kernels; `interpret` runs them without a GPU, slowly, as tests do."""
    return partial(_bind, kernels=kernels, interpret=interpret)


def _bind(step: PagedMeta, *, kernels: str, interpret: bool) -> Attend:
    return partial(_attend, step=step, kernels=kernels, interpret=interpret)


def _attend(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"],
    layer_cache: LayerCache | None,
    meta: Int[Array, " T"],
    spec: AttentionConfig,
    *,
    step: PagedMeta,
    kernels: str,
    interpret: bool,
    sinks: Float[Array, " N"] | None = None,
    tap_pattern: Callable[[Array], Array] | None = None,
    cached: bool = False,
) -> tuple[Float[Array, "T N V"], LayerCache | None]:
    """Write the step's keys and values, then attend; the weights are only formed in plain XLA."""
    if tap_pattern is not None:
        attend = paged_attention(step)
        options = {"sinks": sinks, "tap_pattern": tap_pattern, "cached": cached}
        return attend(q, k, v, layer_cache, meta, spec, **options)
    assert layer_cache is not None
    cache = layer_cache if cached else write_kv(layer_cache, k, v, step)
    out = pallas_kernels.paged_attention(
        q,
        _as_numbers(cache.k_pages),
        None if cache.v_pages is None else _as_numbers(cache.v_pages),
        step.block_tables,
        step.context_lens,
        step.query_starts,
        scale=spec.scale,
        window=spec.window,
        chunk=spec.chunk,
        soft_cap=spec.soft_cap,
        sinks=sinks,
        alibi_slopes=None if spec.alibi_slopes is None else jnp.asarray(spec.alibi_slopes),
        alibi_rounded=spec.alibi_rounded,
        k_scales=cache.k_scales,
        v_scales=cache.v_scales,
        value_dim=spec.value_size if cache.v_pages is None else None,
        implementation=kernels,
        interpret=interpret,
    )
    return out, cache


def _as_numbers(pages: Array) -> Array:
    """bfloat16 pages, which lie as their bits, as what they are; on a GPU that moves nothing."""
    if pages.dtype != jnp.uint16:
        return pages
    return jax.lax.bitcast_convert_type(pages, jnp.bfloat16)


def _device_problem(device: DeviceInfo, kernels: str) -> str | None:
    named, capability = f"the {kernels.capitalize()} kernels", device.compute_capability
    if device.platform != "gpu" or capability is None:
        return f"{named} are for NVIDIA GPUs, and this is {device.platform}"
    if kernels == "mosaic" and not HOPPER <= capability < HOPPER + 1:
        return (
            f"{named} are for Hopper GPUs, of compute capability {HOPPER}, and {device.kind} has "
            f"{capability}"
        )
    if capability < OLDEST_GPU:
        return f"{named} need compute capability {OLDEST_GPU}, and {device.kind} has {capability}"
    return None


def _model_problem(config: ModelConfig, kv: KVCacheConfig, kernels: str) -> str | None:
    """What the kernels cannot do of the model's layers, the first of it."""
    for index, spec in _attentions(config):
        if kernels == "mosaic":
            latent = isinstance(config.layers[index].attention, MLAConfig)
            problem = _mosaic_problem(spec, kv, latent=latent)
        else:
            problem = _triton_problem(spec, kv)
        if problem is not None:
            return f"layer {index}: {problem}"
    return None


def _mosaic_problem(spec: AttentionConfig, kv: KVCacheConfig, *, latent: bool) -> str | None:
    return pallas_kernels.mosaic_refusal(
        head_dim=spec.head_dim,
        value_dim=spec.value_size,
        page=kv.page_size,
        page_dtype=kv.dtype.stored if kv.dtype.quantised else kv.dtype.value,
        q_dtype=DataType.BFLOAT16.value if kv.dtype.quantised else kv.dtype.value,
        latent=latent,
        alibi=spec.alibi_slopes is not None,
    )


def _triton_problem(spec: AttentionConfig, kv: KVCacheConfig) -> str | None:
    for size in {spec.head_dim, spec.value_size}:
        problem = pallas_kernels.triton_refusal(
            head_dim=size,
            page_dtype=kv.dtype.stored,
            num_elements=kv.num_pages * kv.page_size * spec.num_kv_heads * size,
        )
        if problem is not None:
            return problem
    return None


def _attentions(config: ModelConfig) -> Iterator[tuple[int, AttentionConfig]]:
    for index, layer in enumerate(config.layers):
        if isinstance(layer.attention, MLAConfig):
            yield index, layer.attention.core
        elif layer.attention is not None:
            yield index, layer.attention
