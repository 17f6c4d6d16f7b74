"""What requests and engines report of themselves, by a clock that is set by hand."""

import re
from dataclasses import replace

import pytest

from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.metrics import GAPS_PER_REQUEST, MetricsRecorder
from ferrum_jax.runtime.prometheus import to_prometheus
from ferrum_jax.runtime.tracker import RequestTracker
from ferrum_jax.types import (
    EngineMetrics,
    FinishReason,
    Metrics,
    Percentiles,
    Request,
    SamplingParams,
    Schedule,
    ScheduledChunk,
    Sequence,
)

SAMPLE = re.compile(r'^(?P<name>[a-z_]+)(?:\{(?P<key>[a-z_]+)="(?P<label>.*)"\})? (?P<value>\S+)$')
HEAD = re.compile(r"^# (?P<what>HELP|TYPE) (?P<name>[a-z_]+) (?P<text>.+)$")


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 100.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def sequence(request_id: int = 0, prompt_len: int = 10, index: int = 0) -> Sequence:
    request = Request(request_id, (1,) * prompt_len, SamplingParams(n=index + 1))
    return Sequence(request, index, max_len=prompt_len + 50)


def recorder(clock: Clock | None = None, **settings) -> MetricsRecorder:
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "num_pages": 20, **settings}
    return MetricsRecorder(clock=clock or Clock(), **settings)


def snapshot(metrics: MetricsRecorder, **state) -> EngineMetrics:
    idle = {
        "running": 0, "waiting": 0, "free_pages": 20, "cache_queried": 0, "cache_hits": 0,
        "compilations": {},
    }  # fmt: skip
    return metrics.snapshot(**{**idle, **state})


def ended(gap: float = 0.5, tokens: int = 3, **changes) -> Metrics:
    """A request that arrived at 10, ran from 11 on, and had its first token at 13."""
    times = tuple(13 + gap * i for i in range(tokens))
    metrics = Metrics(
        arrival=10.0, first_scheduled=11.0, first_token=13.0, finished=times[-1], token_times=times
    )
    return replace(metrics, **changes)


class TestMetricsOfARequest:
    def test_times_are_differences(self):
        metrics = Metrics(10.0, 11.0, 13.0, 20.0, token_times=(13.0, 14.0, 16.5, 20.0))
        assert metrics.queue_time == 1
        assert metrics.prefill_time == 2
        assert metrics.decode_time == 7
        assert metrics.time_to_first_token == 3
        assert metrics.total_time == 10
        assert metrics.inter_token_latencies == (1, 2.5, 3.5)
        assert metrics.mean_inter_token_latency == pytest.approx(7 / 3)

    def test_what_was_not_reached_is_none(self):
        waiting = Metrics(arrival=10.0)
        assert waiting.queue_time is None
        assert waiting.prefill_time is None
        assert waiting.decode_time is None
        assert waiting.time_to_first_token is None
        assert waiting.total_time is None
        aborted = Metrics(arrival=10.0, finished=12.0)
        assert (aborted.queue_time, aborted.total_time) == (None, 2)

    @pytest.mark.parametrize("times", [(), (13.0,)])
    def test_one_token_has_no_latency_between_tokens(self, times):
        metrics = Metrics(10.0, token_times=times)
        assert metrics.inter_token_latencies == ()
        assert metrics.mean_inter_token_latency is None


class TestTracker:
    @pytest.fixture
    def clock(self, monkeypatch):
        clock = Clock()
        monkeypatch.setattr("ferrum_jax.runtime.tracker.time.monotonic", clock)
        return clock

    def tracker(self, n: int = 1) -> RequestTracker:
        request = Request(0, (1, 2, 3), SamplingParams(n=n), arrival=99.0)
        sequences = [Sequence(request, i, max_len=50) for i in range(n)]
        builders = [CompletionBuilder(s, None, frozenset(), 0, False) for s in sequences]
        return RequestTracker(request, builders, None)

    def test_it_notes_when_things_happen(self, clock):
        tracker = self.tracker()
        tracker.note_scheduled()
        for read_at in (101.0, 101.5, 103.0):
            tracker.builders[0].token_times.append(read_at)
        metrics = tracker.metrics()
        assert metrics.first_scheduled == 100
        assert metrics.first_token == 101
        assert metrics.token_times == (101, 101.5, 103)
        assert metrics.finished is None

    def test_token_times_are_those_of_completion_0_and_the_first_token_is_anyones(self):
        tracker = self.tracker(n=2)
        tracker.builders[1].token_times.append(100.0)
        tracker.builders[0].token_times.append(102.0)
        tracker.builders[1].token_times += [104.0, 104.0]
        assert tracker.metrics().first_token == 100
        assert tracker.metrics().token_times == (102,)

    def test_the_end_is_noted_once_and_does_not_move_with_the_output(self, clock):
        tracker = self.tracker()
        assert tracker.metrics().finished is None
        tracker.unfinished.clear()
        clock.now = 110.0
        assert tracker.metrics().finished == 110
        clock.now = 500.0
        assert tracker.output().metrics.finished == 110

    def test_counts_are_sums_over_completions(self, clock):
        tracker = self.tracker(n=2)
        for i, builder in enumerate(tracker.builders):
            builder.sequence.num_preemptions = 2 + i
            builder.sequence.num_swaps = 1
            builder.sequence.num_cached = 3 * i
            for token in range(4 + i):
                builder.push(token, None)
        metrics = tracker.metrics()
        assert metrics.num_preemptions == 5
        assert metrics.num_swaps == 2
        assert metrics.cached_tokens == 3
        assert metrics.prompt_tokens == 3
        assert metrics.generated_tokens == 9


class TestSteps:
    def test_prompt_tokens_and_sampled_tokens_are_counted_apart(self):
        metrics = recorder()
        a, b = sequence(0, prompt_len=10), sequence(1, prompt_len=3)
        steps = [
            Schedule.of((ScheduledChunk(a, 0, 8, False),)),
            Schedule.of((ScheduledChunk(a, 8, 2, True), ScheduledChunk(b, 0, 3, True))),
            Schedule.of((ScheduledChunk(a, 10, 1, True), ScheduledChunk(b, 3, 1, True))),
            # a was preempted: it computes its prompt and two of its own tokens again.
            Schedule.of((ScheduledChunk(a, 0, 12, True),)),
        ]
        for step in steps:
            metrics.note_step(step, started=100.0, free_pages=20)
            metrics.note_step_end(0.5)
        seen = snapshot(metrics)
        assert seen.num_steps == 4
        assert seen.busy_seconds == 2
        assert seen.prompt_tokens_computed == 8 + 5 + 0 + 10
        assert seen.generated_tokens == 0 + 2 + 2 + 1
        assert seen.prompt_throughput == 23 / 2
        assert seen.generation_throughput == 5 / 2
        assert seen.batch_occupancy == (1 + 2 + 2 + 1) / (4 * 4)
        assert seen.token_occupancy == (8 + 5 + 2 + 12) / (4 * 16)

    def test_what_gave_way_is_counted(self):
        metrics = recorder()
        a, b = sequence(0), sequence(1)
        schedule = Schedule.of(
            (ScheduledChunk(a, 0, 1, False),),
            preempted=(a, b),
            swapped_out=((b, (4, 5)),),
            copies=((1, 2), (3, 4), (5, 6)),
        )
        metrics.note_step(schedule, started=100.0, free_pages=20)
        seen = snapshot(metrics)
        assert (seen.num_preemptions, seen.num_swaps, seen.num_copied_pages) == (2, 1, 3)

    def test_a_schedule_without_chunks_is_no_step(self):
        metrics = recorder()
        metrics.note_step(Schedule.of((), preempted=(sequence(),)), started=100.0, free_pages=20)
        seen = snapshot(metrics)
        assert seen.num_steps == 0
        assert seen.num_preemptions == 1
        assert seen.since_last_step is None

    def test_page_use_is_todays_and_the_peak_is_kept(self):
        metrics = recorder(num_pages=20)
        for free in (15, 2, 10):
            metrics.note_step(
                Schedule.of((ScheduledChunk(sequence(), 0, 1, False),)),
                started=100.0,
                free_pages=free,
            )
        assert snapshot(metrics, free_pages=5).page_use == 15 / 20
        assert snapshot(metrics, free_pages=5).peak_page_use == 18 / 20
        assert snapshot(metrics, free_pages=0).peak_page_use == 1

    def test_uptime_and_the_age_of_the_last_step_follow_the_clock(self):
        clock = Clock(100.0)
        metrics = recorder(clock)
        clock.now = 107.0
        chunk = ScheduledChunk(sequence(), 0, 1, False)
        metrics.note_step(Schedule.of((chunk,)), started=104.0, free_pages=20)
        assert snapshot(metrics).uptime == 7
        assert snapshot(metrics).since_last_step == 3

    def test_an_engine_that_has_done_nothing_reports_zeros_and_nones(self):
        seen = snapshot(recorder())
        assert seen.prompt_throughput == seen.generation_throughput == 0
        assert seen.batch_occupancy == seen.token_occupancy == 0
        assert seen.prefix_hit_rate is None
        assert seen.queue_time is None
        assert seen.inter_token_latency is None
        assert set(seen.requests.values()) == {0}


class TestRequests:
    def test_a_request_counts_by_its_first_completion(self):
        metrics = recorder()
        metrics.note_finished(ended(), (FinishReason.STOP, FinishReason.LENGTH))
        metrics.note_finished(ended(), iter([FinishReason.LENGTH]))
        metrics.note_finished(ended(), (FinishReason.LENGTH,))
        assert snapshot(metrics).requests == {
            "stop": 1, "length": 2, "abort": 0, "timeout": 0, "error": 0,
        }  # fmt: skip

    def test_percentiles_are_numpys_linear_ones(self):
        metrics = recorder()
        for i in range(101):
            metrics.note_finished(ended(first_scheduled=10.0 + i), (FinishReason.STOP,))
        expected = Percentiles(p50=50.0, p90=90.0, p99=99.0, mean=50.0, count=101)
        assert snapshot(metrics).queue_time == expected

    def test_every_time_has_its_distribution(self):
        metrics = recorder()
        metrics.note_finished(ended(gap=0.5, tokens=3), (FinishReason.STOP,))
        seen = snapshot(metrics)
        for times, value, count in (
            (seen.queue_time, 1, 1),
            (seen.prefill_time, 2, 1),
            (seen.decode_time, 1, 1),
            (seen.time_to_first_token, 3, 1),
            (seen.inter_token_latency, 0.5, 2),
        ):
            assert times == Percentiles(value, value, value, value, count)

    def test_a_request_that_never_ran_counts_and_has_no_times(self):
        metrics = recorder()
        metrics.note_finished(Metrics(arrival=1.0, finished=2.0), (FinishReason.ABORT,))
        assert snapshot(metrics).requests["abort"] == 1
        assert snapshot(metrics).queue_time is None

    def test_cached_tokens_add_up(self):
        metrics = recorder()
        for cached in (5, 0, 7):
            metrics.note_finished(ended(cached_tokens=cached), (FinishReason.STOP,))
        assert snapshot(metrics).cached_tokens == 12


class TestWindow:
    def test_percentiles_forget_the_oldest_and_the_mean_does_not(self):
        metrics = recorder(window=10)
        for wait in [100.0] * 5 + [1.0] * 10:
            metrics.note_finished(ended(first_scheduled=10 + wait), (FinishReason.STOP,))
        expected = Percentiles(1.0, 1.0, 1.0, mean=510 / 15, count=15)
        assert snapshot(metrics).queue_time == expected

    def test_memory_is_bounded_whatever_runs(self):
        metrics = recorder(window=8)
        for i in range(200):
            chunk = ScheduledChunk(sequence(i), 0, 1, False)
            metrics.note_step(Schedule.of((chunk,)), started=100.0, free_pages=i % 20)
            metrics.note_finished(ended(tokens=40), (FinishReason.STOP,))
        times = vars(metrics._times)
        assert len(times) == 5
        for name, samples in times.items():
            kept = 8 * GAPS_PER_REQUEST if name == "inter_token_latency" else 8
            assert len(samples.newest) == kept
        assert all(isinstance(v, int | float | dict) for v in vars(metrics._counts).values())
        assert set(metrics._counts.requests) == set(FinishReason)


class TestStateOfTheEngine:
    def test_it_is_passed_through(self):
        seen = snapshot(
            recorder(),
            running=3,
            waiting=5,
            cache_queried=80,
            cache_hits=20,
            compilations={"a": 1.5, "b": 2.0},
        )
        assert (seen.running, seen.waiting) == (3, 5)
        assert seen.prefix_hit_rate == 0.25
        assert (seen.compilations, seen.compile_seconds) == (2, 3.5)

    def test_reset_starts_over(self):
        clock = Clock(100.0)
        metrics = recorder(clock)
        chunk = ScheduledChunk(sequence(), 0, 1, True)
        schedule = Schedule.of((chunk,), preempted=(sequence(),), copies=((1, 2),))
        metrics.note_step(schedule, started=100.0, free_pages=0)
        metrics.note_step_end(1.0)
        metrics.note_finished(ended(), (FinishReason.STOP,))
        clock.now = 200.0
        metrics.reset()
        assert snapshot(metrics) == snapshot(recorder(clock))

    def test_reset_can_leave_out_what_the_engine_did_before(self):
        metrics = recorder()
        metrics.reset(cache_queried=100, cache_hits=90, compilations={"a": 5.0})
        state = {"cache_queried": 140, "cache_hits": 100, "compilations": {"a": 5.0, "b": 2.0}}
        seen = snapshot(metrics, **state)
        assert seen.prefix_hit_rate == 10 / 40
        assert (seen.compilations, seen.compile_seconds) == (1, 2.0)


def busy() -> EngineMetrics:
    clock = Clock()
    metrics = recorder(clock)
    chunk = ScheduledChunk(sequence(prompt_len=8), 0, 8, True)
    for _ in range(1500):
        metrics.note_step(Schedule.of((chunk,)), started=100.0, free_pages=8)
        metrics.note_step_end(0.001)
    for wait in range(10):
        metrics.note_finished(ended(first_scheduled=10 + wait / 8), (FinishReason.LENGTH,))
    clock.now = 102.5
    state = {"running": 2, "free_pages": 10, "compilations": {1: 0.25}}
    return snapshot(metrics, cache_queried=4, cache_hits=1, **state)


class TestTable:
    def test_numbers_stand_with_their_units(self):
        lines = [" ".join(line.split()) for line in str(busy()).splitlines()]
        for line in (
            "uptime 2.50 s",
            "busy 1.50 s",
            "steps 1,500",
            "running 2 sequences",
            "length 10",
            "prompt, computed 12,000 tokens",
            "generation throughput 1,000.0 tokens/s",
            "batch occupancy 25.0 % of max_num_seqs",
            "page use 50.0 %",
            "peak page use 60.0 %",
            "prefix hit rate 25.0 %",
            "times in ms p50 p90 p99 mean count",
            "queue time 562.50 1,012.50 1,113.75 562.50 10",
        ):
            assert line in lines

    def test_its_columns_are_aligned(self):
        lines = str(busy()).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("times in ms"))
        assert {len(line) for line in lines[start:]} == {len(lines[start])}
        numbers = [line for line in lines[:start] if line.startswith("  ")]
        assert all(re.match(r"^  \S.{21} *[\d.,]+( [%a-z].*)?$", line) for line in numbers)
        assert all(line[34] != " " and line[35:36] in ("", " ") for line in numbers)

    def test_what_is_unknown_is_a_dash(self):
        lines = [" ".join(line.split()) for line in str(snapshot(recorder())).splitlines()]
        assert "prefix hit rate - %" in lines
        assert "queue time - - - - 0" in lines


def parsed(text: str) -> tuple[dict[str, dict[str, str]], dict[tuple[str, str | None], float]]:
    """The heads by what they say and name, and the samples by name and label."""
    heads: dict[str, dict[str, str]] = {"HELP": {}, "TYPE": {}}
    samples: dict[tuple[str, str | None], float] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if head := HEAD.match(line):
            assert head["name"] not in heads[head["what"]], "a name has one head"
            heads[head["what"]][head["name"]] = head["text"]
            continue
        sample = SAMPLE.match(line)
        assert sample, f"not in the format: {line!r}"
        key = sample["name"], sample["label"]
        assert key not in samples
        samples[key] = float(sample["value"])
    return heads, samples


class TestPrometheus:
    def test_each_sample_has_a_head_and_counters_end_in_total(self):
        heads, samples = parsed(to_prometheus(busy()))
        assert heads["HELP"].keys() == heads["TYPE"].keys()
        assert set(heads["TYPE"].values()) == {"counter", "gauge", "summary"}
        for name, kind in heads["TYPE"].items():
            assert name.startswith("ferrum_")
            assert name.endswith("_total") == (kind == "counter")
        for name, _ in samples:
            family = re.sub(r"_(sum|count)$", "", name)
            assert family in heads["TYPE"]
            assert name == family or heads["TYPE"][family] == "summary"

    def test_numbers_are_those_of_the_snapshot(self):
        metrics = busy()
        _, samples = parsed(to_prometheus(metrics))
        assert samples["ferrum_steps_total", None] == 1500
        assert samples["ferrum_busy_seconds_total", None] == metrics.busy_seconds
        assert samples["ferrum_sequences_running", None] == 2
        assert samples["ferrum_requests_total", "length"] == 10
        assert samples["ferrum_requests_total", "stop"] == 0
        assert samples["ferrum_page_use_peak_ratio", None] == metrics.peak_page_use
        assert samples["ferrum_compile_seconds_total", None] == 0.25

    def test_every_number_of_the_snapshot_is_there(self):
        metrics = busy()
        _, samples = parsed(to_prometheus(metrics))
        numbers = [v for v in vars(metrics).values() if isinstance(v, int | float)]
        assert set(numbers) <= set(samples.values())
        assert len({name for name, label in samples if label is None}) == len(numbers) + 5 * 2

    def test_percentiles_are_summaries(self):
        metrics = busy()
        times = metrics.queue_time
        assert times is not None
        heads, samples = parsed(to_prometheus(metrics))
        name = "ferrum_queue_time_seconds"
        assert heads["TYPE"][name] == "summary"
        assert samples[name, "0.5"] == times.p50
        assert samples[name, "0.99"] == times.p99
        assert samples[name + "_sum", None] == pytest.approx(sum(i / 8 for i in range(10)))
        assert samples[name + "_count", None] == 10

    def test_what_is_unknown_has_no_sample(self):
        heads, samples = parsed(to_prometheus(snapshot(recorder())))
        assert "ferrum_prefix_hit_ratio" in heads["TYPE"]
        assert ("ferrum_prefix_hit_ratio", None) not in samples
        assert ("ferrum_queue_time_seconds", "0.5") not in samples
        assert samples["ferrum_queue_time_seconds_count", None] == 0

    def test_labels_are_escaped(self):
        metrics = replace(busy(), requests={'a "b"\\\n': 3})
        assert r'ferrum_requests_total{finish_reason="a \"b\"\\\n"} 3' in to_prometheus(metrics)

    def test_numbers_that_are_not_finite_are_spelt_as_prometheus_does(self):
        metrics = replace(busy(), prompt_throughput=float("inf"), page_use=float("nan"))
        lines = to_prometheus(metrics).splitlines()
        assert "ferrum_prompt_tokens_per_busy_second +Inf" in lines
        assert "ferrum_page_use_ratio NaN" in lines
