"""A steering vector, fitted by gradient descent (Subramani et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ferrum_jax.models.sites import check_taps, site_shape
from ferrum_jax.research.edits import steer
from ferrum_jax.research.edits.spans import position_spans
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.types import RequestError, Taps

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM


@dataclass(frozen=True)
class SteeringVector(Trainable):
    """A vector that is added to a site of a layer; it starts at zero. Value: `vector [*site]`."""

    layer: int
    positions: str | int | tuple[int, ...] | None = None
    """As `fj.edits` takes them: None, all; "prompt" or "generated" (in a pair of texts the second
    is what is generated); an index or several."""
    site: str = "resid_post"

    def __post_init__(self) -> None:
        positions = self.positions
        if isinstance(positions, list | range | np.ndarray):
            object.__setattr__(self, "positions", tuple(int(p) for p in positions))
        elif not (positions is None or isinstance(positions, str | int | tuple)):
            raise RequestError(
                f"positions is {positions!r}; a fitted vector takes None, 'prompt', 'generated', "
                "an index or a list of them"
            )
        position_spans(self.positions)

    def init(self, llm: LLM, seed: int) -> Value:
        """Zeros, so that the fit starts at the model itself; `seed` is of no use."""
        shape = site_shape(llm.config, self.site, self.layer)
        if shape is None or -1 in shape:
            check_taps(llm.config, Taps((self.site,), (self.layer,)))
            raise RequestError(f"the site {self.site!r} has no vector per token; choose another")
        return {"vector": jnp.zeros(shape)}

    def taps(self, value: Value) -> Taps:
        """`fj.edits.steer`."""
        layers = None if self.site == "logits" else self.layer
        return steer(value["vector"], layers, positions=self.positions, site=self.site)
