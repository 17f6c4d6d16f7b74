"""From logits to tokens: per-row parameters, per-row random keys, logprobs."""

from ferrum_jax.sampler.bias import add_bias
from ferrum_jax.sampler.logprobs import (
    GivenIds,
    given_ids,
    num_logprobs_wanted,
    score_tokens,
    token_logprobs,
)
from ferrum_jax.sampler.masks import forbid_bad_words, hold_off_the_end, restrict_tokens
from ferrum_jax.sampler.mirostat import limit_surprise, next_mu
from ferrum_jax.sampler.penalties import apply_penalties
from ferrum_jax.sampler.processors import run_processors
from ferrum_jax.sampler.sample import Sampled, choose, process_logits, rows_failed, sample
from ferrum_jax.sampler.state import (
    SlotUpdate,
    active_slots,
    join_state,
    make_sampling_state,
    pack_ids,
    processes_logits,
    sequence_key,
    slot_rows,
    split_state,
    write_masks,
    write_slots,
)
from ferrum_jax.sampler.truncate import truncate

__all__ = [
    "GivenIds",
    "Sampled",
    "SlotUpdate",
    "active_slots",
    "add_bias",
    "apply_penalties",
    "choose",
    "forbid_bad_words",
    "given_ids",
    "hold_off_the_end",
    "join_state",
    "limit_surprise",
    "make_sampling_state",
    "next_mu",
    "num_logprobs_wanted",
    "pack_ids",
    "process_logits",
    "processes_logits",
    "restrict_tokens",
    "rows_failed",
    "run_processors",
    "sample",
    "score_tokens",
    "sequence_key",
    "slot_rows",
    "split_state",
    "token_logprobs",
    "truncate",
    "write_masks",
    "write_slots",
]
