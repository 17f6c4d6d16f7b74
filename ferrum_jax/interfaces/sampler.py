"""From logits to tokens, inside the jitted step."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.types import SamplingState


class LogitsProcessor(Protocol):
    """Changes the logits of a batch, each row by its own slot's parameters."""

    def __call__(
        self,
        logits: Float[Array, "R V"],
        state: SamplingState,
        slots: Int[Array, " R"],
        lengths: Int[Array, " R"],
    ) -> Float[Array, "R V"]:
        """`lengths` counts the tokens of each row's history that precede the sampled one."""
        ...


class Sampler(Protocol):
    """Chooses one token per row."""

    def __call__(
        self,
        logits: Float[Array, "R V"],
        state: SamplingState,
        slots: Int[Array, " R"],
        lengths: Int[Array, " R"],
        active: Bool[Array, " R"],
    ) -> Any:
        """Token ids and the like; a function of (seed, position), whatever the other rows are.

        Rows that are not `active` may return anything and must not make others pay.
        """
        ...
