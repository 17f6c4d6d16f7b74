"""The timeline holds what the schedules held; its trace and its picture show it."""

import json
import sys
from collections import Counter

import pytest

import ferrum_jax as fj
from ferrum_jax.runtime.timeline import Timeline
from ferrum_jax.runtime.timeline.steps import device_spans
from ferrum_jax.scheduler import FCFSPolicy
from ferrum_jax.types import Request, SamplingParams, Schedule, ScheduledChunk, Sequence
from tests.scheduler.helpers import Bench, engine

PNG = b"\x89PNG\r\n\x1a\n"


def sequence(request_id: int, prompt_len: int = 4, index: int = 0) -> Sequence:
    request = Request(request_id, (1,) * prompt_len, SamplingParams(n=index + 1))
    return Sequence(request, index, max_len=50)


def record(timeline: Timeline, *schedules: Schedule, seconds: float = 1.0) -> None:
    """Record steps end to end, from second 10 on."""
    for i, schedule in enumerate(schedules):
        start = 10 + i * seconds
        timeline.record(schedule, start, start + seconds, len(schedule.chunks), 2, 3 + i)


def preempted_and_resumed() -> Timeline:
    """Request 0 runs through; 1 gives way in the third step and starts over in the fourth; the
    second completion of request 2 is swapped out in the fifth and goes on in the sixth."""
    a, b, c = sequence(0), sequence(1), sequence(2, index=1)
    timeline = Timeline()
    record(
        timeline,
        Schedule.of((ScheduledChunk(a, 0, 4, True), ScheduledChunk(b, 0, 3, False))),
        Schedule.of((ScheduledChunk(a, 4, 1, True), ScheduledChunk(b, 3, 1, True))),
        Schedule.of((ScheduledChunk(a, 5, 1, True),), preempted=(b,)),
        Schedule.of((ScheduledChunk(b, 0, 5, True), ScheduledChunk(c, 0, 4, True))),
        Schedule.of(
            (ScheduledChunk(b, 5, 1, True),), preempted=(c,), swapped_out=((c, (7,)),),
            copies=((1, 2), (3, 4)),
        ),
        Schedule.of((ScheduledChunk(c, 4, 1, True),)),
    )  # fmt: skip
    return timeline


def served(num_requests: int, num_pages: int) -> tuple[Timeline, list[Schedule]]:
    """A real scheduler's steps, the pages so few that sequences give way."""
    settings = engine(max_num_seqs=4, max_num_batched_tokens=16)
    bench = Bench(settings, num_pages=num_pages, policy=FCFSPolicy())
    for i in range(num_requests):
        bench.add(3 + 5 * i % 17, 4 + 7 * i % 13)
    timeline, schedules = Timeline(), []
    while bench.scheduler.has_work:
        schedule = bench.step()
        schedules.append(schedule)
        now = float(len(schedules))
        used = bench.blocks.num_total - bench.blocks.num_free
        scheduler = bench.scheduler
        timeline.record(
            schedule, now, now + 0.5, len(scheduler.running), len(scheduler.waiting), used
        )
    return timeline, schedules


class TestEvents:
    def test_a_step_is_plain_data(self):
        timeline = preempted_and_resumed()
        assert timeline.events()[0] == {
            "start": 10.0,
            "end": 11.0,
            "chunks": [
                {"request_id": 0, "index": 0, "start_token": 0, "length": 4, "kind": "prefill"},
                {"request_id": 1, "index": 0, "start_token": 0, "length": 3, "kind": "prefill"},
            ],
            "preempted": [],
            "copies": 0,
            "num_running": 2,
            "num_waiting": 2,
            "used_pages": 3,
        }
        assert json.loads(json.dumps(timeline.events())) == timeline.events()

    def test_a_single_token_behind_the_prompt_is_a_decode(self):
        kinds = [[c["kind"] for c in e["chunks"]] for e in preempted_and_resumed().events()]
        # The last token of request 1's prompt is a chunk of one token and yet prefill.
        assert kinds[1] == ["decode", "prefill"]
        assert kinds[3] == ["prefill", "prefill"]
        assert kinds[5] == ["decode"]

    def test_preemptions_say_how(self):
        events = preempted_and_resumed().events()
        assert events[2]["preempted"] == [{"request_id": 1, "index": 0, "how": "recompute"}]
        assert events[4]["preempted"] == [{"request_id": 2, "index": 1, "how": "swap"}]
        assert events[4]["copies"] == 2

    def test_they_equal_a_real_schedulers_schedules(self):
        timeline, schedules = served(6, num_pages=11)
        assert any(schedule.preempted for schedule in schedules)
        for event, schedule in zip(timeline.events(), schedules, strict=True):
            assert [
                (c["request_id"], c["index"], c["start_token"], c["length"])
                for c in event["chunks"]
            ] == [
                (c.sequence.request.request_id, c.sequence.index, c.start, c.length)
                for c in schedule.chunks
            ]
            assert [p["request_id"] for p in event["preempted"]] == [
                s.request.request_id for s in schedule.preempted
            ]

    def test_nothing_recorded_is_kept_alive(self):
        """A timeline holds numbers, not sequences: their tokens and pages can go."""
        step = preempted_and_resumed().steps[2]
        fields = (*step.chunks[0], *step.preempted[0], step.start, step.used_pages)
        assert all(isinstance(value, int | float | str) for value in fields)


class TestBound:
    def test_the_oldest_steps_go_and_it_says_so(self):
        timeline = Timeline(max_steps=3)
        schedules = [Schedule.of((ScheduledChunk(sequence(i), 0, 4, True),)) for i in range(5)]
        record(timeline, *schedules[:3])
        assert not timeline.truncated
        record(timeline, *schedules[3:])
        assert timeline.truncated
        assert [step.chunks[0].request_id for step in timeline.steps] == [2, 3, 4]
        title = timeline.plot().axes[0].get_title(loc="left")
        assert "only the last 3 steps were kept" in title

    @pytest.mark.parametrize("steps", [0, -1])
    def test_it_keeps_at_least_one_step(self, steps):
        with pytest.raises(fj.ConfigError, match=f"max_steps is {steps}"):
            Timeline(max_steps=steps)


def test_a_step_that_was_dispatched_early_begins_when_the_device_is_free():
    timeline = Timeline()
    for start, end in ((10.0, 12.0), (11.0, 13.0), (11.5, 13.0), (20.0, 21.0)):
        timeline.record(Schedule.of(()), start, end, 0, 0, 0)
    assert device_spans(timeline.steps) == [(0, 2), (2, 3), (3, 3), (10, 11)]
    assert device_spans(()) == []


class TestChromeTrace:
    @pytest.fixture
    def trace(self, tmp_path):
        preempted_and_resumed().to_chrome_trace(tmp_path / "trace.json")
        return json.loads((tmp_path / "trace.json").read_text())

    def test_every_event_has_the_fields_of_its_phase(self, trace):
        needed = {
            "M": {"name", "pid", "tid", "args"},
            "X": {"name", "ts", "dur", "pid", "tid", "args"},
            "i": {"name", "ts", "s", "pid", "tid"},
            "C": {"name", "ts", "pid", "args"},
        }
        for event in trace["traceEvents"]:
            assert event.keys() == needed[event["ph"]] | {"ph"}
        assert {event["ph"] for event in trace["traceEvents"]} == set(needed)

    def test_chunks_lie_on_the_track_of_their_sequence(self, trace):
        events = trace["traceEvents"]
        names = {
            (e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"
        }
        assert sorted(names.values()) == ["request 0", "request 1", "request 2.1", "steps"]
        on_track = Counter(names[e["pid"], e["tid"]] for e in events if e["ph"] == "X")
        assert on_track == {"steps": 6, "request 0": 3, "request 1": 4, "request 2.1": 2}
        marks = {names[e["pid"], e["tid"]]: e["name"] for e in events if e["ph"] == "i"}
        assert marks == {
            "request 1": "preempted (recompute)", "request 2.1": "preempted (swap)",
        }  # fmt: skip

    def test_times_are_microseconds_since_the_first_step(self, trace):
        steps = [e for e in trace["traceEvents"] if e["name"].startswith("step ")]
        assert [e["ts"] for e in steps] == [1e6 * i for i in range(6)]
        assert {e["dur"] for e in steps} == {1e6}
        assert steps[4]["args"] == {"rows": 1, "tokens": 1, "copies": 2}

    def test_counters_follow_the_steps(self, trace):
        tokens = [e["args"] for e in trace["traceEvents"] if e["name"] == "tokens"]
        assert tokens[:2] == [{"prefill": 7, "decode": 0}, {"prefill": 1, "decode": 1}]
        pages = [e["args"]["pages"] for e in trace["traceEvents"] if e["name"] == "pages in use"]
        assert pages == [3, 4, 5, 6, 7, 8]

    def test_an_empty_timeline_is_a_valid_trace(self, tmp_path):
        Timeline().to_chrome_trace(tmp_path / "empty.json")
        trace = json.loads((tmp_path / "empty.json").read_text())
        assert all(event["ph"] == "M" for event in trace["traceEvents"])


def bars(ax) -> dict[str, list]:
    """The corners of an axes' bars, by label."""
    from matplotlib.collections import PolyCollection

    return {
        c.get_label(): [path.vertices for path in c.get_paths()]
        for c in ax.collections
        if isinstance(c, PolyCollection) and not c.get_label().startswith("_")
    }


def marks(ax) -> dict[str, list[tuple[float, float]]]:
    """Where an axes' marks lie, by label."""
    from matplotlib.collections import PathCollection

    return {
        c.get_label(): [tuple(point) for point in c.get_offsets()]
        for c in ax.collections
        if isinstance(c, PathCollection)
    }


class TestPlot:
    def test_it_saves_a_picture_of_sensible_size(self, tmp_path):
        figure = preempted_and_resumed().plot(tmp_path / "timeline.png")
        data = (tmp_path / "timeline.png").read_bytes()
        assert data.startswith(PNG)
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        assert (width, height) == tuple(round(120 * inches) for inches in figure.get_size_inches())
        assert 1200 <= width <= 2000
        assert 500 <= height <= 1200

    def test_each_chunk_is_a_bar_as_wide_as_its_step(self):
        rows = bars(preempted_and_resumed().plot().axes[0])
        assert {kind: len(corners) for kind, corners in rows.items()} == {
            "prefill": 4, "prefill again": 1, "decode": 4,
        }  # fmt: skip
        for corners in (c for kind in rows.values() for c in kind):
            assert corners[:, 0].max() - corners[:, 0].min() == pytest.approx(1.0)
        (again,) = rows["prefill again"]
        assert (again[:, 0].min(), again[:, 1].mean()) == pytest.approx((3.0, 1.0), abs=0.2)

    def test_longer_chunks_are_higher_and_none_leaves_its_row(self):
        rows = bars(preempted_and_resumed().plot().axes[0])
        heights = {
            kind: [c[:, 1].max() - c[:, 1].min() for c in corners] for kind, corners in rows.items()
        }
        assert max(heights["decode"]) < min(h for h in heights["prefill"] if h > 0.4)
        assert max(h for kind in heights.values() for h in kind) == heights["prefill again"][0] < 1

    def test_preemptions_and_resumptions_are_marked(self):
        assert marks(preempted_and_resumed().plot().axes[0]) == {
            "preempted, to recompute": [(2.0, 1.0)],
            "preempted, swapped out": [(4.0, 2.0)],
            "resumed": [(3.0, 1.0), (5.0, 2.0)],
        }

    def test_rows_carry_the_names_of_their_sequences(self):
        ax = preempted_and_resumed().plot().axes[0]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2.1"]
        bottom, top = ax.get_ylim()
        assert bottom > top, "the first sequence is on top"

    def test_panels_share_the_time_axis_and_name_their_units(self):
        figure = preempted_and_resumed().plot()
        assert {ax.get_xlim() for ax in figure.axes} == {(0.0, 6.0)}
        assert figure.axes[-1].get_xlabel() == "time since the first step [s]"
        labels = [ax.get_ylabel() for ax in figure.axes]
        assert labels == ["request", "tokens\nper step", "KV pages", "sequences"]
        for ax in figure.axes:
            assert ax.get_legend() is not None

    def test_a_short_run_is_drawn_in_milliseconds(self):
        timeline = Timeline()
        schedule = Schedule.of((ScheduledChunk(sequence(0), 0, 4, True),))
        record(timeline, schedule, schedule, seconds=0.25)
        figure = timeline.plot()
        assert figure.axes[-1].get_xlabel() == "time since the first step [ms]"
        assert figure.axes[-1].get_xlim() == (0, 500)

    def test_tokens_pages_and_sequences_are_drawn_per_step(self):
        _, tokens, pages, counts = preempted_and_resumed().plot().axes
        stacked = bars(tokens)
        assert [c[:, 1].max() for c in stacked["prefill"]] == [7, 2, 4 + 5]
        assert [c[:, 1].max() for c in stacked["prefill again"]] == [5]
        assert [c[:, 1].max() for c in stacked["decode"]] == [1, 1, 1, 1]
        assert marks(pages) == {"page copied": [(4.0, 7.0)]}
        lines = {line.get_label(): list(line.get_ydata()) for line in counts.lines}
        assert lines["running"] == [2, 2, 1, 2, 1, 1, 1]
        assert lines["waiting"] == [2] * 7

    def test_many_sequences_are_cut_to_those_that_ran_first(self):
        timeline = Timeline()
        record(
            timeline, *(Schedule.of((ScheduledChunk(sequence(i), 0, 4, True),)) for i in range(9))
        )
        ax = timeline.plot(max_requests=5).axes[0]
        assert [label.get_text() for label in ax.get_yticklabels()] == list("01234")
        assert "first 5 and their 5 steps shown" in ax.get_title(loc="left")
        assert ax.get_xlim() == (0, 5)
        with pytest.raises(fj.ConfigError, match="max_requests is 0"):
            timeline.plot(max_requests=0)

    @pytest.mark.parametrize("count", [5, 60])
    def test_rows_stay_readable(self, count):
        timeline = Timeline()
        chunks = tuple(ScheduledChunk(sequence(i), 0, 4, True) for i in range(count))
        record(timeline, Schedule.of(chunks))
        figure = timeline.plot()
        figure.draw_without_rendering()
        ax = figure.axes[0]
        row = ax.get_window_extent().height / figure.dpi / count
        assert row > 7 / 72, "a label of 7 points fits its row"
        assert figure.get_size_inches()[1] < 18
        assert "0 preemptions" in ax.get_title(loc="left")

    def test_thousands_of_steps_become_as_many_bars_as_there_are_pixels(self):
        timeline = Timeline()
        runner = sequence(0)
        record(
            timeline, *(Schedule.of((ScheduledChunk(runner, 4 + i, 1, True),)) for i in range(9000))
        )
        (decodes,) = bars(timeline.plot().axes[0]).values()
        assert len(decodes) <= 2 * 1500
        covered = sum(corners[:, 0].max() - corners[:, 0].min() for corners in decodes)
        assert covered == pytest.approx(9000)

    def test_a_timeline_without_steps_has_a_picture_too(self, tmp_path):
        figure = Timeline().plot(tmp_path / "empty.png")
        assert figure.axes[0].get_title(loc="left").startswith("0 sequences in 0 steps")
        assert (tmp_path / "empty.png").stat().st_size > 0

    def test_a_served_workload_has_a_bar_for_each_chunk(self, tmp_path):
        timeline, schedules = served(6, num_pages=11)
        rows = bars(timeline.plot(tmp_path / "served.png").axes[0])
        assert sum(map(len, rows.values())) == sum(len(s.chunks) for s in schedules)
        assert len(rows["prefill again"]) > 0

    def test_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(fj.UnsupportedError, match="pip install matplotlib"):
            Timeline().plot()
