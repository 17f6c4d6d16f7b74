"""ferrum_jax: a pure-JAX inference stack for language-model research.

    import ferrum_jax as fj

    with fj.LLM.load("demo") as llm:
        print(llm.generate(["def main("], fj.SamplingParams(max_tokens=40))[0].outputs[0].text)

The names below are imported when they are first used: importing the package loads no jax and
starts no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferrum_jax.attention import dense_attention
    from ferrum_jax.models import forward, forward_capture, unembed
    from ferrum_jax.models.adapters import merge_adapters
    from ferrum_jax.models.edit import edit_layers
    from ferrum_jax.models.weights.load import load_model
    from ferrum_jax.models.weights.peft import load_adapter
    from ferrum_jax.research import edits, gradients, reading
    from ferrum_jax.research.compare import Comparison, SavedLogprobs, compare
    from ferrum_jax.research.fit import LoRA, SoftPrompt, SteeringVector, fit
    from ferrum_jax.research.gradients import loss
    from ferrum_jax.research.sweep import (
        SweepTable,
        Variant,
        bits_per_byte,
        grid,
        kl_from_baseline,
        logprob_of,
        nll,
        sweep,
    )
    from ferrum_jax.runtime.activations import Activations
    from ferrum_jax.runtime.convert import from_gguf
    from ferrum_jax.runtime.llm import LLM
    from ferrum_jax.runtime.quantize import quantize, save_quantized
    from ferrum_jax.runtime.replicas import Replicas
    from ferrum_jax.types import (
        Adapters,
        ConfigError,
        DeviceError,
        EngineConfig,
        FerrumError,
        FinishReason,
        LayerSpec,
        ModelConfig,
        ModelError,
        Place,
        Priority,
        RequestError,
        ResourceExhausted,
        SamplingParams,
        SchedulerError,
        Speculation,
        Taps,
        TokenizerError,
        UnsupportedError,
        WeightError,
    )

    __version__: str

__all__ = [
    "LLM",
    "Activations",
    "Adapters",
    "Comparison",
    "ConfigError",
    "DeviceError",
    "EngineConfig",
    "FerrumError",
    "FinishReason",
    "LayerSpec",
    "LoRA",
    "ModelConfig",
    "ModelError",
    "Place",
    "Priority",
    "Replicas",
    "RequestError",
    "ResourceExhausted",
    "SamplingParams",
    "SavedLogprobs",
    "SchedulerError",
    "SoftPrompt",
    "Speculation",
    "SteeringVector",
    "SweepTable",
    "Taps",
    "TokenizerError",
    "UnsupportedError",
    "Variant",
    "WeightError",
    "__version__",
    "bits_per_byte",
    "compare",
    "dense_attention",
    "edit_layers",
    "edits",
    "fit",
    "forward",
    "forward_capture",
    "from_gguf",
    "gradients",
    "grid",
    "kl_from_baseline",
    "load_adapter",
    "load_model",
    "logprob_of",
    "loss",
    "merge_adapters",
    "nll",
    "quantize",
    "reading",
    "save_quantized",
    "sweep",
    "unembed",
]

_MODULES = {
    "Activations": "ferrum_jax.runtime.activations",
    "Comparison": "ferrum_jax.research.compare",
    "LLM": "ferrum_jax.runtime.llm",
    "LoRA": "ferrum_jax.research.fit",
    "Replicas": "ferrum_jax.runtime.replicas",
    "SavedLogprobs": "ferrum_jax.research.compare",
    "SoftPrompt": "ferrum_jax.research.fit",
    "SteeringVector": "ferrum_jax.research.fit",
    "SweepTable": "ferrum_jax.research.sweep",
    "Variant": "ferrum_jax.research.sweep",
    "bits_per_byte": "ferrum_jax.research.sweep",
    "compare": "ferrum_jax.research.compare",
    "dense_attention": "ferrum_jax.attention",
    "edit_layers": "ferrum_jax.models.edit",
    "edits": "ferrum_jax.research",
    "fit": "ferrum_jax.research.fit",
    "forward": "ferrum_jax.models",
    "forward_capture": "ferrum_jax.models",
    "from_gguf": "ferrum_jax.runtime.convert",
    "gradients": "ferrum_jax.research",
    "grid": "ferrum_jax.research.sweep",
    "kl_from_baseline": "ferrum_jax.research.sweep",
    "load_adapter": "ferrum_jax.models.weights.peft",
    "load_model": "ferrum_jax.models.weights.load",
    "logprob_of": "ferrum_jax.research.sweep",
    "loss": "ferrum_jax.research.gradients",
    "merge_adapters": "ferrum_jax.models.adapters",
    "nll": "ferrum_jax.research.sweep",
    "quantize": "ferrum_jax.runtime.quantize",
    "reading": "ferrum_jax.research",
    "save_quantized": "ferrum_jax.runtime.quantize",
    "sweep": "ferrum_jax.research.sweep",
    "unembed": "ferrum_jax.models",
}
"""Where a name comes from, if not from `ferrum_jax.types`."""
_SUBMODULES = {"edits", "gradients", "reading"}
"""Names that are modules themselves."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(_unknown(name))
    if name == "__version__":
        value = _version()
    else:
        module = _MODULES.get(name, "ferrum_jax.types")
        if name in _SUBMODULES:
            value = import_module(f"{module}.{name}")
        else:
            value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ferrum-jax")
    except PackageNotFoundError:
        return "0+unknown"


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    lowered = {known.lower(): known for known in __all__}
    close = get_close_matches(name.lower(), lowered, n=1)
    hint = f"; did you mean {lowered[close[0]]!r}?" if close else ""
    return f"module 'ferrum_jax' has no attribute {name!r}{hint}"
