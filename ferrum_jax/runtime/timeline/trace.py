"""Steps as a trace for chrome://tracing and Perfetto."""

from __future__ import annotations

from typing import Any

from ferrum_jax.runtime.timeline.steps import (
    TimelineStep,
    device_spans,
    sequence_label,
    sequence_order,
)

_STEPS, _SEQUENCES = 1, 2  # Processes of the trace: each is a group of tracks.


def trace_events(steps: tuple[TimelineStep, ...]) -> list[dict[str, Any]]:
    """The events of a trace: a track of steps, one for each sequence, and counters."""
    threads = {sequence: row for row, sequence in enumerate(sequence_order(steps), 1)}
    events = [
        _named("process_name", "engine", _STEPS),
        _named("process_name", "sequences", _SEQUENCES),
        _named("thread_name", "steps", _STEPS, 1),
        *(
            _named("thread_name", f"request {sequence_label(*sequence)}", _SEQUENCES, row)
            for sequence, row in threads.items()
        ),
    ]
    for number, (step, span) in enumerate(zip(steps, device_spans(steps), strict=True)):
        begin, duration = 1e6 * span[0], 1e6 * (span[1] - span[0])
        events += _step_events(step, number, begin, duration)
        for chunk in step.chunks:
            arguments = {"start_token": chunk.start_token, "tokens": chunk.length, "step": number}
            thread = threads[chunk.request_id, chunk.index]
            events.append(_complete(chunk.kind, _SEQUENCES, thread, begin, duration, arguments))
        for request_id, index, how in step.preempted:
            name, thread = f"preempted ({how})", threads[request_id, index]
            events.append(
                {"name": name, "ph": "i", "s": "t", "ts": begin, "pid": _SEQUENCES, "tid": thread}
            )
    return events


def _step_events(
    step: TimelineStep, number: int, begin: float, duration: float
) -> list[dict[str, Any]]:
    tokens = {"prefill": 0, "decode": 0}
    for chunk in step.chunks:
        tokens[chunk.kind] += chunk.length
    arguments = {"rows": len(step.chunks), "tokens": sum(tokens.values()), "copies": step.copies}
    sequences = {"running": step.num_running, "waiting": step.num_waiting}
    return [
        _complete(f"step {number}", _STEPS, 1, begin, duration, arguments),
        _counter("tokens", begin, tokens),
        _counter("pages in use", begin, {"pages": step.used_pages}),
        _counter("sequences", begin, sequences),
    ]


def _named(what: str, name: str, process: int, thread: int = 0) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _complete(
    name: str, process: int, thread: int, begin: float, duration: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name, "ph": "X", "ts": begin, "dur": duration, "pid": process, "tid": thread,
        "args": arguments,
    }  # fmt: skip


def _counter(name: str, begin: float, values: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "ph": "C", "ts": begin, "pid": _STEPS, "args": values}
