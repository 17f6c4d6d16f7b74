"""The engine's loop: form a step, dispatch it, read the one before, hand out what it brought."""

from __future__ import annotations

import heapq
import time

import jax

from ferrum_jax.interfaces import BlockManager, ModelExecutor
from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.metrics import MetricsRecorder
from ferrum_jax.runtime.results import StepResults
from ferrum_jax.runtime.speculation.drafter import Drafter
from ferrum_jax.runtime.timeline import Timeline
from ferrum_jax.runtime.tracker import RequestTracker
from ferrum_jax.scheduler import ContinuousScheduler
from ferrum_jax.types import (
    DeviceError,
    FinishReason,
    RequestError,
    Schedule,
    ScheduledChunk,
    Sequence,
    StepOutput,
    StreamDelta,
)


class StepLoop:
    """Keeps account of every request until it is taken.

    The completions of one request start with its first: when that has run its prompt, the others
    fork from it and compute the prompt's last token only.
    """

    def __init__(
        self,
        scheduler: ContinuousScheduler,
        executor: ModelExecutor,
        blocks: BlockManager,
        recorder: MetricsRecorder,
        guides: Guides,
        drafter: Drafter | None,
        *,
        run_ahead: bool,
    ):
        self._scheduler, self._executor, self._blocks = scheduler, executor, blocks
        self._recorder, self._guides, self._drafter = recorder, guides, drafter
        # A draft follows tokens that are known, and verifying one tells how many those are.
        self._run_ahead = run_ahead and drafter is None
        self.timeline: Timeline | None = None
        self.running: dict[int, RequestTracker] = {}
        self.done: dict[int, RequestTracker] = {}
        self._owners: dict[Sequence, tuple[RequestTracker, CompletionBuilder]] = {}
        """Of the sequences that have not ended."""
        self._alone: dict[Sequence, CompletionBuilder] = {}
        """Of those, the ones whose steps bring tokens alone."""
        self._followers: dict[int, list[Sequence]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._in_flight: tuple[tuple[Schedule, StepOutput], ...] = ()
        self._deltas: list[StreamDelta] = []
        self._broken_off = False

    def track(self, tracker: RequestTracker) -> None:
        """Take a new request in; its first sequence is queued by the caller."""
        request = tracker.request
        self.running[request.request_id] = tracker
        self._owners |= {builder.sequence: (tracker, builder) for builder in tracker.builders}
        if not tracker.watched:
            alone = (builder for builder in tracker.builders if builder.tokens_alone)
            self._alone |= {builder.sequence: builder for builder in alone}
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.request_id))
        if len(tracker.builders) > 1:
            followers = [builder.sequence for builder in tracker.builders[1:]]
            self._followers[request.request_id] = followers

    def step(self) -> list[StreamDelta]:
        """Dispatch the next step and read the one before.

        Raises:
            DeviceError: the device failed; what ran ends with an error at the next call.
        """
        self.recover()
        self._broken_off = True
        started = time.monotonic()
        try:
            self._step(started)
        except jax.errors.JaxRuntimeError as error:
            raise DeviceError(
                f"the device failed while running a step: {error}; if memory ran out, lower "
                "EngineConfig.memory_fraction, num_pages or max_num_batched_tokens"
            ) from error
        self._broken_off = False
        self._recorder.note_step_end(time.monotonic() - started)
        deltas, self._deltas = self._deltas, []
        return deltas

    def settle(self) -> None:
        """Read what is in flight: then every token is known."""
        self.recover()
        self._land()

    def recover(self) -> None:
        """After an exception broke a step off, at whatever point: nothing that ran can go on."""
        if not self._broken_off:
            return
        self._in_flight, self._broken_off = (), False
        for tracker in list(self.running.values()):
            tracker.fail("the step that ran this request was broken off")
            self.stop(tracker.request.request_id, FinishReason.ERROR)
        self._scheduler.drop_all_pages()
        self._blocks.clear_prefixes()
        self._executor.reset()

    def stop(self, request_id: int, reason: FinishReason) -> None:
        """End a request wherever it stands; one that has ended is left alone."""
        tracker = self.running.get(request_id)
        if tracker is None:
            return
        self._followers.pop(request_id, None)
        for builder in tracker.builders:
            if not builder.sequence.finished:
                self._end(tracker, builder, builder.finish(reason))

    def tracker(self, request_id: int) -> RequestTracker:
        """A request that has not ended.

        Raises:
            RequestError: there is none of that id.
        """
        if request_id not in self.running:
            raise RequestError(f"request {request_id} has no completion that is still running")
        return self.running[request_id]

    def builder(self, request_id: int, index: int) -> CompletionBuilder:
        """A completion that has not ended.

        Raises:
            RequestError: there is none such.
        """
        tracker = self.running.get(request_id)
        builders = [] if tracker is None else tracker.builders
        if not 0 <= index < len(builders) or builders[index].sequence.finished:
            raise RequestError(
                f"request {request_id} has no completion {index} that is still running"
            )
        return builders[index]

    def _step(self, started: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= started:
            self.stop(heapq.heappop(self._deadlines)[1], FinishReason.TIMEOUT)
        if self._drafter is not None:
            self._drafter.draft(self._scheduler.running)
        schedule = self._scheduler.schedule()
        for sequence in schedule.admitted:
            self.running[sequence.request.request_id].note_scheduled()
        outputs = self._executor.execute(schedule)
        if self._followers:
            self._fork_followers(schedule)
        self._recorder.note_step(schedule, started=started, free_pages=self._blocks.num_free)
        landed, self._in_flight = self._in_flight, outputs
        for part in landed:
            self._collect(*part)
        if not self._run_ahead:
            self._land()
        if self.timeline is not None:
            self._draw(schedule, started)

    def _land(self) -> None:
        landed, self._in_flight = self._in_flight, ()
        for part in landed:
            self._collect(*part)

    def _draw(self, schedule: Schedule, started: float) -> None:
        assert self.timeline is not None
        self.timeline.record(
            schedule,
            started,
            time.monotonic(),
            self._scheduler.num_running,
            self._scheduler.num_waiting,
            self._blocks.num_total - self._blocks.num_free,
        )

    def _fork_followers(self, schedule: Schedule) -> None:
        """Start the other completions of requests whose prompt this step completes."""
        for chunk in schedule.chunks:
            leader = chunk.sequence
            request_id, known = leader.request.request_id, leader.prompt_len - 1
            if leader.num_scheduled > known and leader.index == 0:
                for follower in self._followers.pop(request_id, ()):
                    self._scheduler.fork(leader.blocks, known, follower)

    def _collect(self, schedule: Schedule, output: StepOutput) -> None:
        """Read a step's results and hand them to their sequences."""
        results = StepResults(schedule, output)
        # Most rows are a token whose text nobody waits for: they take a look at few objects.
        plain = results.one_each and not results.any_failed and self._drafter is None
        alone = self._alone if plain else {}
        tokens, read_at, columns = results.tokens, results.read_at, schedule.columns
        rows = zip(columns.sequences, columns.samples, columns.steps, strict=True)
        for row, (sequence, samples, steps) in enumerate(rows):
            if samples:
                sequence.num_pending -= steps
                builder, known, token = alone.get(sequence), sequence.token_ids, tokens[row]
                if (
                    builder is not None
                    and len(known) + 1 < sequence.max_len
                    and token not in builder.ends
                ):
                    known.append(token)
                    builder.token_times.append(read_at)
                    continue
            if sequence in self._owners:  # Else it has ended.
                self._collect_row(schedule.chunks[row], results, row)

    def _collect_row(self, chunk: ScheduledChunk, results: StepResults, row: int) -> None:
        """All that a row may have brought."""
        tracker, builder = self._owners[chunk.sequence]
        sequence, places, end = chunk.sequence, results.places(row), chunk.end
        if results.any_failed and self._fails(tracker, builder, results, places[0], end):
            return
        if tracker.prompt_scores is not None:
            results.fill(tracker.prompt_scores, row)
        count = self._take(tracker, builder, chunk, results, places) if chunk.samples else 0
        if tracker.captured is not None:
            tokens = sequence.token_ids[chunk.start : end + max(0, count - 1)]
            values = results.captured(row, len(tokens))
            tracker.captured.put(chunk.start, tokens, values)
        if sequence.score_only and end == len(sequence.token_ids):
            self._end(tracker, builder, builder.finish(FinishReason.LENGTH))

    def _take(
        self,
        tracker: RequestTracker,
        builder: CompletionBuilder,
        chunk: ScheduledChunk,
        results: StepResults,
        places: range,
    ) -> int:
        """Hand a row's tokens to its sequence, until it ends; how many."""
        if builder.tokens_alone and not results.any_failed and self._drafter is None:
            tokens = [results.tokens[place] for place in places]
            if builder.extend(tokens, results.read_at):
                return len(tokens)
        sequence, drafted, accepted = builder.sequence, len(chunk.draft), len(places) - 1
        end = chunk.end
        if self._drafter is not None:
            self._scheduler.note_verified(sequence, end + accepted)
            self._drafter.note(sequence, drafted, accepted)
            self._recorder.note_draft(drafted, accepted)
            tracker.note_draft(drafted, accepted)
        for i, place in enumerate(places):
            if results.any_failed and self._fails(tracker, builder, results, place, end + i):
                return i
            self._push(tracker, builder, results, place)
            if sequence.finished:
                return i + 1
        self._guides.begin(sequence)
        return len(places)

    def _fails(
        self,
        tracker: RequestTracker,
        builder: CompletionBuilder,
        results: StepResults,
        place: int,
        length: int,
    ) -> bool:
        """End a sequence that has no next token; whether it had none."""
        if results.failed[place]:
            tracker.fail(
                "the model's logits were not finite (nan or infinity) after token "
                f"{length}; check the weights, the dtype and the edits"
            )
        elif results.stuck[place]:
            tracker.fail(self._why_stuck(builder.sequence, length))
        else:
            return False
        self._end(tracker, builder, builder.finish(FinishReason.ERROR))
        return True

    def _why_stuck(self, sequence: Sequence, end: int) -> str:
        guided = sequence.request.params.guided is not None
        reason = self._guides.error(sequence)
        reason = f" (its grammar: {reason})" if reason else ""
        return (
            f"no token is left to sample after token {end}{reason}: {'guided, ' * guided}"
            "allowed_token_ids, bad_words, min_tokens or logits_processors exclude all; loosen one "
            "of them"
        )

    def _push(
        self, tracker: RequestTracker, builder: CompletionBuilder, results: StepResults, place: int
    ) -> None:
        sequence, token = builder.sequence, results.tokens[place]
        params = sequence.request.params
        if params.mirostat is not None:
            sequence.mirostat_mus.append(results.mirostat_mu(place))
        builder.token_times.append(results.read_at)
        logprobs = None
        if params.num_logprobs is not None:
            logprobs = results.logprobs(place, params.num_logprobs, params.logprob_token_ids)
        text = builder.push(token, logprobs)
        if sequence.finish_reason is None and self._guides.note(sequence):
            text += builder.finish(FinishReason.STOP)
        if sequence.finish_reason is not None:
            self._end(tracker, builder, text)
        elif builder.streams:
            self._deltas.append(builder.delta(text))

    def _end(self, tracker: RequestTracker, builder: CompletionBuilder, text: str) -> None:
        """Free what a sequence holds, and the request when it was its last."""
        sequence, request_id = builder.sequence, tracker.request.request_id
        if tracker.keeps and sequence.finish_reason is FinishReason.LENGTH:
            tracker.snapshots[sequence.index] = self._scheduler.snapshot(sequence)
        del self._owners[sequence]
        self._alone.pop(sequence, None)
        self._scheduler.finish(sequence)
        self._executor.forget(sequence)
        self._guides.forget(sequence)
        if self._drafter is not None:
            self._drafter.forget(sequence)
        self._deltas.append(builder.delta(text))
        tracker.unfinished.discard(sequence.index)
        # Whoever waited for this one's prompt computes it alone.
        for follower in self._followers.pop(request_id, ()) if sequence.index == 0 else ():
            self._scheduler.add(follower)
        if tracker.finished:
            self.done[request_id] = self.running.pop(request_id)
            reasons = [b.sequence.finish_reason for b in tracker.builders]
            self._recorder.note_finished(tracker.metrics(), [r for r in reasons if r is not None])
