"""From what a caller hands over to a checked request and its sequences."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ferrum_jax.interfaces import BlockManager, Tokenizer
from ferrum_jax.models.sites import check_taps
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.processors import check_processors
from ferrum_jax.runtime.words import end_ids, spell_words
from ferrum_jax.scheduler import check_fits, sequence_limit
from ferrum_jax.types import (
    EngineConfig,
    ModelConfig,
    Priority,
    Request,
    RequestError,
    SamplingParams,
    Taps,
)
from ferrum_jax.types import Sequence as RunningSequence


@dataclass(frozen=True)
class Intake:
    """The limits that a request has to meet."""

    engine: EngineConfig
    blocks: BlockManager
    config: ModelConfig
    max_model_len: int
    tokenizer: Tokenizer | None = None
    eos: frozenset[int] = frozenset()
    _operations: dict[Any, int] = field(default_factory=dict)
    """Every operation that an edit has used, numbered; kept, so that no other gets its number."""
    _known_processors: set[Any] = field(default_factory=set)
    """Kinds of logits processors that were checked."""

    @cached_property
    def guides(self) -> Guides:
        """The grammars of guided requests."""
        return Guides(self.tokenizer, self.eos, self.config.vocab_size)

    def request(
        self,
        request_id: int,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        prompt: str | None,
        service: tuple[object, object, object, object],
        taps: object,
        score_only: bool,
        score_from: int = 1,
    ) -> Request:
        """A request, all of it checked; `service` as `checked_service` takes it.

        Raises:
            RequestError, ResourceExhausted, UnsupportedError: as the checks below.
        """
        priority, client, timeout, cache_salt = checked_service(*service)
        ids = self.check_prompt(prompt_token_ids, params, score_only=score_only)
        if not 1 <= score_from <= len(ids):
            raise RequestError(
                f"score_from is {score_from}; a prompt of {len(ids)} tokens has logprobs of tokens "
                f"1 to {len(ids) - 1}"
            )
        checked_taps, edits_digest = self.check_taps(taps, params, len(ids))
        check_processors(
            params.logits_processors,
            self.config.vocab_size,
            self.max_model_len + 1,
            self._known_processors,
        )
        self.guides.check(params)
        arrival = time.monotonic()
        return Request(
            request_id=request_id,
            prompt_token_ids=ids,
            params=params,
            prompt=prompt,
            priority=priority,
            client=client,
            deadline=None if timeout is None else arrival + timeout,
            cache_salt=cache_salt,
            score_only=score_only,
            score_from=score_from,
            taps=checked_taps,
            edits_digest=edits_digest,
            arrival=arrival,
            bad_word_ids=spell_words(params.bad_words, self.tokenizer, self.config.vocab_size),
            end_ids=end_ids(params, self.eos),
        )

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
        ids = checked_token_ids(ids, self.config.vocab_size)
        room = self.max_model_len - (0 if score_only else 1)
        if len(ids) > room:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; max_model_len = {self.max_model_len} leaves "
                f"room for {room}: shorten it, set truncate_prompt_tokens, or raise "
                "EngineConfig.max_model_len"
            )
        params.check_vocabulary(self.config.vocab_size)
        check_fits(len(ids), self.engine, self.blocks)
        return ids

    def check_taps(
        self, taps: object, params: SamplingParams, prompt_len: int
    ) -> tuple[Taps | None, str]:
        """A request's taps, and the digest of its edits and adapters (empty without any).

        Raises:
            RequestError: they are no taps, do not fit the model, or capture for `n` above 1.
            UnsupportedError: an edit is a bare function.
        """
        if taps is None:
            return None, ""
        if not isinstance(taps, Taps):
            raise RequestError(
                f"taps is {taps!r}; give what fj.edits makes, fj.Taps(capture=...), or None"
            )
        page = self.blocks.page_size
        check_taps(self.config, taps, num_keys=-(-self.max_model_len // page) * page)
        if taps.capture and params.n > 1:
            raise RequestError(f"captures are of one completion, and n is {params.n}; set n=1")
        return taps, self._digest(taps, prompt_len)

    def _digest(self, taps: Taps, prompt_len: int) -> str:
        """sha256 over the operations and the arrays of all edits, in their order; and over the
        prompt's length where an edit counts from its end."""
        if not taps.acts:
            return ""
        digest = hashlib.sha256(str(prompt_len if counts_from_end(taps) else "").encode())
        for site, edits in sorted(taps.edits.items()):
            for edit in edits:
                number = self._operations.setdefault(edit.operation, len(self._operations))
                leaves, structure = jax.tree.flatten((edit.values, edit.layers, edit.positions))
                digest.update(f"{site} {number} {structure}".encode())
                for leaf in map(np.asarray, leaves):
                    digest.update(f"{leaf.dtype} {leaf.shape}".encode())
                    digest.update(leaf.tobytes())
        if taps.adapters is not None:
            digest.update(taps.adapters.digest.encode())
        return digest.hexdigest()

    def sequences(self, request: Request) -> list[RunningSequence]:
        """One sequence per completion; all sample from streams of the request's seed."""
        params, length = request.params, len(request.prompt_token_ids)
        limit = length
        if not request.score_only:
            limit = sequence_limit(length, params.max_tokens, self.max_model_len, self.blocks)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return [
            RunningSequence(
                request=request,
                index=i,
                max_len=limit,
                seed=seed,
                settles=params.guided is not None or self.engine.speculation is not None,
                single_steps=_single_steps(request),
            )
            for i in range(1 if request.score_only else params.n)
        ]


def _single_steps(request: Request) -> bool:
    """Whether the host has a say in, or wants something of, every step of a request."""
    params = request.params
    return bool(params.guided or params.stop or params.logits_processors or request.taps)


def counts_from_end(taps: Taps) -> bool:
    """Whether an edit names positions by their distance from the prompt's end."""
    edits = [edit for edits in taps.edits.values() for edit in edits]
    return any(np.any(np.asarray(edit.positions)[..., 1::2]) for edit in edits)


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
