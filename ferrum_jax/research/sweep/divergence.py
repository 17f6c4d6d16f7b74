"""How far a variant's predictions are from the baseline's, whole distributions compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ferrum_jax.research.sweep.metrics import Texts, as_documents
from ferrum_jax.research.sweep.statistics import DocumentValues
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import RequestError

MOST_LOGITS = 2**25
"""Logits of one side that are held at a time, 128 MiB of float32; a document more if need be."""


@dataclass(frozen=True)
class KLFromBaseline:
    """See `kl_from_baseline`."""

    texts: tuple[Prompt, ...]

    name = "kl_from_baseline"
    unit = "nats/token"

    def against(self, base: LLM) -> Callable[[LLM, Any], DocumentValues]:
        """The metric of variants of `base`; its logits are computed anew for each of them."""

        def measured(llm: LLM, taps: Any) -> DocumentValues:
            ids = [base.encode(text) for text in self.texts]
            _check_same_tokens(self.texts, ids, base, llm)
            totals = [
                float(_divergences(p[:-1], q[:-1]).sum())  # the last predicts what follows
                for group in _groups(ids, base.config.vocab_size)
                for p, q in zip(_logits(base, group, None), _logits(llm, group, taps), strict=True)
            ]
            counts = np.array([len(tokens) - 1 for tokens in ids], np.float64)
            return DocumentValues(np.array(totals), counts, int(counts.sum()))

        return measured


def kl_from_baseline(texts: Texts) -> KLFromBaseline:
    """The mean divergence of a variant's prediction from the baseline's, KL(baseline || variant).

    In nats, over the predictions of all tokens but each text's first. Logits are read from the
    engine, so that cache dtypes and other settings count. It costs two runs per variant, with all
    logits brought to the host, and variants do not share batches: `nll` is far cheaper.

    Raises:
        RequestError: there are no texts; or, of a variant, another vocabulary or spelling.
    """
    return KLFromBaseline(as_documents("kl_from_baseline", texts))


def _groups(ids: list[list[int]], vocab_size: int) -> Iterator[list[list[int]]]:
    """Documents in their order, as many as `MOST_LOGITS` lets be held, at least one."""
    group: list[list[int]] = []
    for tokens in ids:
        held = sum(map(len, group)) + len(tokens)
        if group and held * vocab_size > MOST_LOGITS:
            yield group
            group = []
        group.append(tokens)
    yield group


def _logits(llm: LLM, group: list[list[int]], taps: Any) -> list[np.ndarray]:
    """float32 `[T, V]` of each document."""
    captured = llm.capture(group, ("logits",), taps=taps)
    return [values["logits"][llm.config.num_layers] for values in captured]


def _divergences(
    p: Float[np.ndarray, "n V"], q: Float[np.ndarray, "n V"]
) -> Float[np.ndarray, " n"]:
    """KL(p || q) per position from logits, in float64; exactly 0 for equal ones."""
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def _log_softmax(logits: Float[np.ndarray, "n V"]) -> Float[np.ndarray, "n V"]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _check_same_tokens(
    texts: tuple[Prompt, ...], ids: list[list[int]], base: LLM, llm: LLM
) -> None:
    if llm.config.vocab_size != base.config.vocab_size:
        raise RequestError(
            f"the variant has a vocabulary of {llm.config.vocab_size} tokens and the baseline one "
            f"of {base.config.vocab_size}; their predictions have no divergence: use bits_per_byte"
        )
    for i, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        if llm.encode(text) != tokens:
            raise RequestError(
                f"the variant's tokenizer spells text {i} in other tokens than the baseline's; "
                "predictions of other tokens have no divergence: use bits_per_byte"
            )
