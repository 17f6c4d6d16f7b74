"""The declared shapes of the step: few, known before anything runs, one compilation each."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.types import EngineConfig, ResourceExhausted, Schedule, StepShape

SMALLEST_PREFILL = 16
READING_BINDS = 64
"""Tokens up to which a step takes about as long as reading the weights does. From there on each
prefill shape holds twice the tokens of the one before: a prompt that just misses one would
otherwise take several times as long as it has to, for every token to come."""


def declared_shapes(engine: EngineConfig) -> tuple[StepShape, ...]:
    """Every shape that an engine may run, the smaller first.

    Pure decode steps have one token a row, in powers of two up to `max_num_seqs`. Steps with a
    prefill chunk have 16, 64, 128, 256, ... tokens up to the budget, and at most half as many rows;
    the largest takes every row. Those shapes exist a second time for steps that score their
    prompts, and all of them a second time for steps whose sampling is more than a temperature: its
    programs take longer to compile.

    With `decode_steps` above 1 there are decode steps that repeat so often, too.

    With speculation there are decode steps with drafts of up to 1, 2, 4, ... tokens a row too, and
    steps with a prefill chunk take the longest drafts.

    A batch-invariant engine has one shape for everything: its work follows the tokens, not the
    shape.
    """
    longest, mixed_sizes = engine.draft_len, _mixed_sizes(engine)
    if engine.batch_invariant:
        return (StepShape(*mixed_sizes[-1], True, True, longest),)
    rows = _powers(engine.max_num_seqs)
    decodes = [
        StepShape(count * (1 + drafts), count, drafts=drafts)
        for drafts in (0, *(_powers(longest) if longest else ()))
        for count in rows
    ]
    if engine.decode_steps > 1:
        decodes += [replace(shape, steps=engine.decode_steps) for shape in decodes]
    mixed = [StepShape(*sizes, drafts=longest) for sizes in mixed_sizes]
    plain = [*decodes, *mixed, *(replace(shape, score=True) for shape in mixed)]
    return tuple(sorted([*plain, *(replace(shape, processes=True) for shape in plain)]))


def _mixed_sizes(engine: EngineConfig) -> list[tuple[int, int]]:
    """Tokens and rows of the steps with a prefill chunk."""
    budget, few = engine.max_num_batched_tokens, SMALLEST_PREFILL
    counts = [*([few] if few < budget else []), *_powers(budget, READING_BINDS)]
    sizes = [(tokens, min(engine.max_num_seqs, max(1, tokens // 2))) for tokens in counts]
    sizes[-1] = (max(engine.max_num_batched_tokens, engine.max_num_seqs + 1), engine.max_num_seqs)
    # Another number of tokens than a decode step has tells a mixed step from it.
    each = 1 + engine.draft_len
    return [(tokens + (tokens == rows * each), rows) for tokens, rows in sizes]


def choose_shape(
    shapes: tuple[StepShape, ...], schedule: Schedule, *, score: bool, processes: bool = False
) -> StepShape:
    """The smallest declared shape that holds a schedule; `shapes` are in order.

    Raises:
        ResourceExhausted: none does; the scheduler and the shapes disagree about the limits.
    """
    rows, steps = schedule.num_rows, schedule.steps
    tokens = rows if steps > 1 else schedule.num_tokens
    if len(shapes) == 1 and rows <= shapes[0].rows and tokens <= shapes[0].tokens:
        return shapes[0]
    columns = schedule.columns
    drafts = max(map(len, columns.drafts)) if any(columns.drafts) else 0
    decodes = not score and (
        all(c.length == c.steps + len(c.draft) for c in schedule.chunks)
        if drafts
        else columns.lengths == columns.steps
    )
    for shape in shapes:
        if (
            (shape.score, shape.processes, shape.decodes) == (score, processes, decodes)
            and shape.tokens >= tokens
            and shape.rows >= rows
            and shape.drafts >= drafts
            and (shape.steps > 1) == (steps > 1)
        ):
            return shape
    raise ResourceExhausted(
        f"no declared shape holds a step of {tokens} tokens in {rows} rows; declared are "
        + "; ".join(str(shape) for shape in shapes)
    )


def _powers(limit: int, first: int = 1) -> list[int]:
    """first, twice that, ... and the limit itself as the last."""
    sizes = []
    size = min(first, limit)
    while size < limit:
        sizes.append(size)
        size *= 2
    return [*sizes, limit]
