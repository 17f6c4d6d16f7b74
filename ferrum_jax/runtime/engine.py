"""The engine: requests in, tokens out, one continuously batched step at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.kv import BlockTableManager, host_pages, plan_cache
from ferrum_jax.models import Params
from ferrum_jax.runtime.compile_cache import use_compile_cache
from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.executor import Executor
from ferrum_jax.runtime.few_rows import params_of_steps
from ferrum_jax.runtime.intake import Intake, checked_priority
from ferrum_jax.runtime.loop import StepLoop
from ferrum_jax.runtime.mesh import pooled_bytes
from ferrum_jax.runtime.metrics import MetricsRecorder
from ferrum_jax.runtime.report import EngineReport
from ferrum_jax.runtime.speculation.drafter import make_drafter
from ferrum_jax.runtime.speculation.model import load_draft, with_layers_of
from ferrum_jax.runtime.states import check_states
from ferrum_jax.runtime.taps.capture import CaptureBuffer, CapturedPart
from ferrum_jax.runtime.timeline import Timeline
from ferrum_jax.runtime.tracker import PromptScores, RequestTracker
from ferrum_jax.scheduler import ContinuousScheduler, make_policy
from ferrum_jax.types import (
    DataType,
    EngineConfig,
    FinishReason,
    ModelConfig,
    Priority,
    Request,
    RequestError,
    RequestOutput,
    SamplingParams,
    Snapshot,
    StepShape,
    StreamDelta,
    Taps,
)
from ferrum_jax.types import Sequence as RunningSequence


class Engine:
    """Runs any number of requests against one model.

    `add` queues a request, `step` advances all of them and returns what they gained. With
    `run_ahead` the host reads a step's tokens while the next step is already on the device.

        engine.add([1, 5, 9], SamplingParams(max_tokens=8))
        while engine.has_work:
            for delta in engine.step(): ...

    The cache is a value: `fork`, `snapshot`, `resume` and `rewind` share pages and copy a page
    only when it is written to.
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
        use_compile_cache(engine.compile_cache_dir)
        check_states(config, engine)
        many_rows, few_rows = params_of_steps(params, engine, device_info())
        device, dtype = device_info(), str(params.embed.dtype)  # less free than before the copies
        draft = load_draft(engine, dtype=dtype, max_len=max_model_len, tokenizer=tokenizer)
        paged = with_layers_of(config, None if draft is None else draft[0])
        self.kv = plan_cache(
            paged,
            engine,
            dtype=DataType.parse(dtype),
            max_model_len=max_model_len,
            free_bytes=pooled_bytes(device, engine),
        )
        self.config = config
        self.max_model_len = max_model_len
        self._engine = engine
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._blocks = BlockTableManager(
            self.kv,
            prefix_caching=engine.prefix_caching,
            eviction=engine.eviction,
            num_host_pages=host_pages(paged, engine, self.kv),
        )
        self._intake = Intake(engine, self._blocks, config, max_model_len, tokenizer, self._eos)
        guides = self._intake.guides
        self._scheduler = ContinuousScheduler(
            engine, self._blocks, make_policy(engine), max_model_len, not config.is_recurrent
        )
        options: dict[str, Any] = {"max_model_len": max_model_len, "device": device}
        options |= {"few_rows_params": few_rows, "draft": draft}
        self._executor = Executor(config, many_rows, engine, self.kv, guides, **options)
        recorder = MetricsRecorder(
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            num_pages=self._blocks.num_total,
        )
        drafter = make_drafter(engine.speculation, self._executor, self._scheduler, guides)
        parts = (self._scheduler, self._executor, self._blocks, recorder, guides, drafter)
        self._loop = StepLoop(*parts, run_ahead=engine.run_ahead)
        self.metrics = EngineReport(recorder, self._scheduler, self._blocks, self._executor)
        self._ids = count()

    @property
    def has_work(self) -> bool:
        """Whether a request has not ended; what is in flight for others needs no reading."""
        return bool(self._loop.running)

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
    def scheduler(self) -> ContinuousScheduler:
        return self._scheduler

    @property
    def blocks(self) -> BlockTableManager:
        return self._blocks

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
        priority: Priority | int | str = Priority.NORMAL,
        client: str = "",
        timeout: float | None = None,
        cache_salt: str = "",
        taps: Taps | None = None,
        score_only: bool = False,
        score_from: int = 1,
        streams: bool = False,
        keep: bool = False,
        after: Snapshot | None = None,
    ) -> int:
        """Queue a request and return its id.

        Args:
            priority: for the policy `priority`: low, normal, high or critical.
            client: whose work it is, for the policy `fair_share`.
            timeout: seconds after which the request ends as it stands, with reason `timeout`.
            cache_salt: cached pages are shared only between requests of one salt.
            taps: edits of the request, and what to capture of it (`drain_captured`). Cached pages
                are shared only between requests of the same edits.
            score_only: run the prompt, generate nothing.
            score_from: the first prompt token whose logprob `params.prompt_logprobs` is after.
            streams: decode the text as it comes, for `step`'s deltas.
            keep: let every completion that ends for its length leave a snapshot, in
                `take_tracker(id).snapshots`.
            after: a snapshot whose tokens the prompt begins with; its pages are shared, unless
                it has other edits, as far as prompt logprobs and captures need no run of them.

        Raises:
            RequestError: an empty or too long prompt, a token id outside the vocabulary, or a
                wrong value of an argument.
            ResourceExhausted: the prompt can never fit the KV pages, or `max_waiting` wait.
        """
        self._loop.recover()
        request = self._intake.request(
            next(self._ids),
            prompt_token_ids,
            params,
            prompt=prompt,
            service=(priority, client, timeout, cache_salt),
            taps=taps,
            score_only=score_only,
            score_from=score_from,
        )
        sequences = self._intake.sequences(request)
        self._scheduler.check_queue(len(sequences))
        if request.taps is not None:
            self.executor.expect(request.taps)
        shared = 0 if after is None else self._shared(after, request)
        if after is None or not shared:
            self._scheduler.add(sequences[0])
        else:
            self._scheduler.fork(after.blocks, shared, sequences[0])
        self._loop.track(self._tracker(request, sequences, streams, keep))
        return request.request_id

    def step(self) -> list[StreamDelta]:
        """Dispatch the next step and read the one before; returns what the requests gained.

        Raises:
            DeviceError: the device failed; every running request ends with an error, and the
                engine can be used again.
        """
        return self._loop.step()

    def abort(self, request_id: int) -> None:
        """End a request wherever it stands; its pages are free at once. Twice does no harm."""
        self._loop.stop(request_id, FinishReason.ABORT)

    def update_priority(self, request_id: int, priority: Priority | int | str) -> None:
        """Change how urgent a request is, whether it waits or runs.

        Raises:
            RequestError: it is no priority, or the request has ended.
        """
        level = checked_priority(priority)
        for builder in self._loop.tracker(request_id).builders:
            self._scheduler.update_priority(builder.sequence, level)

    def preempt(self, request_id: int, index: int = 0) -> None:
        """Let a running completion give way now, as it would when pages run out.

        Raises:
            RequestError: there is no such completion that has not ended.
            SchedulerError: it does not run.
        """
        self._scheduler.preempt(self._loop.builder(request_id, index).sequence)

    def fork(self, request_id: int, *, index: int = 0, seed: int | None = None) -> int:
        """A twin of a completion, from where it stands now: a request of its own that shares its
        pages. Returns the twin's id.

        What was generated so far is the twin's too; from here on it samples by its own seed
        (None: a fresh one). Its output begins with the same tokens.

        Raises:
            RequestError: there is no such completion that has not ended.
        """
        builder = self._settled(request_id, index)
        parent = builder.sequence
        params = replace(parent.request.params, n=1, seed=seed)
        request = replace(
            parent.request, request_id=next(self._ids), params=params, arrival=time.monotonic()
        )
        (twin,) = self._intake.sequences(request)
        twin.token_ids, twin.priority = list(parent.token_ids), parent.priority
        twin.mirostat_mus = list(parent.mirostat_mus)
        self._scheduler.check_queue(1)
        self._scheduler.fork(parent.blocks, self._scheduler.num_shareable(parent), twin)
        tracker = self._tracker(request, [twin], builder.streams)
        tracker.builders[0].replay(builder)
        # Of the prompt's logprobs the twin computes only what its original has not yet.
        original = self._loop.running[request_id]
        tracker.prompt_scores = copy.deepcopy(original.prompt_scores)
        tracker.captured = copy.deepcopy(original.captured)
        self._loop.track(tracker)
        return request.request_id

    def snapshot(self, request_id: int, *, index: int = 0) -> Snapshot:
        """A completion as it stands now: its tokens, and a share of its pages.

        Raises:
            RequestError: there is no such completion that has not ended.
        """
        return self._scheduler.snapshot(self._settled(request_id, index).sequence)

    def resume(self, snapshot: Snapshot, params: SamplingParams, **options: Any) -> int:
        """A request whose prompt is the snapshot's tokens; `options` are those of `add`."""
        options = {"cache_salt": snapshot.cache_salt, "taps": snapshot.taps, **options}
        return self.add(snapshot.token_ids, params, after=snapshot, **options)

    def release(self, snapshot: Snapshot) -> None:
        """Give a snapshot's pages back; idempotent. Its tokens stay good."""
        self._scheduler.drop(snapshot)

    def rewind(self, request_id: int, num_tokens: int, *, index: int = 0) -> None:
        """Take back the last `num_tokens` generated tokens; the completion goes on from there.

        Raises:
            RequestError: there is no such completion that has not ended, or it has generated
                fewer tokens, or its request streams.
        """
        builder = self._settled(request_id, index)
        sequence, generated = builder.sequence, builder.num_tokens
        if isinstance(num_tokens, bool) or not isinstance(num_tokens, int):
            raise RequestError(f"num_tokens is {num_tokens!r}; it must be an integer")
        if not 0 <= num_tokens <= generated:
            raise RequestError(
                f"{num_tokens} tokens cannot be taken back from {generated} generated ones"
            )
        if builder.streams:
            raise RequestError("a request that streams has sent its text; stream its fork instead")
        if num_tokens:
            self._scheduler.rewind(sequence, len(sequence.token_ids) - num_tokens)
            self._executor.forget(sequence)
            self._executor.refresh(sequence)
            builder.rewind()

    def clear_prefix_cache(self) -> None:
        """Forget all cached prefixes; what runs goes on."""
        self._blocks.clear_prefixes()

    def take(self, request_id: int) -> RequestOutput:
        """The output of a request that has ended; the engine forgets it.

        Raises:
            RequestError: it has not ended, or there is none of that id.
        """
        return self.take_tracker(request_id).output()

    def take_tracker(self, request_id: int) -> RequestTracker:
        """`take`, before its logprobs are put into tables."""
        tracker = self._loop.done.pop(request_id, None)
        if tracker is None:
            state = (
                "still running" if request_id in self._loop.running else "unknown or taken already"
            )
            raise RequestError(f"request {request_id} is {state}; take it once, after it has ended")
        return tracker

    def drain_captured(self, request_id: int) -> tuple[list[CapturedPart], bool]:
        """What was captured of a request since the last call, and whether it has ended.

        One that has ended is taken: the engine forgets it.

        Raises:
            RequestError: it failed, or there is none of that id.
        """
        ended = request_id in self._loop.done
        tracker = self.take_tracker(request_id) if ended else self._loop.tracker(request_id)
        if tracker.error is not None:
            raise RequestError(tracker.error)
        return [] if tracker.captured is None else tracker.captured.take(), ended

    def is_done(self, request_id: int) -> bool:
        """Whether a request has ended and was not taken yet."""
        return request_id in self._loop.done

    def num_scored(self, request_id: int) -> int:
        """Prompt tokens whose logprobs a request that is done has brought."""
        tracker = self._loop.done[request_id]
        return 0 if tracker.prompt_scores is None else len(tracker.request.prompt_token_ids)

    def record_timeline(self, timeline: Timeline | None) -> None:
        """Let a timeline take in every step from now on; None: no longer."""
        self._loop.timeline = timeline

    def _shared(self, snapshot: Snapshot, request: Request) -> int:
        """Tokens of a request's prompt whose pages a snapshot shares with it.

        Raises:
            RequestError: the prompt does not begin with the snapshot's tokens.
        """
        prompt, tokens = request.prompt_token_ids, snapshot.token_ids
        if prompt[: len(tokens)] != tokens:
            raise RequestError(
                f"the prompt of {len(prompt)} tokens does not begin with the snapshot's "
                f"{len(tokens)}; give a prompt that does, without truncate_prompt_tokens, or no "
                "snapshot"
            )
        if request.edits_digest != snapshot.edits_digest:
            return 0
        return min(self._scheduler.num_held(snapshot), request.num_shareable(len(prompt) - 1))

    def _settled(self, request_id: int, index: int) -> CompletionBuilder:
        """A completion that has not ended, all its tokens known."""
        self._loop.builder(request_id, index)
        self._loop.settle()
        return self._loop.builder(request_id, index)

    def _tracker(
        self, request: Request, sequences: list[RunningSequence], streams: bool, keeps: bool = False
    ) -> RequestTracker:
        return RequestTracker(
            request=request,
            builders=[
                CompletionBuilder(s, self._tokenizer, self._eos, s.seed, streams) for s in sequences
            ],
            prompt_scores=PromptScores.of(request),
            captured=CaptureBuffer(taps) if (taps := request.taps) and taps.capture else None,
            keeps=keeps,
        )
