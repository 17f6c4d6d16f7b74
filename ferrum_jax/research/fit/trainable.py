"""What can be fitted: a protocol of four methods, of which most trainables need two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jax import Array

from ferrum_jax.models import Params
from ferrum_jax.models.decoder import NO_TAPS
from ferrum_jax.types import ModelConfig, Taps

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

Value = Mapping[str, Array | np.ndarray]
"""What is fitted: float arrays by name; on the host once the fit has ended."""


class Trainable(Protocol):
    """Something small that changes a model by `taps`, by its weights, or by both.

    A subclass is a frozen dataclass, hashable and compared by value (tuples, not lists), since it
    is part of the compiled step. One that scales the neurons of a layer, in full:

        @dataclass(frozen=True)
        class NeuronScales(Trainable):
            layer: int

            def init(self, llm, seed):
                return {"scales": jnp.ones(llm.config.layers[self.layer].mlp.ffn_size)}

            def taps(self, value):
                return fj.edits.scale("mlp_post", value["scales"], layers=self.layer)
    """

    def init(self, llm: LLM, seed: int) -> Value:
        """Where the fit starts; it is copied, and kept in float32.

        Raises:
            RequestError: the model has no place for it.
        """
        ...

    def taps(self, value: Value) -> Taps:
        """The edits that a value stands for; also while it is traced. By default none."""
        return NO_TAPS

    def merge(self, config: ModelConfig, params: Params, value: Value) -> Params:
        """The model's weights with a value in them; by default as they are."""
        return params

    def wrap(self, token_ids: Sequence[int]) -> list[int]:
        """A prompt as the model reads it: tokens may be added in front. By default none are.

        Added tokens are never counted in a loss.
        """
        return list(token_ids)
