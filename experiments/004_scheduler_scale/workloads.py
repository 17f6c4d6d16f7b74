"""Requests of a workload, drawn from its seed: when they come, how long they are, and whose."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from config import Lengths, Workload

from ferrum_jax.types import Priority, Request, SamplingParams

VOCABULARY = 32_000


@dataclass(frozen=True, slots=True)
class Job:
    """A request, and how many tokens the model will write before it ends the text."""

    request: Request
    length: int


def jobs(workload: Workload) -> Iterator[Job]:
    """The requests in the order of their arrival; prompts are made when their turn comes."""
    rng, count = np.random.default_rng(workload.seed), workload.count
    arrivals = _arrivals(workload, rng)
    prompts = _lengths(workload.prompts, count, rng)
    outputs = _lengths(workload.outputs, count, rng)
    clients = _zipf(workload.clients, count, rng)
    levels = rng.choice(len(workload.priorities), count, p=workload.priorities)
    systems = _system_prompts(workload, rng)
    chosen = _zipf(len(systems), count, rng)
    for i in range(count):
        own = rng.integers(0, VOCABULARY, prompts[i]).tolist()
        length = int(outputs[i])
        request = Request(
            request_id=i,
            prompt_token_ids=(*systems[chosen[i]], *own),
            params=_params(_limit(length)),
            priority=Priority(int(levels[i])),
            client=f"client {clients[i]}",
            arrival=float(arrivals[i]),
        )
        yield Job(request, length)


def token_at(request_id: int, position: int) -> int:
    """What the simulated model samples: a function of the request and the position."""
    return (7919 * request_id + 104_729 * position) % VOCABULARY


@cache
def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens)


def _limit(length: int) -> int:
    """What the caller asks for, who does not know the length: the next power of two."""
    return 1 << max(4, (length - 1).bit_length())


def _arrivals(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """Seconds at which requests come: Poisson within each state's time."""
    if len(workload.rates) == 1:
        return np.cumsum(rng.exponential(1 / workload.rates[0], workload.count))
    parts, now, state, found = [], 0.0, 0, 0
    while found < workload.count:
        seconds = rng.exponential(workload.holding[state])
        number = rng.poisson(workload.rates[state] * seconds)
        parts.append(now + np.sort(rng.random(number)) * seconds)
        now, found, state = now + seconds, found + number, (state + 1) % len(workload.rates)
    return np.concatenate(parts)[: workload.count]


def _lengths(law: Lengths, count: int, rng: np.random.Generator) -> np.ndarray:
    drawn = np.ceil(rng.lognormal(np.log(law.median), law.sigma, count))
    return np.clip(drawn, law.least, law.most).astype(int)


def _zipf(choices: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choice k with a probability in proportion to 1 / (k + 1)."""
    weights = 1 / np.arange(1, choices + 1)
    return rng.choice(choices, count, p=weights / weights.sum())


def _system_prompts(workload: Workload, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The texts that requests begin with; one empty text if there are none."""
    if not workload.systems:
        return [()]
    lengths = _lengths(workload.system_lengths, workload.systems, rng)
    return [tuple(rng.integers(0, VOCABULARY, length).tolist()) for length in lengths]
