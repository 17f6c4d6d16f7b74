"""The logits of one text by one dense forward, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrum_jax.attention import dense_attention
from ferrum_jax.models import Params, forward, unembed
from ferrum_jax.models.sites import check_taps
from ferrum_jax.types import ModelConfig, Place, Taps

LENGTH_STEP = 64
"""Lengths are padded to a multiple of this, so that few programs are compiled."""


def dense_logits(
    config: ModelConfig, params: Params, ids: Sequence[int], taps: Taps | None
) -> np.ndarray:
    """float32 `[T, V]`. Edits count all tokens as the prompt; captures are not returned.

    Raises:
        RequestError: the taps do not fit the model.
    """
    if taps is None:
        taps = Taps()
    padding = [0] * (-len(ids) % LENGTH_STEP)
    check_taps(config, taps, num_keys=len(ids) + len(padding))
    tokens = jnp.asarray([*ids, *padding], jnp.int32)
    # Padding starts a sequence of its own, so that no length-dependent rope sees it.
    positions = jnp.asarray([*range(len(ids)), *padding], jnp.int32)
    if taps.edits:
        place = Place(jnp.zeros_like(tokens), positions, jnp.full_like(tokens, len(ids)))
        taps = Taps(edits=taps.edits, place=place)
    else:
        taps = Taps()
    return np.asarray(_full_logits(params, tokens, positions, taps, config=config))[: len(ids)]


@partial(jax.jit, static_argnames="config")
def _full_logits(
    params: Params, tokens: Array, positions: Array, taps: Taps, *, config: ModelConfig
) -> Float[Array, "T V"]:
    hidden, _ = forward(
        params, tokens, positions, None, config=config, attend=dense_attention, taps=taps
    )
    return unembed(params, hidden, config, taps=taps)
