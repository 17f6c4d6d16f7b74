"""The methods of `LLM` that read and merge low-rank adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from ferrum_jax.models import Params
from ferrum_jax.models.adapters import check_adapters, merge_adapters
from ferrum_jax.models.weights.peft import load_adapter
from ferrum_jax.types import ModelConfig, RequestError, Taps


class Adapting:
    """What an LLM does with adapters."""

    config: ModelConfig
    params: Params

    def alike(self, config: ModelConfig, params: Params) -> Self:
        """Another LLM with the same tokenizer and settings."""
        raise NotImplementedError

    def load_adapter(self, path: str | Path) -> Taps:
        """A PEFT LoRA adapter of a directory or hub id, as taps that requests carry.

        Like edits it is given for all prompts or for each: `taps=[None, sql, chat]`; `sql + edits`
        does both. Requests with other adapters share a batch and a program; one that comes up first
        costs a compilation.

        Raises:
            WeightError, UnsupportedError, ConfigError, ModelError: as `ferrum_jax.load_adapter`.
        """
        dtype = str(self.params.embed.dtype)
        return Taps(adapters=load_adapter(path, self.config, dtype))

    def merged(self, taps: Taps) -> Self:
        """Another model, whose weights have an adapter's change in them; the rest is shared.

        Raises:
            RequestError: the taps hold no adapter, something else too, or one of another model.
        """
        if not isinstance(taps, Taps) or taps.adapters is None or taps.edits or taps.capture:
            raise RequestError("merged takes an adapter alone: give what load_adapter returns")
        check_adapters(self.config, taps.adapters)
        return self.alike(self.config, merge_adapters(self.params, taps.adapters))
