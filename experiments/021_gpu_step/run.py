"""How long a whole decode step takes on a GPU, and how near that is to its bandwidth: one command.

python experiments/021_gpu_step/run.py

`results.json` is written anew after every measurement, so a run can be stopped anywhere; it stops
by itself in under 9 minutes. `--interpret` runs the same path in a small form on a CPU, and writes
where `--out` says: it shows that the script runs, nothing of a GPU.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config import DRY, Plan
from figure import draw
from peer import transformers_row
from steps import random_params, step_row

from ferrum_jax.cli.bench_limits import LimitMeter

sys.path.append(str(Path(__file__).parents[1]))
from gpu_run import GpuRun


def main() -> None:
    """Time, and write `results.json` and `step.png`."""
    run = GpuRun(Path(__file__).parent, __doc__, full=Plan(), small=DRY)
    meter = LimitMeter(run.platform, "bfloat16", run.plan.limit_megabytes)
    limits = meter.measure()
    run.result["limits"] = {"read": limits.read_rate, "multiply": limits.multiply_rate}
    del meter
    for row in measure(run, limits.read_rate):
        run.add(row, describe(row))
    run.finish(draw, "step.png")


def measure(run: GpuRun, read_rate: float) -> Iterator[dict[str, Any]]:
    """Our steps of every model first, then plain transformers; none begins when time is over."""
    plan: Plan = run.plan
    for sizes in plan.models:
        params = random_params(sizes)
        for batch in plan.batches:
            for attention in plan.attentions:
                if run.left <= 0:
                    return
                named = {"model": sizes.name, "batch": batch, "by": attention}
                try:
                    row = step_row(sizes, params, batch, attention, plan)
                    share = row["bytes"] / read_rate / row["seconds"]
                    yield {**named, **row, "of_bandwidth": share}
                except Exception as error:
                    yield {**named, "error": str(error)[:600]}
        del params
    for sizes in plan.models:
        for batch in plan.batches:
            if run.left > 0:
                row = transformers_row(sizes, batch, plan, min(90.0, max(10.0, run.left)))
                yield {"model": sizes.name, "batch": batch, "by": "transformers", **row}


def describe(row: dict[str, Any]) -> str:
    """A row in a line."""
    named = f"{row['model']}, batch {row['batch']}, {row['by']}"
    if "seconds" not in row:
        return f"{named}: {row['error']}"
    text = f"{named}: {row['seconds'] * 1e3:.2f} ms, {row['batch'] / row['seconds']:,.0f} tokens/s"
    return text + (f", {row['of_bandwidth']:.2f} of the bandwidth" if "of_bandwidth" in row else "")


if __name__ == "__main__":
    main()
