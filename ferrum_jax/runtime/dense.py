"""The logits of one text by one dense forward, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
    tokens, positions = padded_tokens(ids)
    check_taps(config, taps, num_keys=len(tokens))
    if taps.acts:
        place = Place(jnp.zeros_like(tokens), positions, jnp.full_like(tokens, len(ids)))
        taps = Taps(edits=taps.edits, place=place, adapters=taps.adapters)
    else:
        taps = Taps()
    return np.asarray(_full_logits(params, tokens, positions, taps, config=config))[: len(ids)]


def padded_tokens(ids: Sequence[int]) -> tuple[Int[Array, " P"], Int[Array, " P"]]:
    """Tokens and positions of one text, padded to a multiple of `LENGTH_STEP`.

    Each token of padding is a sequence of its own, so that no length-dependent rope sees it.
    """
    padding = [0] * (-len(ids) % LENGTH_STEP)
    return (
        jnp.asarray([*ids, *padding], jnp.int32),
        jnp.asarray([*range(len(ids)), *padding], jnp.int32),
    )


@partial(jax.jit, static_argnames="config")
def _full_logits(
    params: Params, tokens: Array, positions: Array, taps: Taps, *, config: ModelConfig
) -> Float[Array, "T V"]:
    hidden, _ = forward(
        params, tokens, positions, None, config=config, attend=dense_attention, taps=taps
    )
    return unembed(params, hidden, config, taps=taps)
