"""The sampling state on the device, and how sequences enter its slots.

Dimension key: S slots (slot S is the padding's), A slots written at once, L longest sequence,
V vocabulary, W words of 32 vocabulary bits, P tokens of bad words, M lengths with masks of their
own: one, and one for each token of a draft.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from ferrum_jax.types import SamplingParams, SamplingState
from ferrum_jax.types.sampling import (
    MAX_BAD_TOKENS,
    MAX_END_IDS,
    MAX_LOGIT_BIAS,
    MAX_LOGPROB_TOKEN_IDS,
    TRUNCATIONS,
)

MOVING = ("history", "mirostat_mu")
"""What a step changes of the state."""
ROWS_PER_WRITE = 8
"""Sequences that one call of `write_slots` can place."""


@dataclass(frozen=True)
class SlotUpdate:
    """A sequence that takes a slot."""

    slot: int
    tokens: Sequence[int] | np.ndarray
    """prompt and, after a preemption, what was generated; an array is copied fastest"""
    prompt_len: int
    params: SamplingParams
    key: np.ndarray
    """uint32 [2], from `sequence_key`"""
    bad_word_ids: Sequence[Sequence[int]] = ()
    """the spellings of `params.bad_words`, at most 1024 tokens together"""
    end_ids: Sequence[int] = ()
    """what `params.min_tokens` holds off, at most 128"""
    mirostat_mu: float | None = None
    """as its last token left it; None: it has none yet"""


def sequence_key(seed: int, index: int) -> UInt32[np.ndarray, " 2"]:
    """The raw random key of completion `index` of a request, made without touching a device.

    A hash, so that neighbouring seeds and indices give unrelated streams.

    Args:
        seed: any signed 64-bit integer.
        index: which of the request's n completions, from 0.

    Raises:
        OverflowError: `seed` or `index` needs more than 64 bits.
    """
    data = seed.to_bytes(8, "little", signed=True) + index.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(data, digest_size=8, person=b"sequence key").digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def make_sampling_state(
    num_slots: int, max_len: int, vocab_size: int, *, draft_len: int = 0
) -> SamplingState:
    """Neutral parameters and empty histories: arrays of `num_slots + 1` rows on the device."""
    rows = _neutral_rows(num_slots + 1, max_len, vocab_size, draft_len)
    return jax.device_put(rows)


def slot_rows(
    updates: Sequence[SlotUpdate],
    *,
    num_slots: int,
    max_len: int,
    vocab_size: int,
    draft_len: int = 0,
    width: int = ROWS_PER_WRITE,
) -> tuple[Int[np.ndarray, " A"], SamplingState]:
    """The arguments of `write_slots`, as numpy arrays of A = `width` rows.

    Unused rows are neutral and aim at the padding slot, which must always stay neutral.
    """
    assert len(updates) <= width, f"{len(updates)} updates; one write takes {width}"
    slots = np.full(width, num_slots, np.int32)
    rows = _neutral_rows(width, max_len, vocab_size, draft_len)
    for i, update in enumerate(updates):
        slots[i] = update.slot
        _fill(rows, i, update, vocab_size)
    return slots, rows


def write_slots(
    state: SamplingState, slots: Int[Array, " A"], rows: SamplingState
) -> SamplingState:
    """The state with `rows[i]` in slot `slots[i]`. Pure; to be jitted with `state` donated."""
    return jax.tree.map(lambda whole, part: whole.at[slots].set(part), state, rows)


def write_masks(
    settings: SamplingState,
    slots: Int[Array, " A"],
    masks: UInt32[Array, "A M W"],
    lengths: Int[Array, " A"],
) -> SamplingState:
    """The settings with what may be sampled from these lengths on in some slots; to be jitted."""
    return replace(
        settings,
        allowed=settings.allowed.at[slots].set(masks),
        allowed_from=settings.allowed_from.at[slots].set(lengths),
        restricted=settings.restricted.at[slots].set(True),
    )


def split_state(state: SamplingState) -> tuple[SamplingState, SamplingState]:
    """What a step changes, and what stays for as long as the sequences do; None in other places."""
    moving: dict[str, Any] = dict.fromkeys(field.name for field in fields(state))
    moving |= {name: getattr(state, name) for name in MOVING}
    return SamplingState(**moving), replace(state, **dict.fromkeys(MOVING))


def join_state(moving: SamplingState, settings: SamplingState) -> SamplingState:
    """The state that was split."""
    return replace(settings, **{name: getattr(moving, name) for name in MOVING})


def active_slots(
    state: SamplingState, slots: Int[Array, " R"], active: Bool[Array, " R"]
) -> Int[Array, " R"]:
    """`slots` with the padding's neutral slot for rows that are not active: they cost nothing."""
    return jnp.where(active, slots, state.temperature.shape[0] - 1)


def _neutral_rows(count: int, max_len: int, vocab_size: int, draft_len: int) -> SamplingState:
    words = -(-vocab_size // 32)
    arrays: dict[str, Any] = {
        "history": np.zeros((count, max_len + 1), np.int32),
        "prompt_lens": np.zeros(count, np.int32),
        "seeds": np.zeros((count, 2), np.uint32),
        "temperature": np.zeros(count, np.float32),
        "top_k": np.zeros(count, np.int32),
        "top_p": np.ones(count, np.float32),
        "min_p": np.zeros(count, np.float32),
        "repetition_penalty": np.ones(count, np.float32),
        "presence_penalty": np.zeros(count, np.float32),
        "frequency_penalty": np.zeros(count, np.float32),
        "bias_ids": np.zeros((count, MAX_LOGIT_BIAS), np.int32),
        "bias_values": np.zeros((count, MAX_LOGIT_BIAS), np.float32),
        "allowed": np.zeros((count, 1 + draft_len, words), np.uint32),
        "allowed_from": np.zeros(count, np.int32),
        "restricted": np.zeros(count, np.bool_),
        "num_logprobs": np.full(count, -1, np.int32),
        "num_prompt_logprobs": np.full(count, -1, np.int32),
        "processed_logprobs": np.zeros(count, np.bool_),
        "given_ids": np.zeros((count, MAX_LOGPROB_TOKEN_IDS), np.int32),
        "num_given": np.zeros(count, np.int32),
        "min_tokens": np.zeros(count, np.int32),
        "end_ids": np.full((count, MAX_END_IDS), -1, np.int32),
        "bad_tokens": np.zeros((count, MAX_BAD_TOKENS), np.int32),
        "bad_backs": np.full((count, MAX_BAD_TOKENS), -1, np.int32),
        "typical_p": np.ones(count, np.float32),
        "tfs_z": np.ones(count, np.float32),
        "mirostat": np.zeros(count, np.int32),
        "mirostat_tau": np.zeros(count, np.float32),
        "mirostat_eta": np.zeros(count, np.float32),
        "mirostat_mu": np.zeros(count, np.float32),
        "adjusts": np.zeros(count, np.bool_),
        "truncates": np.zeros(count, np.bool_),
    }
    return SamplingState(**arrays)


def _fill(rows: SamplingState, i: int, update: SlotUpdate, vocab_size: int) -> None:
    """Write one sequence into row i of freshly made numpy rows."""
    params, tokens = update.params, update.tokens
    if not isinstance(tokens, np.ndarray):
        tokens = array("i", tokens)  # several times faster than np.asarray of a list
    assert len(tokens) < rows.history.shape[1], f"{len(tokens)} tokens exceed the history"
    rows.history[i, : len(tokens)] = tokens
    rows.prompt_lens[i] = update.prompt_len
    rows.seeds[i] = update.key
    # Where fp32 cannot divide by the temperature any more, its limit is greedy.
    tiny = params.temperature < np.finfo(np.float32).tiny
    rows.temperature[i] = 0.0 if tiny else params.temperature
    rows.repetition_penalty[i] = params.repetition_penalty
    rows.presence_penalty[i] = params.presence_penalty
    rows.frequency_penalty[i] = params.frequency_penalty
    rows.adjusts[i] = adjusts_logits(params)
    _fill_truncation(rows, i, update)
    _fill_masks(rows, i, update, vocab_size)
    _fill_logprobs(rows, i, params)
    count = len(params.logit_bias)
    if count:
        rows.bias_ids[i, :count] = list(params.logit_bias)
        rows.bias_values[i, :count] = list(params.logit_bias.values())


def processes_logits(params: SamplingParams) -> bool:
    """Whether more than a temperature lies between the model's logits and a token."""
    return adjusts_logits(params) or truncates_distribution(params)


def truncates_distribution(params: SamplingParams) -> bool:
    """Whether tokens are dropped after the temperature."""
    return params.mirostat is not None or any(
        getattr(params, name) not in neutral for name, neutral in TRUNCATIONS.items()
    )


def adjusts_logits(params: SamplingParams) -> bool:
    """Whether anything changes the logits before the temperature does."""
    return (
        (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)
        or bool(params.logit_bias or params.bad_words or params.logits_processors)
        or params.allowed_token_ids is not None
        or params.guided is not None
        or params.min_tokens > 0
    )


def _fill_truncation(rows: SamplingState, i: int, update: SlotUpdate) -> None:
    params = update.params
    rows.truncates[i] = truncates_distribution(params)
    rows.top_k[i] = max(params.top_k, 0)
    rows.tfs_z[i] = params.tfs_z
    rows.typical_p[i] = params.typical_p
    rows.top_p[i] = params.top_p
    rows.min_p[i] = params.min_p
    if params.mirostat is not None:
        rows.mirostat[i] = params.mirostat["mode"]
        rows.mirostat_tau[i] = params.mirostat["tau"]
        rows.mirostat_eta[i] = params.mirostat["eta"]
        start = 2 * params.mirostat["tau"]
        rows.mirostat_mu[i] = start if update.mirostat_mu is None else update.mirostat_mu


def _fill_masks(rows: SamplingState, i: int, update: SlotUpdate, vocab_size: int) -> None:
    params = update.params
    if params.allowed_token_ids is not None:
        rows.allowed[i] = pack_ids(params.allowed_token_ids, vocab_size)
        rows.restricted[i] = True
    rows.min_tokens[i] = params.min_tokens
    if params.min_tokens:
        rows.end_ids[i, : len(update.end_ids)] = update.end_ids
    flat = [token for word in update.bad_word_ids for token in word]
    rows.bad_tokens[i, : len(flat)] = flat
    rows.bad_backs[i, : len(flat)] = [
        back for word in update.bad_word_ids for back in reversed(range(len(word)))
    ]


def _fill_logprobs(rows: SamplingState, i: int, params: SamplingParams) -> None:
    rows.num_logprobs[i] = _or_none_wanted(params.num_logprobs)
    rows.num_prompt_logprobs[i] = _or_none_wanted(params.prompt_logprobs)
    rows.processed_logprobs[i] = params.logprobs_mode == "processed"
    given = params.logprob_token_ids
    rows.given_ids[i, : len(given)] = given
    rows.num_given[i] = len(given)


def _or_none_wanted(count: int | None) -> int:
    return -1 if count is None else count


def pack_ids(ids: tuple[int, ...], vocab_size: int) -> UInt32[np.ndarray, " W"]:
    """Bit `id % 32` of word `id // 32` set for each id."""
    mask = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
    mask[array("i", ids)] = True
    return np.packbits(mask, bitorder="little").view("<u4").astype(np.uint32)
