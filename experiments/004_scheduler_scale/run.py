"""The scheduler at scale: the whole experiment in one command.

python experiments/004_scheduler_scale/run.py           # a few minutes on one core
python experiments/004_scheduler_scale/run.py --quick   # a smoke run; writes no results
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import figure
import steady
from config import QUICK, Plan, Workload
from simulator import CollectorClock, Simulation
from summary import describe, describe_jobs, describe_policy, series
from tqdm import tqdm
from workloads import jobs

from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Simulate, measure, and write `results.json` and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    quick = parser.parse_args().quick
    plan, start = QUICK if quick else Plan(), time.monotonic()
    with CollectorClock() as collector:
        found = {
            "steady": list(run_steady(plan, collector)),
            "workloads": list(run_workloads(plan, collector)),
            "policies": list(run_policies(plan, collector)),
            "evictions": list(run_evictions(plan, collector)),
        }
    seconds = round(time.monotonic() - start, 1)
    # Only now: a device that has started is more for Python's collector to visit.
    result = {**describe_run(plan), **found, "seconds": seconds}
    folder = Path(tempfile.mkdtemp()) if quick else HERE
    write_json(folder / "results.json", result)
    figure.draw(result, folder)
    print("\n\n".join(tables(result)))
    print(f"\n{result['seconds']:.0f} s; results and figures in {folder if quick else HERE.name}")


def describe_run(plan: Plan) -> dict:
    """Everything needed to know and to repeat this run."""
    return {
        **environment("python experiments/004_scheduler_scale/run.py"),
        "config": asdict(plan) | {"workloads": [asdict(w) for w in plan.scale.workloads]},
        "seeds": {
            workload.name: workload.seed
            for workload in (
                *plan.scale.workloads,
                plan.policies.workload,
                replace(plan.evictions.workload, name="evictions"),
            )
        },
    }


def run_steady(plan: Plan, collector: CollectorClock) -> Iterator[dict]:
    """CPU time of a step by the number of running requests."""
    for rows in tqdm(plan.steady.rows, desc="cost of a step", unit="size"):
        yield from steady.measure(plan, rows, collector)


def run_workloads(plan: Plan, collector: CollectorClock) -> Iterator[dict]:
    """Every large workload, first come first served.

    A second time with `gc.freeze()`: then Python's collector leaves alone what was there before,
    the modules of jax above all.
    """
    for workload in plan.scale.workloads:
        simulation = _large(plan, workload, collector)
        found = describe_jobs(workload) | describe(simulation) | {"series": series(simulation)}
        gc.freeze()
        frozen = describe(_large(plan, workload, collector))
        gc.unfreeze()
        yield found | {"schedule_ms_frozen": frozen["schedule_ms_with_collector"]}


def _large(plan: Plan, workload: Workload, collector: CollectorClock) -> Simulation:
    engine = plan.scale.engine(workload)
    simulation = Simulation(engine, plan.scale.num_pages, plan.cost, collector)
    _play(simulation, workload, workload.name)
    return simulation


def run_policies(plan: Plan, collector: CollectorClock) -> Iterator[dict]:
    """The same bursts under every policy."""
    load = plan.policies
    for policy, preemption in load.runs:
        simulation = Simulation(
            load.engine(policy, preemption),
            load.num_pages,
            plan.cost,
            collector,
            host_pages=load.host_pages if preemption == "swap" else 0,
            by_client=True,
        )
        _play(simulation, load.workload, f"{policy}, {preemption}")
        found = describe_policy(simulation, load.window)
        yield {"policy": policy, "preemption": preemption, **found}


def run_evictions(plan: Plan, collector: CollectorClock) -> Iterator[dict]:
    """Hit rates by eviction policy and size of the pool; at last that of a pool without limits."""
    load = plan.evictions
    runs = [(name, pages) for pages in load.num_pages for name in load.evictions]
    for eviction, pages in [*runs, ("lru", load.unlimited_pages)]:
        simulation = Simulation(load.engine(eviction), pages, plan.cost, collector)
        _play(simulation, load.workload, f"{eviction}, {pages} pages")
        found = describe(simulation)
        picked = ("hit_rate", "preemptions", "requests_ended", "all_pages_free")
        yield {"eviction": eviction, "num_pages": pages} | {name: found[name] for name in picked}


def _play(simulation: Simulation, workload: Workload, name: str) -> None:
    with tqdm(total=workload.count, desc=name, unit="request") as bar:
        for ended in simulation.run(jobs(workload)):
            bar.update(ended - bar.n)


def tables(result: dict) -> Iterator[str]:
    """The tables of the README."""
    yield _table(
        "situation | policy | 64 | 256 | 1,024 | 4,096 | 4,096 / 1,024",
        [_steady_cells(result, s, p) for s in steady.SITUATIONS for p in _policies(result)],
    )
    yield _table(
        "workload | ended | running, mean / most | waiting, most | prefix hits | TTFT p50 / p99, s "
        "| steps | device's step, mean (ms)",
        [_load_cells(row) for row in result["workloads"]],
    )
    yield _table(
        "workload | us a row | p50 | p99 | most | with collector: p99 | most | frozen: p99 | most "
        "| share of device time",
        [_host_cells(row) for row in result["workloads"]],
    )
    yield _table(
        "policy | queue p50 / p99 / most | TTFT p50 / p99 | total, mean | longest gap "
        "| TTFT p99, heaviest client | four lightest | low level | critical | Jain's index "
        "| preempted | tokens computed",
        [_policy_cells(row) for row in result["policies"]],
    )
    yield _eviction_table(result["evictions"])


def _policies(result: dict) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in result["steady"]))


def _steady_cells(result: dict, situation: str, policy: str) -> list[str]:
    found = {
        row["running"]: row["ms_median"]
        for row in result["steady"]
        if (row["situation"], row["policy"]) == (situation, policy)
    }
    cells = [f"{found[n]:.2f}" if n in found else "-" for n in (64, 256, 1024, 4096)]
    growth = f"{found[4096] / found[1024]:.1f}" if 4096 in found else "-"
    return [situation, policy, *cells, growth]


def _load_cells(row: dict) -> list[str]:
    first = row["first_token_seconds"]
    return [
        row["name"],
        f"{row['requests_ended']:,}",
        f"{row['running_mean']:,.0f} / {row['running_max']:,}",
        f"{row['waiting_max']:,}",
        _percent(row["hit_rate"]),
        f"{first['p50']:.2f} / {first['p99']:.2f}",
        f"{row['steps']:,}",
        f"{1e3 * row['device_busy_seconds'] / row['steps']:.0f}",
    ]


def _host_cells(row: dict) -> list[str]:
    kinds = ("schedule_ms_with_collector", "schedule_ms_frozen")
    return [
        row["name"],
        f"{row['schedule_us_a_row']:.2f}",
        *(f"{row['schedule_ms'][name]:.2f}" for name in ("p50", "p99", "max")),
        *(f"{row[kind][name]:.0f}" for kind in kinds for name in ("p99", "max")),
        _percent(row["schedule_share_of_device_time"]),
    ]


def _policy_cells(row: dict) -> list[str]:
    queue, first = row["queue_seconds"], row["first_token_seconds"]
    swap = ", swap" if row["preemption"] == "swap" else ""
    return [
        row["policy"] + swap,
        " / ".join(f"{queue[name]:.2f}" for name in ("p50", "p99", "max")),
        " / ".join(f"{first[name]:.2f}" for name in ("p50", "p99")),
        f"{row['total_seconds']['mean']:.2f}",
        f"{row['longest_gap_seconds']:.2f}",
        *(_number(row[f"first_token_p99_{who}"]) for who in ("heavy", "light", "low", "critical")),
        _number(row["jain_index"]),
        f"{row['preemptions']:,}",
        f"{row['tokens']:,}",
    ]


def _eviction_table(rows: list[dict]) -> str:
    rates = {(row["eviction"], row["num_pages"]): row["hit_rate"] for row in rows}
    names = list(dict.fromkeys(name for name, _ in rates))
    sizes = list(dict.fromkeys(size for _, size in rates))
    cells = [
        [name, *(_percent(rates.get((name, size), rates.get(("lru", size)))) for size in sizes)]
        for name in names
    ]
    return _table(" | ".join(["pages", *(f"{size:,}" for size in sizes)]), cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
