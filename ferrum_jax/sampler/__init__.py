"""From logits to tokens: per-row parameters, per-row random keys, logprobs."""

from ferrum_jax.sampler.bias import add_bias, restrict_tokens
from ferrum_jax.sampler.logprobs import num_logprobs_wanted, score_tokens, token_logprobs
from ferrum_jax.sampler.penalties import apply_penalties
from ferrum_jax.sampler.sample import choose, process_logits, rows_failed, sample
from ferrum_jax.sampler.state import (
    SlotUpdate,
    active_slots,
    make_sampling_state,
    sequence_key,
    slot_rows,
    write_slots,
)
from ferrum_jax.sampler.truncate import truncate

__all__ = [
    "SlotUpdate",
    "active_slots",
    "add_bias",
    "apply_penalties",
    "choose",
    "make_sampling_state",
    "num_logprobs_wanted",
    "process_logits",
    "restrict_tokens",
    "rows_failed",
    "sample",
    "score_tokens",
    "sequence_key",
    "slot_rows",
    "token_logprobs",
    "truncate",
    "write_slots",
]
