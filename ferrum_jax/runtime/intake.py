"""From what a caller hands over to a checked request and its sequences."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ferrum_jax.interfaces import BlockManager
from ferrum_jax.scheduler import check_fits, sequence_limit
from ferrum_jax.types import EngineConfig, Priority, Request, RequestError, SamplingParams
from ferrum_jax.types import Sequence as RunningSequence


@dataclass(frozen=True)
class Intake:
    """The limits that a request has to meet."""

    engine: EngineConfig
    blocks: BlockManager
    vocab_size: int
    max_model_len: int

    def check_prompt(
        self, prompt: Sequence[int], params: SamplingParams, *, score_only: bool
    ) -> tuple[int, ...]:
        """The prompt's token ids, truncated as asked for.

        Raises:
            RequestError: it is empty or too long, or an id lies outside the vocabulary.
            ResourceExhausted: it can never fit the KV pages.
        """
        ids = tuple(prompt)
        if params.truncate_prompt_tokens is not None:
            ids = ids[-params.truncate_prompt_tokens :]
        ids = checked_token_ids(ids, self.vocab_size)
        room = self.max_model_len - (0 if score_only else 1)
        if len(ids) > room:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; max_model_len = {self.max_model_len} leaves "
                f"room for {room}: shorten it, set truncate_prompt_tokens, or raise "
                "EngineConfig.max_model_len"
            )
        params.check_vocabulary(self.vocab_size)
        check_fits(len(ids), self.engine, self.blocks)
        return ids

    def sequences(self, request: Request) -> list[RunningSequence]:
        """One sequence per completion; all sample from streams of the request's seed."""
        params, length = request.params, len(request.prompt_token_ids)
        limit = length
        if not request.score_only:
            limit = sequence_limit(length, params.max_tokens, self.max_model_len, self.blocks)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return [
            RunningSequence(request=request, index=i, max_len=limit, seed=seed)
            for i in range(1 if request.score_only else params.n)
        ]


def checked_service(
    priority: object, client: object, timeout: object, cache_salt: object
) -> tuple[Priority, str, float | None, str]:
    """How a request is to be served, each value of its own type.

    Raises:
        RequestError: a value is none; the message names the choices.
    """
    for name, value in (("client", client), ("cache_salt", cache_salt)):
        if not isinstance(value, str):
            raise RequestError(f"{name} is {value!r}; it must be a text")
    if timeout is not None and (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout < math.inf
    ):
        raise RequestError(f"timeout is {timeout!r}; it must be seconds above 0, or None")
    return checked_priority(priority), str(client), timeout, str(cache_salt)


def checked_priority(value: object) -> Priority:
    """A `Priority`, from itself, its number or its name.

    Raises:
        RequestError: there is none such.
    """
    try:
        return Priority[value.upper()] if isinstance(value, str) else Priority(value)
    except (KeyError, ValueError):
        levels = ", ".join(f"{p.name.lower()} ({p.value})" for p in Priority)
        raise RequestError(f"priority is {value!r}; choose one of {levels}") from None


def checked_token_ids(prompt: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """A prompt's token ids as plain integers.

    Raises:
        RequestError: there are none, or one is no integer or outside the vocabulary.
    """
    if not prompt:
        raise RequestError("the prompt has no tokens; give at least one")
    for token in prompt:
        if isinstance(token, bool) or not isinstance(token, int | np.integer):
            raise RequestError(f"the prompt holds {token!r}; token ids are integers")
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"the prompt holds token id {token}; the vocabulary has ids 0 to {vocab_size - 1}"
            )
    return tuple(int(token) for token in prompt)
