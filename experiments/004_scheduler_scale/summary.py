"""From the logs of a simulation to the numbers of `results.json`: seconds, and `_ms` of the CPU."""

import numpy as np
from config import Workload
from simulator import Simulation
from workloads import jobs

from ferrum_jax.types import Priority

SERIES_POINTS = 400
HEAVY = "client 0"
LIGHT = ("client 4", "client 5", "client 6", "client 7")


def describe_jobs(workload: Workload) -> dict:
    """What was drawn."""
    lengths = [(len(job.request.prompt_token_ids), job.length) for job in jobs(workload)]
    prompts, outputs = np.asarray(lengths).T
    return {
        "name": workload.name,
        "requests": len(lengths),
        "prompt_tokens": _distribution(prompts),
        "output_tokens": _distribution(outputs),
    }


def describe(simulation: Simulation) -> dict:
    """What happened, in simulated time, and what the scheduler's CPU time was."""
    steps, requests, blocks = simulation.steps, simulation.requests, simulation.blocks
    busy = steps["device"].sum()
    own = 1e3 * (steps["host"] - steps["collector"])
    return {
        "requests_ended": len(requests),
        "all_pages_free": blocks.num_free == blocks.num_total,
        "simulated_seconds": float(steps["start"][-1]),
        "device_busy_seconds": float(busy),
        "steps": len(steps),
        "rows": int(steps["rows"].sum()),
        "tokens": int(steps["tokens"].sum()),
        "running_mean": float(np.average(steps["running"], weights=steps["device"])),
        "running_max": int(steps["running"].max()),
        "waiting_max": int(steps["waiting"].max()),
        "used_pages_max": int(steps["used_pages"].max()),
        "preemptions": int(steps["preempted"].sum()),
        "swaps": int(steps["swapped"].sum()),
        "hit_rate": blocks.num_hits / blocks.num_queried if blocks.num_queried else None,
        "queue_seconds": _distribution(requests["queue"]),
        "first_token_seconds": _distribution(requests["first_token"]),
        "total_seconds": _distribution(requests["total"]),
        "longest_gap_seconds": float(requests["longest_gap"].max()),
        "schedule_ms": _distribution(own),
        "schedule_ms_with_collector": _distribution(1e3 * steps["host"]),
        "schedule_us_a_row": 1e3 * float(own.sum() / max(1, steps["rows"].sum())),
        "schedule_share_of_device_time": float(steps["host"].sum() / busy),
        "collector_share_of_schedule": float(steps["collector"].sum() / steps["host"].sum()),
    }


def series(simulation: Simulation) -> dict:
    """Running and waiting requests over simulated time, thinned out."""
    steps = simulation.steps
    times = np.linspace(steps["start"][0], steps["start"][-1], SERIES_POINTS)
    picked = np.unique(np.searchsorted(steps["start"], times))
    return {
        name: [round(float(x), 2) for x in steps[name][picked]]
        for name in ("start", "running", "waiting")
    }


def describe_policy(simulation: Simulation, window: float) -> dict:
    """What a policy does to clients; `Simulation.by_client` must be on."""
    requests, clients = simulation.requests, np.asarray(simulation.clients)
    first, levels = requests["first_token"], requests["priority"]
    fairness, windows = _jain(simulation, window)
    return {
        **describe(simulation),
        "first_token_percentiles": np.percentile(first, np.arange(101)).round(4).tolist(),
        "first_token_p99_heavy": _p99(first[clients == HEAVY]),
        "first_token_p99_light": _p99(first[np.isin(clients, LIGHT)]),
        "first_token_p99_low": _p99(first[levels == Priority.LOW]),
        "first_token_p99_critical": _p99(first[levels == Priority.CRITICAL]),
        "jain_index": fairness,
        "jain_windows": windows,
    }


def _jain(simulation: Simulation, window: float) -> tuple[float | None, int]:
    """How evenly those clients were served that had requests waiting throughout a window.

    Jain's index (Jain et al. 1984) of their tokens, 1 when equal; the mean over the windows in
    which there were two or more such clients, and the number of those windows.
    """
    found = []
    numbers = (simulation.steps["start"] // window).astype(int)
    for number in np.unique(numbers):
        inside = np.flatnonzero(numbers == number)
        waited = frozenset.intersection(*(simulation.backlogged[i] for i in inside))
        if len(waited) > 1:
            tokens = [sum(simulation.served[i][c] for i in inside) for c in waited]
            found.append(sum(tokens) ** 2 / (len(tokens) * sum(t * t for t in tokens)))
    return (float(np.mean(found)) if found else None), len(found)


def _p99(values: np.ndarray) -> float | None:
    return float(np.percentile(values, 99)) if len(values) else None


def _distribution(values: np.ndarray) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    numbers = {"mean": values.mean(), "p50": p50, "p90": p90, "p99": p99, "max": values.max()}
    return {name: round(float(value), 4) for name, value in numbers.items()}
