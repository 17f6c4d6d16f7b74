"""Search over continuations by forking: the pages of a common beginning are shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.intake import counts_from_end
from ferrum_jax.types import FinishReason, RequestError, SamplingParams, Snapshot, Taps


@dataclass(frozen=True)
class Branch:
    """One continuation of the prompt, from its first token to the end of its round."""

    parent: Branch | None
    token_ids: list[int]
    """All generated tokens, the parents' included."""
    text: str
    logprobs: list[float]
    """Of all generated tokens, under the model (raw, fp32)."""
    finish_reason: FinishReason | None
    round: int
    score: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the text is over, so that nothing can be continued."""
        return self.finish_reason is not FinishReason.LENGTH

    def path(self) -> list[Branch]:
        """The branches from the first round to this one."""
        return [*(self.parent.path() if self.parent else ()), self]

    def __repr__(self) -> str:
        return f"Branch(score={self.score:.4f}, round={self.round}, text={self.text!r})"


Worth = Callable[[Branch], float]
Run = Callable[[Sequence[int]], None]


def mean_logprob(branch: Branch) -> float:
    """The mean log-probability of a branch's tokens, in nats."""
    return sum(branch.logprobs) / len(branch.logprobs)


def search(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    width: int,
    rounds: int,
    keep: int,
    score: Worth | None,
    taps: Taps | None,
    run: Run,
    progress: bool,
) -> list[Branch]:
    """`LLM.branch`. `run` steps the engine until requests have ended."""
    if taps is not None and counts_from_end(taps):
        raise RequestError(
            "an edit counts positions from the prompt's end, which moves with every round; name "
            "positions from the start, or none"
        )
    for name, value in (("width", width), ("rounds", rounds), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RequestError(f"{name} is {value!r}; it must be an integer from 1")
    each = replace(params, n=width, logprobs=params.logprobs or 0)
    worth = score or mean_logprob
    # A root has no tokens; what is continued is a branch and the snapshot of its end.
    open_ends: list[tuple[Branch | None, Snapshot | None]] = [(None, None)]
    ended: list[Branch] = []
    try:
        for number in tqdm(range(rounds), unit="round", disable=not progress):
            grown = list(_grow(engine, prompt, _seeded(each, number), open_ends, run, number, taps))
            _release(engine, open_ends)
            scored = [(replace(branch, score=worth(branch)), end) for branch, end in grown]
            scored.sort(key=lambda item: -item[0].score)
            open_ends = [item for item in scored if not item[0].ended]
            ended += [branch for branch, _ in scored if branch.ended]
            _release(engine, open_ends[keep:])
            del open_ends[keep:]
            if not open_ends:
                break
    finally:
        _release(engine, open_ends)
    kept = [branch for branch, _ in open_ends if branch is not None]
    return sorted([*kept, *ended], key=lambda branch: -branch.score)


def _seeded(params: SamplingParams, number: int) -> SamplingParams:
    """Every round draws from streams of its own; without a seed they are fresh anyway."""
    return params if params.seed is None else replace(params, seed=(params.seed + number) % 2**62)


def _grow(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    ends: Sequence[tuple[Branch | None, Snapshot | None]],
    run: Run,
    number: int,
    taps: Taps | None,
) -> Iterator[tuple[Branch, Snapshot | None]]:
    """Continue every end `params.n` times, all in one batch."""
    requests = []
    try:
        for _, snapshot in ends:
            if snapshot is None:
                requests.append(engine.add(prompt, params, keep=True, taps=taps))
            else:
                requests.append(engine.resume(snapshot, params, keep=True))
    except BaseException:
        for request in requests:
            engine.abort(request)
            engine.take_tracker(request)
        raise
    run(requests)
    for (parent, _), request in zip(ends, requests, strict=True):
        tracker = engine.take_tracker(request)
        if tracker.error is not None:
            raise RequestError(f"a branch failed: {tracker.error}")
        for completion in tracker.output().outputs:
            tables = completion.logprobs or []
            own = [t[i].logprob for t, i in zip(tables, completion.token_ids, strict=True)]
            branch = Branch(
                parent=parent,
                token_ids=[*(parent.token_ids if parent else ()), *completion.token_ids],
                text=(parent.text if parent else "") + completion.text,
                logprobs=[*(parent.logprobs if parent else ()), *own],
                finish_reason=completion.finish_reason,
                round=number,
            )
            yield branch, tracker.snapshots.get(completion.index)


def _release(engine: Engine, ends: Sequence[tuple[Branch | None, Snapshot | None]]) -> None:
    for _, snapshot in ends:
        if snapshot is not None:
            engine.release(snapshot)
