"""How long a whole decode step takes on a GPU, and how near that is to its bandwidth: one command.

python experiments/021_gpu_step/run.py

`results.json` is written anew after every measurement, so a run can be stopped anywhere; it stops
by itself in under 9 minutes. `--interpret` runs the same path in a small form on a CPU, and writes
where `--out` says: it shows that the script runs, nothing of a GPU.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config import DRY, Plan
from figure import draw
from peer import transformers_row
from steps import random_params, step_row

from ferrum_jax.cli.bench_limits import LimitMeter
from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Time, and write `results.json` and `step.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interpret", action="store_true", help="a small run on a CPU")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.interpret and arguments.out == HERE:
        parser.error("--interpret measures nothing: name another folder with --out")
    warnings.filterwarnings("ignore", message="The Pallas Triton backend is deprecated")
    plan, start = DRY if arguments.interpret else Plan(), time.monotonic()
    result = {
        **environment("python experiments/021_gpu_step/run.py"),
        "interpreted": plan.interpret,
        "config": asdict(plan),
        "complete": False,
        "rows": [],
    }
    platform = result["device"]["platform"]
    if platform != "gpu" and not plan.interpret:
        parser.error(f"this is {platform}, not a GPU; see --interpret")
    meter = LimitMeter(platform, "bfloat16", plan.limit_megabytes)
    limits = meter.measure()
    result["limits"] = {"read": limits.read_rate, "multiply": limits.multiply_rate}
    del meter
    for row in measure(plan, start, limits.read_rate):
        result["rows"].append(row)
        result["seconds"] = round(time.monotonic() - start, 1)
        write_json(arguments.out / "results.json", result)
        print(describe(row), flush=True)
    result["complete"] = time.monotonic() - start < plan.seconds
    write_json(arguments.out / "results.json", result)
    draw(result, arguments.out / "step.png")


def measure(plan: Plan, start: float, read_rate: float) -> Iterator[dict[str, Any]]:
    """Our steps of every model first, then plain transformers; none begins when time is over."""

    def left() -> float:
        return plan.seconds - (time.monotonic() - start)

    for sizes in plan.models:
        params = random_params(sizes)
        for batch in plan.batches:
            for attention in plan.attentions:
                if left() <= 0:
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
            if left() > 0:
                row = transformers_row(sizes, batch, plan, min(90.0, max(10.0, left())))
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
