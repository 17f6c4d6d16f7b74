"""From per-token numbers to a row of the table, each with its standard error over the documents."""

from collections.abc import Callable

import numpy as np
from config import Comparison
from measure import Tokens
from texts import Texts

from ferrum_jax.kv.cache import token_bytes
from ferrum_jax.types import DataType, ModelConfig

Documents = np.ndarray
"""Indices of documents: all of them once, or a bootstrap sample."""


def summarise(
    dtype: DataType,
    tokens: Tokens,
    reference: Tokens,
    texts: Texts,
    model: ModelConfig,
    plan: Comparison,
) -> dict:
    """The row of one dtype. `[value, standard error]` where the value varies by document."""
    mask, full = texts.mask_RT, token_bytes(model, plan.kv_dtypes[0])

    def over_tokens(values_RT: np.ndarray, statistic=np.mean) -> list[float]:
        return _with_error(lambda rows: statistic(values_RT[rows][mask[rows]]), texts, plan)

    def bits_per_byte(nats_RT: np.ndarray) -> list[float]:
        bits_R = np.where(mask, nats_RT, 0).sum(1) / np.log(2)
        return _with_error(lambda rows: bits_R[rows].sum() / texts.bytes_R[rows].sum(), texts, plan)

    return {
        "kv_dtype": dtype.value,
        "bytes_per_token": token_bytes(model, dtype),
        "saving": full / token_bytes(model, dtype),
        "max_logit_error": float(tokens.max_error_RT[mask].max()),
        "mean_logit_error": over_tokens(tokens.mean_error_RT),
        "mean_kl": over_tokens(tokens.kl_RT),
        "p99_kl": over_tokens(tokens.kl_RT, lambda x: np.percentile(x, 99)),
        "max_kl": float(tokens.kl_RT[mask].max()),
        "same_top": over_tokens(tokens.same_top_RT),
        "bits_per_byte": bits_per_byte(tokens.nats_RT),
        "bits_per_byte_change": bits_per_byte(tokens.nats_RT - reference.nats_RT),
        "step_seconds": tokens.step_seconds,
    }


def _with_error(
    statistic: Callable[[Documents], float], texts: Texts, plan: Comparison
) -> list[float]:
    """A statistic and its bootstrap standard error (Efron 1979), documents being resampled."""
    rng, count = np.random.default_rng(plan.seed), len(texts.names)
    samples = rng.integers(0, count, (plan.resamples, count))
    spread = np.std([statistic(rows) for rows in samples], ddof=1)
    return [float(statistic(np.arange(count))), float(spread)]
