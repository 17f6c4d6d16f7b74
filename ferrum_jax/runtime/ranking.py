"""`LLM.rank`: which of some continuations the model finds likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from ferrum_jax.models.sites import check_taps
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.runtime.serving import Serving
from ferrum_jax.types import (
    ChoiceScore,
    FerrumError,
    Ranking,
    RequestError,
    SamplingParams,
    Snapshot,
    Taps,
)
from ferrum_jax.types.ranking import RANKED_BY

SCORED = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)


class Choosing(Serving):
    """What an LLM that has an engine can choose between."""

    def rank(
        self,
        query: Prompt,
        choices: Sequence[Prompt],
        by: str = "total",
        *,
        taps: Taps | None = None,
        progress: bool = False,
    ) -> Ranking:
        """Order continuations of a query by their log-likelihood, the best first.

        The query and a choice are one text, without a space between them that is not in them. The
        whole is tokenised, and scored from the first token on at which the query alone or one of
        the choices differs: where a choice changes the query's last tokens (they merge, or a space
        moves), those are scored with it, and with all the others, so that all have the same tokens
        before them. Those are computed once. Token ids, on either side, are joined as they are.

        Args:
            by: `total`, log p(choice | query); `mean`, that by tokens; `per_byte`, by bytes of the
                choice; `mutual_information`, less log p of the same tokens behind a BOS (or else
                EOS) token alone. All four are in the result. lm-eval's `acc` compares totals,
                its `acc_norm` those by characters, and its `acc_mutual_info` the last, with the
                choice alone tokenised anew and without the space before it.
            taps: edits of the model and adapters, whose positions are counted in each run.
            progress: show a bar by runs: one for each choice, behind the query and alone.

        Raises:
            RequestError: no choices, an empty one, one that is too long, or a `by` that is none or
                that this model has not.
            TokenizerError: a text is given and there is no tokenizer.
        """
        if by not in RANKED_BY:
            raise RequestError(f"by is {by!r}; choose one of {', '.join(RANKED_BY)}")
        if taps is not None:
            taps = replace(taps, capture=())
            check_taps(self.config, taps)
        listed = _checked(choices)
        wholes, border = self._wholes(query, listed)
        front = self._front
        alone = [] if front is None else [[front, *ids[border:]] for ids in wholes]
        found = self._scored(wholes, border, alone, taps, progress)
        count = len(listed)
        unconditional = [_sum(x) for x in found[count:]] or [math.nan] * count
        scores = [
            ChoiceScore(
                choice=choice if isinstance(choice, str) else tuple(choice),
                index=i,
                token_ids=wholes[i][border:],
                logprobs=found[i],
                unconditional=unconditional[i],
                num_bytes=self._num_bytes(choice),
            )
            for i, choice in enumerate(listed)
        ]
        self._check_by(by, scores)
        ordered = sorted(scores, key=lambda score: -getattr(score, by))
        return Ranking(by, tuple(ordered), border)

    @property
    def _front(self) -> int | None:
        """The token that a text without a query stands behind."""
        own = () if self.tokenizer is None else self.tokenizer.eos_token_ids
        bos = None if self.tokenizer is None else self.tokenizer.bos_token_id
        return bos if bos is not None else next(iter((*own, *self.eos_token_ids)), None)

    def _wholes(self, query: Prompt, choices: Sequence[Prompt]) -> tuple[list[list[int]], int]:
        """Token ids of the query with each choice, and how many of them all share with it."""
        before = self.encode(query)
        wholes = []
        for i, choice in enumerate(choices):
            if isinstance(query, str) and isinstance(choice, str):
                whole = self.encode(query + choice)
            else:
                whole = [*before, *self._plain(choice)]
            if whole == before:
                raise RequestError(
                    f"choice {i} is {choice!r}, which adds no token to the query; leave it out, or "
                    "let it have text that the tokenizer keeps"
                )
            wholes.append(whole)
        columns = zip(before, *wholes, strict=False)
        border = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        if border:
            return wholes, border
        if self._front is None:
            raise RequestError(
                f"the query {query!r} has no token that stays the same before every choice, and "
                "the model names no BOS or EOS token to stand there; give a longer query"
            )
        return [[self._front, *whole] for whole in wholes], 1

    def _plain(self, choice: Prompt) -> list[int]:
        if isinstance(choice, str) and self.tokenizer is not None:
            return self.tokenizer.encode(choice, add_special_tokens=False)
        return self.encode(choice)

    def _scored(
        self,
        wholes: Sequence[list[int]],
        border: int,
        alone: Sequence[list[int]],
        taps: Taps | None,
        progress: bool,
    ) -> list[np.ndarray]:
        """Logprobs of each whole's tokens from the border on, then of `alone`'s from 1 on."""
        engine, drive, ids = self.engine, self.driver, []
        shared = self._computed(wholes[0][:border], taps) if len(wholes) > 1 else None
        try:
            for i, whole in enumerate(wholes):
                ids.append(_add(engine, i, whole, border, taps, shared))
            for i, tokens in enumerate(alone):
                ids.append(_add(engine, i, tokens, 1, taps, None))
            drive.run(ids, progress)
        except BaseException:
            drive.abandon(ids)
            raise
        finally:
            if shared is not None:
                engine.release(shared)
        trackers = [engine.take_tracker(i) for i in ids]
        found = []
        for i, tracker in enumerate(trackers):
            if tracker.error is not None:
                raise RequestError(f"choice {i % len(wholes)}: {tracker.error}")
            assert tracker.prompt_scores is not None
            found.append(tracker.prompt_scores.chosen[border if i < len(wholes) else 1 :])
        return found

    def _computed(self, query: list[int], taps: Taps | None) -> Snapshot | None:
        """The query in the cache, where it is long enough to be worth a run of its own."""
        if len(query) <= self.engine_config.page_size or self.config.is_recurrent:
            return None
        params = replace(SCORED, prompt_logprobs=None)
        request = self.engine.add(query, params, taps=taps, score_only=True, keep=True)
        self.driver.run([request])
        tracker = self.engine.take_tracker(request)
        if tracker.error is not None:
            raise RequestError(f"the query: {tracker.error}")
        return tracker.snapshots[0]

    def _num_bytes(self, choice: Prompt) -> int | None:
        if not isinstance(choice, str):
            if self.tokenizer is None:
                return None
            choice = self.tokenizer.decode(choice, skip_special_tokens=False)
        return len(choice.encode("utf-8", "surrogatepass"))

    def _check_by(self, by: str, scores: Sequence[ChoiceScore]) -> None:
        if by == "mutual_information" and self._front is None:
            raise RequestError(
                "mutual_information needs a BOS or EOS token to stand before a choice alone, and "
                "the model names neither; choose another `by`"
            )
        if by == "per_byte" and not all(score.num_bytes for score in scores):
            raise RequestError(
                "per_byte needs the bytes of every choice, and one is of token ids without a text; "
                "choose another `by`"
            )


def _add(
    engine: Engine,
    index: int,
    tokens: list[int],
    first: int,
    taps: Taps | None,
    after: Snapshot | None,
) -> int:
    """Queue a run; an error names the choice."""
    try:
        return engine.add(tokens, SCORED, taps=taps, score_only=True, score_from=first, after=after)
    except FerrumError as error:
        error.args = (f"choice {index}: {error}",)
        raise


def _checked(choices: Any) -> list[Prompt]:
    """The choices as a list.

    Raises:
        RequestError: there are none, they are no list, or one is empty or no prompt.
    """
    if isinstance(choices, str) or not hasattr(choices, "__iter__"):
        raise RequestError(f"choices is {choices!r}; give a list of texts or of lists of token ids")
    listed: list[Prompt] = []
    for i, choice in enumerate(choices):
        if not isinstance(choice, str) and not hasattr(choice, "__iter__"):
            raise RequestError(
                f"choice {i} is {choice!r}; give a text or a list of token ids for each"
            )
        listed.append(choice if isinstance(choice, str) else list(choice))
        if not listed[-1]:
            raise RequestError(f"choice {i} is empty; its likelihood is 1 whatever the query")
    if not listed:
        raise RequestError("there are no choices; give at least one")
    return listed


def _sum(logprobs: np.ndarray) -> float:
    return float(np.sum(logprobs, dtype=np.float64))
