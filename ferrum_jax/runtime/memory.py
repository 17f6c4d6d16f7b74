"""What a model will take of a device's memory, before anything is loaded."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

import jax

from ferrum_jax.kv import cache_bytes, plan_cache, state_bytes
from ferrum_jax.models.outputs_first import copied_bytes
from ferrum_jax.models.quantized import flat_shape, kept_as, quantises, stored_bytes
from ferrum_jax.models.shapes import flatten_shapes, unflatten
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.executor import Executor
from ferrum_jax.runtime.few_rows import copies_fit, params_of_steps
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.lengths import max_model_len
from ferrum_jax.runtime.mesh import pooled_bytes
from ferrum_jax.runtime.speculation.model import draft_config, with_layers_of
from ferrum_jax.sampler import make_sampling_state
from ferrum_jax.types import (
    DataType,
    DeviceInfo,
    EngineConfig,
    KVCacheConfig,
    ModelConfig,
    ResourceExhausted,
)

FEW_PAGES = 2
"""Pages of the cache that a step is compiled with to see what it takes besides."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for; `free` is None where the device does not tell."""

    weights: int
    copies: int
    """Of weights, laid out for steps of few rows (`runtime/few_rows.py`)."""
    draft_weights: int
    cache: int
    """KV pages, of a draft model too."""
    states: int
    """Of recurrent layers."""
    slots: int
    """Histories and sampling parameters of the running sequences."""
    step: int | None
    """Temporaries of the largest step; None where none was compiled."""
    kv: KVCacheConfig
    free: int | None

    @property
    def total(self) -> int:
        """All of them together, the step as far as it is known."""
        parts = (self.weights, self.copies, self.draft_weights, self.cache, self.states, self.slots)
        return sum(parts) + (self.step or 0)

    def __str__(self) -> str:
        """One line: `weights 21.9 MB + cache 201.4 MB + ... = 246.2 MB of 19.72 GB free`."""
        parts = {
            "weights": self.weights,
            "copies for decoding": self.copies,
            "draft model": self.draft_weights,
            "cache": self.cache,
            "states": self.states,
            "slots": self.slots,
            "largest step": self.step or 0,
        }
        text = " + ".join(f"{name} {bytes_text(size)}" for name, size in parts.items() if size)
        free = "" if self.free is None else f" of {bytes_text(self.free)} free"
        return f"{text} = {bytes_text(self.total)}{free}"


def plan_memory(
    config: ModelConfig, engine: EngineConfig, dtype: DataType, *, compiles: bool = False
) -> MemoryPlan:
    """The memory of a model that is not loaded yet, on the default device or those of the mesh.

    Args:
        dtype: of the weights.
        compiles: whether to compile the largest step, and so to know its temporaries.

    Raises:
        ResourceExhausted: the weights, or the smallest cache beside them, do not fit.
    """
    device, drafting = device_info(), draft_config(engine)
    free = pooled_bytes(device, engine)
    weights = weight_bytes(config, dtype, engine.quantization)
    draft_weights = 0 if drafting is None else weight_bytes(drafting, dtype)
    check_weights_fit(config, dtype, free, engine.quantization)
    length = max_model_len(config, engine)
    paged = with_layers_of(config, drafting)
    left = None if free is None else max(0, free - weights - draft_weights)
    copies = _copied_bytes(config, engine, dtype, replace(device, free_bytes=left))
    left = None if left is None else left - copies
    kv = plan_cache(paged, engine, dtype=dtype, max_model_len=length, free_bytes=left)
    slots = jax.eval_shape(
        lambda: make_sampling_state(
            engine.max_num_seqs, length, config.vocab_size, draft_len=engine.draft_len
        )
    )
    return MemoryPlan(
        weights=weights,
        copies=copies,
        draft_weights=draft_weights,
        cache=cache_bytes(paged, kv),
        states=state_bytes(config, engine.max_num_seqs),
        slots=sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(slots)),
        step=_step_bytes(config, engine, kv, dtype, length) if compiles else None,
        kv=kv,
        free=free,
    )


def bytes_text(count: float) -> str:
    """`438.1 MB`, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def weight_bytes(config: ModelConfig, dtype: DataType, quantization: str | None = None) -> int:
    """Bytes of a model's parameters, of one dtype where they are not rounded."""
    total = 0
    for path, shape in flatten_shapes(config).items():
        if quantization is not None and quantises(path):
            total += stored_bytes(path, shape, quantization)
        else:
            total += math.prod(shape) * dtype.itemsize
    return total


def _copied_bytes(
    config: ModelConfig, engine: EngineConfig, dtype: DataType, device: DeviceInfo
) -> int:
    """Bytes of the copies that an engine makes; 0 where it makes none."""
    kinds = {
        path: (shape, _kind(path, shape, dtype, engine.quantization))
        for path, shape in flatten_shapes(config).items()
    }
    needed = copied_bytes(kinds, device.multiplies)
    return needed if copies_fit(needed, engine, device) else 0


def _kind(path: str, shape: tuple[int, ...], dtype: DataType, quantization: str | None) -> str:
    """What a parameter is kept as, by the names of `outputs_first.kind_of`."""
    if quantization is None or not quantises(path):
        return dtype.value
    return kept_as(flat_shape(path, shape)[-2], quantization)[0]


def check_weights_fit(
    config: ModelConfig, dtype: DataType, free: int | None, quantization: str | None = None
) -> None:
    """Refuse weights that the device has no room for, before any is read.

    Raises:
        ResourceExhausted: they do not fit; the message has the numbers, and the dtype that does.
    """
    needed = weight_bytes(config, dtype, quantization)
    if free is None or needed <= free:
        return
    bf16, int4 = f"dtype='{DataType.BFLOAT16}'", "EngineConfig(quantization='int4')"
    others = {
        bf16: weight_bytes(config, DataType.BFLOAT16, quantization),
        "EngineConfig(quantization='int8')": weight_bytes(config, dtype, "int8"),
        int4: weight_bytes(config, dtype, "int4"),
        f"both {bf16} and {int4}": weight_bytes(config, DataType.BFLOAT16, "int4"),
    }
    smaller = {name: size for name, size in others.items() if size < needed}
    takes = "; ".join(f"with {name} they take {size:,}" for name, size in smaller.items())
    fits = any(size <= free for size in smaller.values())
    rounded = "" if quantization is None else f" and {quantization}"
    raise ResourceExhausted(
        f"the weights take {needed:,} bytes in {dtype}{rounded} and {free:,} are free on the "
        f"device; {takes or 'nothing takes less'}"
        + ("" if fits else "; free memory, or use a smaller model")
    )


def refuse_what_does_not_fit(
    config: ModelConfig, dtype: str, engine: EngineConfig | None, *, shows: bool
) -> None:
    """Check a model before its weights are read; `shows` prints the plan on stderr.

    Raises:
        ResourceExhausted: the weights do not fit; where the plan is shown, or no cache beside them.
    """
    kind = DataType.parse(dtype)
    engine = engine or EngineConfig()
    if shows:
        print(f"memory: {plan_memory(config, engine, kind)}", file=sys.stderr)
    else:
        check_weights_fit(config, kind, pooled_bytes(device_info(), engine), engine.quantization)


def _step_bytes(
    config: ModelConfig, engine: EngineConfig, kv: KVCacheConfig, dtype: DataType, length: int
) -> int:
    """Temporaries of the largest step, by the compiler's account; no weights are needed.

    On a mesh that is a bound: each device computes a part of what one device would.
    """
    structs = {
        name: jax.ShapeDtypeStruct(shape, dtype.value)
        for name, shape in flatten_shapes(config).items()
    }
    device = device_info()
    # Copies only ever take temporaries away; there are no weights here to copy.
    params, _ = params_of_steps(unflatten(config, structs), engine, replace(device, free_bytes=0))
    executor = Executor(
        config,
        params,
        replace(engine, mesh=None),
        replace(kv, num_pages=FEW_PAGES),
        Guides(None, (), config.vocab_size),
        max_model_len=length,
        device=device,
    )
    largest = max(executor.shapes, key=lambda shape: (shape.tokens * (1 + shape.drafts), shape))
    return int(executor.memory_analysis(largest).temp_size_in_bytes)
