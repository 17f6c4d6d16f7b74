"""All caches side by side through the same text, one token a step, and what their logits differ by.

Dimension key: R documents, T tokens of a document, V vocabulary.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from config import Comparison
from texts import Texts
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.attention import paged_attention, paged_meta
from ferrum_jax.kv import make_cache
from ferrum_jax.models import Params, unembed
from ferrum_jax.types import KVCache, KVCacheConfig, ModelConfig, StepBatch


@dataclass(frozen=True)
class Tokens:
    """Per token `[R, T]`: how one cache's logits lie beside those of the reference."""

    nats_RT: np.ndarray
    """-log p(target)"""
    kl_RT: np.ndarray
    """KL divergence from the reference's distribution to this one, nats"""
    same_top_RT: np.ndarray
    """whether the likeliest token is the same"""
    max_error_RT: np.ndarray
    """largest absolute difference of a logit"""
    mean_error_RT: np.ndarray
    """mean absolute difference of the logits"""
    step_seconds: float
    """median wall time of a step"""


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def decode(
    params: Params,
    cache: KVCache,
    tokens_R: jax.Array,
    position: jax.Array,
    tables_RB: jax.Array,
    *,
    config: ModelConfig,
) -> tuple[KVCache, jax.Array]:
    """The next cache and the logits `[R, V]` of one more token for every document."""
    rows = tokens_R.shape[0]
    batch = StepBatch(
        slots=jnp.arange(rows, dtype=jnp.int32),
        query_starts=jnp.arange(rows + 1, dtype=jnp.int32),
        context_lens=jnp.full(rows, position + 1, jnp.int32),
        samples=jnp.zeros(rows, bool),
        block_tables=tables_RB,
    )
    meta = paged_meta(batch, rows, cache.page_size)
    hidden, cache = fj.forward(
        params, tokens_R, meta.positions, cache, config=config, attend=paged_attention(meta)
    )
    return cache, unembed(params, hidden, config)


def compare(llm: fj.LLM, texts: Texts, plan: Comparison) -> list[Tokens]:
    """What each cache of the plan gives, in its order."""
    rows, length = texts.tokens_RT.shape
    pages = -(-length // plan.page_size)
    tables = 1 + jnp.arange(rows * pages, dtype=jnp.int32).reshape(rows, pages)
    caches = [
        make_cache(llm.config, KVCacheConfig(1 + rows * pages, plan.page_size, dtype))
        for dtype in plan.kv_dtypes
    ]
    found: list[list[tuple]] = [[] for _ in caches]
    for position, tokens, targets in tqdm(_steps(texts), total=length, unit="step"):
        reference = None
        for i, cache in enumerate(caches):
            start = time.perf_counter()
            caches[i], logits = decode(
                llm.params, cache, tokens, position, tables, config=llm.config
            )
            logits_RV = np.asarray(logits)
            seconds = time.perf_counter() - start
            reference = logits_RV if reference is None else reference
            found[i].append((*_beside(reference, logits_RV, targets), seconds))
    return [_stacked(steps) for steps in found]


def _steps(texts: Texts) -> Iterator[tuple[jax.Array, jax.Array, np.ndarray]]:
    for t in range(texts.tokens_RT.shape[1]):
        yield jnp.int32(t), jnp.asarray(texts.tokens_RT[:, t]), texts.targets_RT[:, t]


def _beside(
    reference_RV: np.ndarray, logits_RV: np.ndarray, targets_R: np.ndarray
) -> tuple[np.ndarray, ...]:
    """nats, KL, same top, max and mean error of one step, each `[R]`, in float64."""
    p, q = log_softmax(reference_RV), log_softmax(logits_RV)
    errors = np.abs(logits_RV - reference_RV)
    return (
        -q[np.arange(len(q)), targets_R],
        np.sum(np.exp(p) * (p - q), axis=1),
        reference_RV.argmax(1) == logits_RV.argmax(1),
        errors.max(1),
        errors.mean(1, dtype=np.float64),
    )


def log_softmax(logits_RV: np.ndarray) -> np.ndarray:
    """In float64, so that the divergence of close distributions is not rounding."""
    shifted = logits_RV - logits_RV.max(1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _stacked(steps: list[tuple]) -> Tokens:
    *arrays, seconds = zip(*steps, strict=True)
    return Tokens(*(np.stack(x, axis=1) for x in arrays), step_seconds=float(np.median(seconds)))


def dense_error(llm: fj.LLM, texts: Texts, cache_nats: np.ndarray) -> float:
    """Largest difference of a target's logprob between the paged reference and a dense forward."""
    worst = 0.0
    for row, length in enumerate(texts.lengths_R):
        logits = log_softmax(llm.logits(texts.tokens_RT[row, :length].tolist()))
        nats = -logits[np.arange(length), texts.targets_RT[row, :length]]
        worst = max(worst, float(np.abs(nats - cache_nats[row, :length]).max()))
    return worst
