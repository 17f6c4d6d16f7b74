"""The declared shapes of the step: few, known before anything runs, one compilation each."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.types import EngineConfig, ResourceExhausted, Schedule, StepShape

SMALLEST_PREFILL = 16
GROWTH = 4
"""Each prefill shape holds so many times the tokens of the one before."""


def declared_shapes(engine: EngineConfig) -> tuple[StepShape, ...]:
    """Every shape that an engine may run, the smaller first.

    Pure decode steps have one token a row, in powers of two up to `max_num_seqs`. Steps with a
    prefill chunk have 16, 64, 256, ... tokens up to the budget, and at most half as many rows; the
    largest takes every row. Those shapes exist a second time for steps that score their prompts,
    and all of them a second time for steps whose sampling is more than a temperature: its programs
    take longer to compile.

    A batch-invariant engine has one shape for everything: its work follows the tokens, not the
    shape.
    """
    if engine.batch_invariant:
        return (StepShape(engine.max_num_batched_tokens, engine.max_num_seqs, True, True),)
    decodes = [StepShape(rows, rows) for rows in _powers(engine.max_num_seqs, 1, 2)]
    mixed = []
    for tokens in _powers(engine.max_num_batched_tokens, SMALLEST_PREFILL, GROWTH):
        mixed.append((tokens, min(engine.max_num_seqs, max(1, tokens // 2))))
    # More tokens than rows tells a mixed step from a decode step.
    largest = max(engine.max_num_batched_tokens, engine.max_num_seqs + 1)
    mixed[-1] = (largest, engine.max_num_seqs)
    scored = [StepShape(tokens, rows, score=True) for tokens, rows in mixed]
    plain = [*decodes, *(StepShape(*sizes) for sizes in mixed), *scored]
    return tuple(sorted([*plain, *(replace(shape, processes=True) for shape in plain)]))


def choose_shape(
    shapes: tuple[StepShape, ...], schedule: Schedule, *, score: bool, processes: bool = False
) -> StepShape:
    """The smallest declared shape that holds a schedule; `shapes` are in order.

    Raises:
        ResourceExhausted: none does; the scheduler and the shapes disagree about the limits.
    """
    rows, tokens = len(schedule.chunks), schedule.num_tokens
    if len(shapes) == 1 and rows <= shapes[0].rows and tokens <= shapes[0].tokens:
        return shapes[0]
    decode = not score and all(chunk.length == 1 for chunk in schedule.chunks)
    for shape in shapes:
        is_decode = shape.tokens == shape.rows
        if (
            (shape.score, shape.processes) == (score, processes)
            and is_decode == decode
            and shape.tokens >= tokens
            and shape.rows >= rows
        ):
            return shape
    raise ResourceExhausted(
        f"no declared shape holds a step of {tokens} tokens in {rows} rows; declared are "
        + "; ".join(str(shape) for shape in shapes)
    )


def _powers(limit: int, first: int, factor: int) -> list[int]:
    """first, first * factor, ... and the limit itself as the last."""
    sizes = []
    size = min(first, limit)
    while size < limit:
        sizes.append(size)
        size *= factor
    return [*sizes, limit]
