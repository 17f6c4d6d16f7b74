"""The engine: requests in, tokens out, one continuously batched step at a time."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import count

import jax
import numpy as np

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.kv import BlockTableManager, plan_cache
from ferrum_jax.models import Params
from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.devices import device_info, use_compile_cache
from ferrum_jax.runtime.executor import Executor
from ferrum_jax.runtime.tracker import HostLogprobs, PromptScores, RequestTracker
from ferrum_jax.scheduler import ContinuousScheduler, check_fits, make_policy, sequence_limit
from ferrum_jax.types import (
    DataType,
    DeviceError,
    EngineConfig,
    FinishReason,
    ModelConfig,
    Priority,
    Request,
    RequestError,
    RequestOutput,
    SamplingParams,
    Schedule,
    StepOutput,
    StepShape,
    StreamDelta,
)
from ferrum_jax.types import Sequence as RunningSequence


class Engine:
    """Runs any number of requests against one model.

    `add` queues a request, `step` advances all of them and returns what they gained. With
    `run_ahead` the host reads a step's tokens while the next step is already on the device.

        engine.add([1, 5, 9], SamplingParams(max_tokens=8))
        while engine.has_work:
            for delta in engine.step(): ...
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        engine: EngineConfig,
        *,
        max_model_len: int,
        tokenizer: Tokenizer | None = None,
        eos_token_ids: Iterable[int] = (),
    ):
        if engine.compile_cache_dir is not None:
            use_compile_cache(engine.compile_cache_dir)
        device = device_info()
        dtype = DataType.parse(str(params.embed.dtype))
        self.kv = plan_cache(
            config,
            engine,
            dtype=dtype,
            max_model_len=max_model_len,
            free_bytes=device.free_bytes,
        )
        self.config = config
        self.max_model_len = max_model_len
        self._engine = engine
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._blocks = BlockTableManager(self.kv)
        self._scheduler = ContinuousScheduler(
            engine, self._blocks, make_policy(engine.policy), max_model_len
        )
        self._executor = Executor(
            config,
            params,
            engine,
            self.kv,
            max_model_len=max_model_len,
            platform=device.platform,
        )
        self._ids = count()
        self._trackers: dict[int, RequestTracker] = {}
        self._in_flight: tuple[Schedule, StepOutput] | None = None
        self._deltas: list[StreamDelta] = []
        self._broken_off = False
        self._done: dict[int, RequestTracker] = {}

    @property
    def has_work(self) -> bool:
        """Whether a request has not ended; what is in flight for others needs no reading."""
        return bool(self._trackers)

    @property
    def compilations(self) -> dict[StepShape, float]:
        """Seconds of each shape compiled so far."""
        return self._executor.compilations

    @property
    def declared_shapes(self) -> tuple[StepShape, ...]:
        """Every shape that may ever be compiled."""
        return self._executor.shapes

    @property
    def executor(self) -> Executor:
        return self._executor

    @property
    def free_pages(self) -> int:
        """KV pages that no sequence owns."""
        return self._blocks.num_free

    def warm_up(self) -> None:
        """Compile every declared shape, several at a time."""
        self._executor.warm_up()

    def add(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        prompt: str | None = None,
        priority: Priority = Priority.NORMAL,
        score_only: bool = False,
        streams: bool = False,
    ) -> int:
        """Queue a request and return its id.

        Args:
            score_only: compute the prompt's logprobs, generate nothing.
            streams: decode the text as it comes, for `step`'s deltas.

        Raises:
            RequestError: an empty or too long prompt, or a token id outside the vocabulary.
            ResourceExhausted: the prompt can never fit the KV pages.
        """
        if self._broken_off:
            self._restart()
        prompt_ids = self._checked(prompt_token_ids, params, score_only)
        request = Request(
            request_id=next(self._ids),
            prompt_token_ids=prompt_ids,
            params=params,
            prompt=prompt,
            priority=priority,
            score_only=score_only,
        )
        limit = len(prompt_ids) if score_only else self._limit(len(prompt_ids), params)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        sequences = [
            RunningSequence(request=request, index=i, max_len=limit, seed=seed)
            for i in range(1 if score_only else params.n)
        ]
        self._trackers[request.request_id] = RequestTracker(
            request=request,
            builders=[
                CompletionBuilder(s, self._tokenizer, self._eos, seed, streams) for s in sequences
            ],
            prompt_scores=None
            if params.prompt_logprobs is None
            else PromptScores(prompt_ids, params.prompt_logprobs),
        )
        for sequence in sequences:
            self._scheduler.add(sequence)
        return request.request_id

    def step(self) -> list[StreamDelta]:
        """Dispatch the next step and read the one before; returns what the requests gained.

        Raises:
            DeviceError: the device failed; every running request ends with an error, and the
                engine can be used again.
        """
        if self._broken_off:
            self._restart()
        self._broken_off = True
        try:
            self._step()
        except jax.errors.JaxRuntimeError as error:
            raise DeviceError(
                f"the device failed while running a step: {error}; if memory ran out, lower "
                "EngineConfig.memory_fraction, num_pages or max_num_batched_tokens"
            ) from error
        self._broken_off = False
        deltas, self._deltas = self._deltas, []
        return deltas

    def _step(self) -> None:
        schedule = self._scheduler.schedule()
        launched = None
        if schedule.chunks:
            launched = (schedule, self._executor.execute(schedule))
            for sequence in schedule.admitted:
                self._tracker_of(sequence).note_scheduled()
        landed, self._in_flight = self._in_flight, launched
        if landed is not None:
            self._collect(*landed)
        if self._in_flight is not None and not self._engine.run_ahead:
            landed, self._in_flight = self._in_flight, None
            self._collect(*landed)

    def _restart(self) -> None:
        """After an exception broke a step off, at whatever point: nothing that ran can go on."""
        self._in_flight, self._broken_off = None, False
        for tracker in list(self._trackers.values()):
            tracker.fail("the step that ran this request was broken off")
            for builder in tracker.builders:
                if not builder.sequence.finished:
                    self._end(tracker, builder, builder.finish(FinishReason.ERROR))
        self._executor.reset()

    def abort(self, request_id: int) -> None:
        """End a request wherever it stands; its pages are free at once. Twice does no harm."""
        tracker = self._trackers.get(request_id)
        if tracker is None:
            return
        for builder in tracker.builders:
            if not builder.sequence.finished:
                self._end(tracker, builder, builder.finish(FinishReason.ABORT))

    def take(self, request_id: int) -> RequestOutput:
        """The output of a request that has ended; the engine forgets it.

        Raises:
            RequestError: it has not ended, or there is none of that id.
        """
        return self.take_tracker(request_id).output()

    def take_tracker(self, request_id: int) -> RequestTracker:
        """`take`, before its logprobs are put into tables."""
        tracker = self._done.pop(request_id, None)
        if tracker is None:
            state = "still running" if request_id in self._trackers else "unknown or taken already"
            raise RequestError(f"request {request_id} is {state}; take it once, after it has ended")
        return tracker

    def is_done(self, request_id: int) -> bool:
        """Whether a request has ended and was not taken yet."""
        return request_id in self._done

    def num_scored(self, request_id: int) -> int:
        """Prompt tokens whose logprobs a request that is done has brought."""
        tracker = self._done[request_id]
        return 0 if tracker.prompt_scores is None else len(tracker.request.prompt_token_ids)

    def _checked(
        self, prompt: Sequence[int], params: SamplingParams, score_only: bool
    ) -> tuple[int, ...]:
        ids = tuple(prompt)
        if params.truncate_prompt_tokens is not None:
            ids = ids[-params.truncate_prompt_tokens :]
        vocab = self.config.vocab_size
        ids = checked_token_ids(ids, vocab)
        room = self.max_model_len - (0 if score_only else 1)
        if len(ids) > room:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; max_model_len = {self.max_model_len} leaves "
                f"room for {room}: shorten it, set truncate_prompt_tokens, or raise "
                "EngineConfig.max_model_len"
            )
        params.check_vocabulary(vocab)
        check_fits(len(ids), self._engine, self._blocks)
        return ids

    def _limit(self, prompt_len: int, params: SamplingParams) -> int:
        return sequence_limit(prompt_len, params.max_tokens, self.max_model_len, self._blocks)

    def _tracker_of(self, sequence: RunningSequence) -> RequestTracker:
        return self._trackers[sequence.request.request_id]

    def _collect(self, schedule: Schedule, output: StepOutput) -> None:
        """Read a step's results and hand them to their sequences."""
        tokens, failed = np.asarray(output.tokens).tolist(), np.asarray(output.failed).tolist()
        logprobs = prompt = None
        flat = 0
        for row, chunk in enumerate(schedule.chunks):
            sequence, params = chunk.sequence, chunk.sequence.request.params
            start, flat = flat, flat + chunk.length
            if chunk.samples:
                sequence.num_pending -= 1
            if sequence.finished:
                continue
            tracker = self._tracker_of(sequence)
            builder = tracker.builders[sequence.index]
            if failed[row]:
                tracker.fail(
                    "the model's logits were not finite (nan or infinity) after token "
                    f"{chunk.start + chunk.length}; check the weights, the dtype and the edits"
                )
                self._end(tracker, builder, builder.finish(FinishReason.ERROR))
                continue
            if tracker.prompt_scores is not None and output.prompt is not None:
                prompt = prompt or _to_host(output.prompt)
                tracker.prompt_scores.fill(chunk, start, prompt)
            if chunk.samples:
                entries = None
                if params.logprobs is not None:
                    logprobs = logprobs or _to_host(output.logprobs)
                    entries = logprobs.table(row, tokens[row], params.logprobs)
                self._push(tracker, builder, tokens[row], entries)
            elif sequence.request.score_only and chunk.start + chunk.length == len(
                sequence.token_ids
            ):
                self._end(tracker, builder, builder.finish(FinishReason.LENGTH))

    def _push(self, tracker: RequestTracker, builder: CompletionBuilder, token, entries) -> None:
        sequence = builder.sequence
        sequence.token_ids.append(token)
        tracker.note_token()
        text = builder.push(token, entries)
        if sequence.finish_reason is not None:
            self._end(tracker, builder, text)
        elif builder.streams:
            self._deltas.append(builder.delta(text))

    def _end(self, tracker: RequestTracker, builder: CompletionBuilder, text: str) -> None:
        """Free what a sequence holds, and the request when it was its last."""
        self._scheduler.finish(builder.sequence)
        self._deltas.append(builder.delta(text))
        tracker.unfinished.discard(builder.sequence.index)
        if tracker.finished:
            request_id = tracker.request.request_id
            self._done[request_id] = self._trackers.pop(request_id)


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


def _to_host(values) -> HostLogprobs:
    return HostLogprobs(
        chosen=np.asarray(values.chosen),
        rank=np.asarray(values.rank),
        top_ids=np.asarray(values.top_ids),
        top=np.asarray(values.top),
    )
