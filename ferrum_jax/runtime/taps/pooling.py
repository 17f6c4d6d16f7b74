"""One vector a text: the hidden states that the engine's steps bring, pooled as they come."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ferrum_jax.models import Params
from ferrum_jax.models.norm import normalise
from ferrum_jax.runtime.taps.capture import CapturedChunk
from ferrum_jax.types import ModelConfig, RequestError

POOLINGS = ("last", "mean", "cls")


def check_pooling(pooling: object, normalize: object) -> tuple[str, bool]:
    """A pooling and whether its vectors get length 1.

    Raises:
        RequestError: there is no such pooling, or `normalize` is no bool.
    """
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise RequestError(f"pooling is {pooling!r}; choose one of {', '.join(POOLINGS)}")
    if not isinstance(normalize, bool | np.bool_):
        raise RequestError(f"normalize is {normalize!r}; it must be True or False")
    return pooling, bool(normalize)


def final_hidden(params: Params, resid: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The last layer's residual `[n, D]` after the final norm, float32."""
    padded = np.pad(resid, ((0, -len(resid) % 16), (0, 0)))
    return np.asarray(_final_norm(params.final_norm, padded, config=config))[: len(resid)]


@partial(jax.jit, static_argnames="config")
def _final_norm(weights: Any, x: jax.Array, *, config: ModelConfig) -> jax.Array:
    if config.final_norm is None:
        return x.astype(jnp.float32)
    return normalise(x, weights, config.final_norm, config.norm_eps).astype(jnp.float32)


def pooled(
    chunks: Iterable[CapturedChunk],
    count: int,
    pooling: str,
    params: Params,
    config: ModelConfig,
    *,
    progress: bool = False,
) -> np.ndarray:
    """float32 `[count, D]` from the last layer's residuals, chunk by chunk; nothing else is kept.

    Only rows that may count go through the final norm: a chunk's last for `last`, the text's first
    for `cls`, all for `mean`, whose sums are float64.
    """
    site, last = "resid_post", config.num_layers - 1
    sums = np.zeros((count, config.hidden_size), np.float64)
    lengths = np.ones((count, 1), np.int64)
    with tqdm(total=count, unit="text", disable=not progress) as bar:
        for chunk in chunks:
            i, resid = chunk.prompt, chunk.values[site][last]
            if pooling == "mean":
                sums[i] += final_hidden(params, resid, config).sum(axis=0, dtype=np.float64)
                lengths[i] = chunk.start + len(chunk)
            elif pooling == "last":
                sums[i] = final_hidden(params, resid[-1:], config)[0]
            elif pooling == "cls" and chunk.start == 0:
                sums[i] = final_hidden(params, resid[:1], config)[0]
            bar.update(chunk.done)
    return (sums / lengths).astype(np.float32)


def unit_length(x: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length; a row of zeros stays one. float32."""
    lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return (x / np.maximum(lengths, 1e-12)).astype(np.float32)
