"""Steps an engine on behalf of calls that wait for some of its requests, and of streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from tqdm import tqdm

from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.taps.capture import CapturedChunk
from ferrum_jax.types import RequestError, StreamDelta


class Driver:
    """Whoever steps, every stream gets what is its own."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._inboxes: dict[int, deque[StreamDelta]] = {}

    def run(self, ids: Sequence[int], progress: bool = False) -> None:
        """Step until the requests have ended; if interrupted, abort them and leave."""
        engine, waiting, tokens = self._engine, set(ids), 0
        with tqdm(total=len(ids), unit="request", disable=not progress) as bar:
            try:
                while waiting:
                    for delta in self._step():
                        tokens += len(delta.token_ids)
                        if delta.request_id in waiting and engine.is_done(delta.request_id):
                            waiting.discard(delta.request_id)
                            tokens += engine.num_scored(delta.request_id)
                            bar.update()
                    if progress and (elapsed := bar.format_dict["elapsed"]):
                        bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
            except BaseException:
                self.abandon(ids)
                raise

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
                    parts, ended = self._engine.drain_captured(request)
                    if ended:
                        del running[request]
                    for part in parts:
                        yield CapturedChunk(index, *part, done=ended and part is parts[-1])
        finally:
            self.abandon(list(running))

    def abandon(self, ids: Sequence[int]) -> None:
        """Abort requests, and drop those that have ended."""
        for i in ids:
            self._engine.abort(i)
            if self._engine.is_done(i):
                self._engine.take_tracker(i)

    def _deltas_of(self, request: int) -> Iterator[StreamDelta]:
        engine, inbox = self._engine, self._inboxes[request]
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
        deltas = self._engine.step()
        for delta in deltas:
            if delta.request_id in self._inboxes:
                self._inboxes[delta.request_id].append(delta)
        return deltas
