"""What may be asked of the pages and of the step, checked before it is queued.

A sequence's last token ends it and never goes through the model: n tokens need the pages of n - 1.
"""

from __future__ import annotations

from ferrum_jax.interfaces import BlockManager
from ferrum_jax.types import (
    EngineConfig,
    RequestError,
    ResourceExhausted,
    SchedulerError,
    Sequence,
)


def check_fits(prompt_len: int, engine: EngineConfig, blocks: BlockManager) -> None:
    """Refuse a prompt that could never run, however long it waited.

    Raises:
        ResourceExhausted: the prompt needs more KV pages than there are.
        RequestError: without chunked prefill, the prompt exceeds the tokens of one step.
    """
    needed, total = blocks.pages_for(prompt_len), blocks.num_total
    if needed > total:
        raise ResourceExhausted(
            f"the prompt has {prompt_len} tokens, which need {needed} KV pages of "
            f"{blocks.page_size} tokens; the cache has {total} ({total * blocks.page_size} "
            "tokens): shorten the prompt, set truncate_prompt_tokens, or raise "
            "EngineConfig.num_pages or memory_fraction"
        )
    budget = engine.max_num_batched_tokens
    if not engine.chunked_prefill and prompt_len > budget:
        raise RequestError(
            f"the prompt has {prompt_len} tokens; with chunked_prefill=False it must fit one step, "
            f"and max_num_batched_tokens = {budget}: shorten the prompt, raise "
            "EngineConfig.max_num_batched_tokens, or set chunked_prefill=True"
        )


def sequence_limit(
    prompt_len: int, max_tokens: int, max_model_len: int, blocks: BlockManager
) -> int:
    """Tokens, prompt and generation, at which a sequence ends for its length.

    The smallest of what the request asks for, what the model takes, and what a sequence that has
    all pages to itself can reach: so a sequence that is alone can always go on to its end.
    """
    return min(prompt_len + max_tokens, max_model_len, blocks.num_total * blocks.page_size + 1)


def check_can_end(sequence: Sequence, max_model_len: int, blocks: BlockManager) -> None:
    """Refuse a sequence that would wait or run for ever.

    Raises:
        SchedulerError: its `max_len` leaves it nothing to do, or is more than `max_model_len` or
            than all pages hold.
    """
    length, score_only = sequence.num_tokens, sequence.request.score_only
    computed = length if score_only else sequence.max_len - 1
    if max(length, sequence.max_len) > max_model_len or (
        blocks.pages_for(computed) > blocks.num_total
    ):
        raise SchedulerError(
            f"a sequence of {length} tokens with max_len = {sequence.max_len} cannot end: "
            f"max_model_len is {max_model_len} and the cache has {blocks.num_total} pages of "
            f"{blocks.page_size} tokens; use check_fits and sequence_limit"
        )
    if not score_only and length >= sequence.max_len:
        raise SchedulerError(
            f"a sequence of {length} tokens with max_len = {sequence.max_len} has no token left "
            "to generate; max_len must be larger"
        )
