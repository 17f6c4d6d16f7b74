"""A smaller model that drafts.

Its keys and values lie in pages of the same numbers as the model's own, a cache beside the cache:
whatever is shared, copied, moved or taken back of a sequence is so for both. Where all of a draft
was accepted, its last token is run when the next draft begins; if the sequence is moved or shared
just then, the place stays empty. That costs chances of acceptance, as all of a draft's mistakes.

Its samples are drawn with the noise that the model's own will be drawn with, so that both choose
the same token as often as their distributions allow it.

Dimension key: T tokens, R rows (sequences), D tokens of the longest draft, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.attention import BindAttention, paged_meta
from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.kv import make_cache
from ferrum_jax.models import Params, forward_capture, unembed
from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.load import load_config, load_model
from ferrum_jax.runtime.directory import tokenizer_of
from ferrum_jax.runtime.lengths import length_bound, max_model_len
from ferrum_jax.sampler import join_state, sample
from ferrum_jax.types import (
    ConfigError,
    EngineConfig,
    KVCache,
    KVCacheConfig,
    ModelConfig,
    ModelError,
    SamplingState,
    StepBatch,
    StepShape,
    Taps,
    UnsupportedError,
)

AT_ONCE = 2
"""Tokens that a draft begins with: the last two, for behind an accepted draft both are new."""
NUM_COMPARED = 256
"""Token ids at which two tokenizers are compared."""


@dataclass
class DraftModel:
    """The weights, the cache and the programs of a model that drafts."""

    config: ModelConfig
    params: Params
    kv: KVCacheConfig
    bind: BindAttention
    vocab_size: int
    """Of the model that verifies."""
    draft_len: int

    def __post_init__(self) -> None:
        self._programs: dict[tuple[str, StepShape], Callable[..., Any]] = {}
        self.seconds: dict[tuple[str, StepShape], float] = {}
        """What each program took to compile."""
        self.reset()

    def reset(self) -> None:
        """An empty cache."""
        self.cache: KVCache = make_cache(self.config, self.kv)

    def follow(self, batch: StepBatch, history: jax.Array, shape: StepShape) -> None:
        """Bring the cache to where a step of `shape` brings the model's own."""
        # Neither what is scored nor how is sampled matters here.
        shape = StepShape(shape.tokens, shape.rows, drafts=shape.drafts)
        function = partial(follow_step, num_tokens=shape.tokens)
        self.cache = self._run(function, shape, (batch, history))

    def draft(
        self, batch: StepBatch, moving: SamplingState, settings: SamplingState, shape: StepShape,
        count: int,
    ) -> tuple[SamplingState, jax.Array]:  # fmt: skip
        """Up to `draft_len` tokens behind each row's known ones, int32 `[R, D]`.

        Args:
            batch: each row's last two tokens.
            count: tokens that the longest of the drafts is to have; one is run in any case.
        """
        function = partial(
            draft_tokens,
            vocab_size=self.vocab_size,
            draft_len=self.draft_len,
            processes=shape.processes,
        )
        arguments = (batch, moving, settings, np.int32(count))
        self.cache, moving, drafts = self._run(function, shape, arguments)
        return moving, drafts

    def _run(self, function: partial[Any], shape: StepShape, arguments: tuple[Any, ...]) -> Any:
        """Run a program on the weights and the cache, which it consumes."""
        arguments, key = (self.params, self.cache, *arguments), (function.func.__name__, shape)
        if key not in self._programs:
            start = time.monotonic()
            structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
            bound = partial(function, config=self.config, bind=self.bind)
            self._programs[key] = jax.jit(bound, donate_argnums=1).lower(*structs).compile()
            self.seconds[key] = time.monotonic() - start
        return self._programs[key](*arguments)


def follow_step(
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    history: Int[Array, "S L"],
    *,
    config: ModelConfig,
    bind: BindAttention,
    num_tokens: int,
) -> KVCache:
    """The cache with the keys and values of a step's tokens."""
    return _forward(params, cache, batch, history, config, bind, num_tokens)[1]


def draft_tokens(
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    moving: SamplingState,
    settings: SamplingState,
    count: Int[Array, ""],
    *,
    config: ModelConfig,
    bind: BindAttention,
    vocab_size: int,
    draft_len: int,
    processes: bool,
) -> tuple[KVCache, SamplingState, Int[Array, "R D"]]:
    """One token after the other behind each row's known ones, as the request would sample them.

    Grammars and logits processors are left to the model that verifies.
    """
    num_rows = batch.slots.shape[0]
    padding, longest = moving.history.shape[0] - 1, moving.history.shape[1] - 1
    # A mask of a grammar holds at one length.
    unguided = settings.restricted & (settings.allowed_from == 0)
    settings = replace(settings, restricted=unguided)

    def choose(hidden_RD: Array, state: SamplingState, lengths_R: Array) -> Array:
        logits_RV = _of_size(unembed(params, hidden_RD, config), vocab_size)
        slots, active = batch.slots, batch.samples
        return sample(logits_RV, state, slots, lengths_R, active, processes=processes).tokens

    def put(history: Array, tokens_R: Array, lengths_R: Array) -> Array:
        slots_R = jnp.where(batch.samples, batch.slots, padding)
        return history.at[slots_R, jnp.minimum(lengths_R, longest)].set(tokens_R)

    def go_on(index: Array, carry: tuple[KVCache, Array, Array]) -> tuple[KVCache, Array, Array]:
        cache, history, drafts_RD = carry
        lengths_R = jnp.where(batch.samples, batch.context_lens + index, 0)
        row = replace(
            batch,
            query_starts=jnp.arange(num_rows + 1, dtype=jnp.int32),
            context_lens=lengths_R,
            drafts=None,
            num_drafts=None,
        )
        hidden, cache = _forward(params, cache, row, history, config, bind, num_rows)
        state = join_state(replace(moving, history=history), settings)
        tokens_R = choose(hidden, state, lengths_R)
        return cache, put(history, tokens_R, lengths_R), drafts_RD.at[:, index].set(tokens_R)

    hidden, cache = _forward(params, cache, batch, moving.history, config, bind, AT_ONCE * num_rows)
    last_R = jnp.maximum(batch.query_starts[1:] - 1, 0)
    first_R = choose(hidden[last_R], join_state(moving, settings), batch.context_lens)
    history = put(moving.history, first_R, batch.context_lens)
    drafts_RD = jnp.zeros((num_rows, draft_len), jnp.int32).at[:, 0].set(first_R)
    carry = jax.lax.fori_loop(1, count, go_on, (cache, history, drafts_RD))
    cache, history, drafts_RD = carry
    return cache, replace(moving, history=history), drafts_RD


def load_draft(
    engine: EngineConfig,
    *,
    dtype: str,
    max_len: int,
    tokenizer: Tokenizer | None,
) -> tuple[ModelConfig, Params] | None:
    """The model that drafts, with its weights; None where none does.

    Args:
        dtype: of the weights.
        max_len: tokens of the longest sequence.
        tokenizer: of the model that verifies.

    Raises:
        ModelError, WeightError: the checkpoint cannot be loaded.
        ConfigError: it has other tokens, or too few positions.
        UnsupportedError: it has recurrent layers.
    """
    speculation = engine.speculation
    if speculation is None or not speculation.uses_model:
        return None
    path = str(speculation.draft)
    directory = _find(path)
    other = tokenizer_of(directory)
    if tokenizer is not None and other is not None:
        _check_tokens(path, tokenizer, other)
    drafting, params = load_model(directory, dtype)
    if drafting.is_recurrent:
        raise UnsupportedError(
            f"the draft model {path} keeps recurrent states, which cannot take back a token; use a "
            "model of attention alone, or speculative='ngram'"
        )
    try:
        max_model_len(drafting, replace(engine, max_model_len=max_len))
    except ConfigError as error:
        raise ConfigError(f"the draft model {path}: {error}") from None
    if length_bound(drafting) is not None:
        drafting = replace(drafting, rope_length=max_len)
    return drafting, params


def draft_config(engine: EngineConfig) -> ModelConfig | None:
    """The config of the model that drafts, without its weights; None where none does."""
    speculation = engine.speculation
    if speculation is None or not speculation.uses_model:
        return None
    return load_config(_find(str(speculation.draft)))


def with_layers_of(config: ModelConfig, drafting: ModelConfig | None) -> ModelConfig:
    """A config whose tokens take the memory of both models'."""
    if drafting is None:
        return config
    return replace(config, layers=(*config.layers, *drafting.layers))


def _find(path: str) -> Path:
    try:
        return resolve_checkpoint(path)
    except ModelError as error:
        raise ModelError(f"speculative: {path!r} is neither 'ngram' nor a model: {error}") from None


def _forward(
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    history: Array,
    config: ModelConfig,
    bind: BindAttention,
    num_tokens: int,
) -> tuple[Float[Array, "T D"], KVCache]:
    meta = paged_meta(batch, num_tokens, cache.page_size)
    tokens_T = jnp.minimum(history[batch.slots[meta.rows], meta.positions], config.vocab_size - 1)
    hidden_TD, cache_after, _ = forward_capture(
        params, tokens_T, meta.positions, cache, config=config, attend=bind(meta), taps=Taps()
    )
    assert cache_after is not None
    return hidden_TD, cache_after


def _of_size(logits_RV: Array, vocab_size: int) -> Array:
    """Logits over as many ids as the verifying model has; models of one tokenizer may differ in
    the unused ids at the end."""
    missing = vocab_size - logits_RV.shape[1]
    if missing <= 0:
        return logits_RV[:, :vocab_size]
    return jnp.pad(logits_RV, ((0, 0), (0, missing)), constant_values=-jnp.inf)


def _check_tokens(path: str, tokenizer: Tokenizer, other: Tokenizer) -> None:
    """Raise `ConfigError` where some of the ids mean other tokens."""
    count = min(tokenizer.vocab_size, other.vocab_size)
    for token in range(0, count, max(1, count // NUM_COMPARED)):
        if tokenizer.token_text(token) != other.token_text(token):
            raise ConfigError(
                f"the draft model {path} has other tokens: id {token} is "
                f"{other.token_text(token)!r} there and {tokenizer.token_text(token)!r} here; a "
                "draft model shares the tokenizer"
            )
