"""Steps an engine on behalf of calls that wait for some of its requests, and of streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from tqdm import tqdm

from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.prompts import Prompt, per_prompt, prompt_text
from ferrum_jax.runtime.taps.capture import CapturedChunk
from ferrum_jax.types import FerrumError, RequestError, SamplingParams, Score, StreamDelta

SCORING = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)
"""Of texts that are scored."""


def add_all(
    drivers: Sequence[Driver],
    encode: Callable[[Prompt], Sequence[int]],
    prompts: Sequence[Prompt],
    service: dict[str, Any],
    *,
    score_only: bool = False,
) -> list[int]:
    """Queue all prompts, each with the engine of its driver, or none if one of them is refused.

    Args:
        service: what `Engine.add` takes by name, one for all prompts or one per prompt.

    Returns:
        The requests' ids, each of its own engine.
    """
    count = len(prompts)
    names = {"params": "SamplingParams"}
    columns = {k: per_prompt(names.get(k, k), v, count) for k, v in service.items()}
    ids: list[int] = []
    try:
        for i, (driver, prompt) in enumerate(zip(drivers, prompts, strict=True)):
            each = {name: column[i] for name, column in columns.items()}
            text = prompt_text(prompt)
            try:
                added = driver.engine.add(
                    encode(prompt), prompt=text, score_only=score_only, **each
                )
            except FerrumError as error:
                if count > 1:
                    error.args = (f"prompt {i}: {error}",)
                raise
            ids.append(added)
    except BaseException:
        for driver, request in zip(drivers, ids, strict=False):
            driver.abandon([request])
        raise
    return ids


def scores_of(engines: Sequence[Engine], ids: Sequence[int]) -> list[Score]:
    """The scores of texts that have run, each of its engine.

    Raises:
        RequestError: one of them failed.
    """
    trackers = [engine.take_tracker(i) for engine, i in zip(engines, ids, strict=True)]
    scores = []
    for tracker in trackers:
        if tracker.error is not None:
            raise RequestError(f"text {len(scores)}: {tracker.error}")
        found = tracker.prompt_scores
        assert found is not None
        scores.append(Score(list(found.token_ids), found.chosen, found.rank))
    return scores


def run_together(work: Sequence[tuple[Driver, Sequence[int]]], progress: bool = False) -> None:
    """Step engines in turns until the requests of each have ended.

    An engine that runs ahead leaves a step on its devices when its turn is over, so the devices of
    all of them are at work. If interrupted, the requests are aborted.
    """
    waiting, tokens = [(driver, set(ids)) for driver, ids in work], 0
    with tqdm(total=sum(len(ids) for _, ids in work), unit="request", disable=not progress) as bar:
        try:
            while any(left for _, left in waiting):
                for driver, left in waiting:
                    if left:
                        ended, gained = driver.advance(left)
                        bar.update(ended)
                        tokens += gained
                if progress and (elapsed := bar.format_dict["elapsed"]):
                    bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
        except BaseException:
            for driver, ids in work:
                driver.abandon(ids)
            raise


class Driver:
    """Whoever steps, every stream gets what is its own."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._inboxes: dict[int, deque[StreamDelta]] = {}

    def run(self, ids: Sequence[int], progress: bool = False) -> None:
        """Step until the requests have ended; if interrupted, abort them and leave."""
        run_together([(self, ids)], progress)

    def advance(self, waiting: set[int]) -> tuple[int, int]:
        """One step. Those that ended leave `waiting`; returns how many, and all tokens gained."""
        engine, before, tokens = self.engine, len(waiting), 0
        for delta in self._step():
            tokens += len(delta.token_ids)
            if delta.request_id in waiting and engine.is_done(delta.request_id):
                waiting.discard(delta.request_id)
                tokens += engine.num_scored(delta.request_id)
        return before - len(waiting), tokens

    def stream(self, request: int) -> Iterator[StreamDelta]:
        """What a request gains, as it comes; leaving the loop aborts the request."""
        self._inboxes[request] = deque()
        return self._deltas_of(request)

    def capture(
        self, prompts: Iterable[Any], add: Callable[[Any], int], *, window: int
    ) -> Iterator[CapturedChunk]:
        """Run prompts, at most `window` queued at a time, and yield what is captured of them.

        Args:
            add: queues a prompt and returns its request's id.
        """
        waiting = enumerate(prompts)
        running: dict[int, int] = {}
        try:
            while True:
                for index, prompt in islice(waiting, window - len(running)):
                    running[add(prompt)] = index
                if not running:
                    return
                self._step()
                for request, index in list(running.items()):
                    parts, ended = self.engine.drain_captured(request)
                    if ended:
                        del running[request]
                    for part in parts:
                        yield CapturedChunk(index, *part, done=ended and part is parts[-1])
        finally:
            self.abandon(list(running))

    def abandon(self, ids: Sequence[int]) -> None:
        """Abort requests, and drop those that have ended."""
        for i in ids:
            self.engine.abort(i)
            if self.engine.is_done(i):
                self.engine.take_tracker(i)

    def _deltas_of(self, request: int) -> Iterator[StreamDelta]:
        engine, inbox = self.engine, self._inboxes[request]
        try:
            while inbox or not engine.is_done(request):
                if not inbox:
                    self._step()
                while inbox:
                    yield inbox.popleft()
            if (error := engine.take_tracker(request).error) is not None:
                raise RequestError(error)
        finally:
            del self._inboxes[request]
            self.abandon([request])

    def _step(self) -> list[StreamDelta]:
        """Step the engine; what streams gained waits in their inboxes."""
        deltas = self.engine.step()
        for delta in deltas:
            if delta.request_id in self._inboxes:
                self._inboxes[delta.request_id].append(delta)
        return deltas
