"""CPU time of `schedule` by the number of running requests, all cases of one size in turns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from config import MAX_MODEL_LEN, PAGE_SIZE, Plan
from simulator import CollectorClock, Simulation
from workloads import VOCABULARY, Job

from ferrum_jax.types import EngineConfig, Request, SamplingParams

PRESSED = "pages run out"
SITUATIONS = ("plain", "prefix caching", "as many wait", PRESSED)


@dataclass(frozen=True)
class Case:
    """What one line of the figure is about."""

    policy: str
    situation: str


def measure(plan: Plan, rows: int, collector: CollectorClock) -> Iterator[dict]:
    """A record for every policy and situation at so many running requests."""
    cases = [Case(p, s) for s in SITUATIONS for p in plan.steady.policies]
    simulations = [_running(plan, case, rows, collector) for case in cases]
    settled = [len(simulation.steps) for simulation in simulations]
    for turn in range(plan.steady.steps):
        for case, simulation in zip(cases, simulations, strict=True):
            if case.situation != PRESSED or turn < plan.steady.pressed_steps:
                simulation.step()
    for case, simulation, first in zip(cases, simulations, settled, strict=True):
        yield _record(case, rows, simulation, first)


def _running(plan: Plan, case: Case, rows: int, collector: CollectorClock) -> Simulation:
    """An engine in which `rows` requests decode, far from their ends."""
    engine = EngineConfig(
        page_size=PAGE_SIZE,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=rows,
        max_num_batched_tokens=max(1024, 8 * rows),
        policy=case.policy,
        prefix_caching=case.situation == "prefix caching",
    )
    prompts = _prompts(plan, rows * (1 + (case.situation == "as many wait")))
    simulation = Simulation(engine, _pages(prompts[:rows], case), plan.cost, collector)
    for i, prompt in enumerate(prompts):
        simulation.add(_endless(i, prompt, plan.steady.clients))
        if i == rows - 1:
            _settle(simulation, rows)
    return simulation


def _settle(simulation: Simulation, rows: int) -> None:
    """Step until all of the first requests decode."""
    while not len(simulation.steps) or simulation.steps["running"][-1] < rows:
        simulation.step()
    simulation.step()


def _prompts(plan: Plan, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(count)
    least, most = plan.steady.prompts
    lengths = rng.integers(least, most + 1, count)
    return [tuple(rng.integers(0, VOCABULARY, length).tolist()) for length in lengths]


def _pages(prompts: list[tuple[int, ...]], case: Case) -> int:
    """Pages enough, or as many as the prompts and their first tokens fill."""
    if case.situation == PRESSED:
        return 1 + sum(-(-(len(prompt) + 4) // PAGE_SIZE) for prompt in prompts)
    return 1 + 2 * len(prompts) * (-(-max(map(len, prompts)) // PAGE_SIZE) + 8)


def _endless(index: int, prompt: tuple[int, ...], clients: int) -> Job:
    request = Request(
        request_id=index,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=MAX_MODEL_LEN - len(prompt)),
        client=f"client {index % clients}",
        arrival=0.0,
    )
    return Job(request, MAX_MODEL_LEN)


def _record(case: Case, rows: int, simulation: Simulation, first: int) -> dict:
    """Medians over the timed steps; where pages run out, over those in which somebody gave way."""
    steps = simulation.steps
    counted = np.arange(len(steps)) >= first
    if case.situation == PRESSED:
        counted &= steps["preempted"] > 0
    seconds = (steps["host"] - steps["collector"])[counted]
    return {
        "policy": case.policy,
        "situation": case.situation,
        "running": rows,
        "steps": int(counted.sum()),
        "ms_median": 1e3 * float(np.median(seconds)),
        "ms_p90": 1e3 * float(np.percentile(seconds, 90)),
        "preempted_a_step": float(steps["preempted"][counted].mean()),
    }
