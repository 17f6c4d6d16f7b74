"""How fast the engine is with drafts, and how many of them it accepts.

    python experiments/012_speculation/run.py

Needs `draft/`, which `distil.py` makes. Writes `results.json` and `speculation.png`.
"""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from config import Plan
from distil import DIRECTORY
from figure import draw
from timing import timed
from tqdm import tqdm
from workloads import workloads

import ferrum_jax as fj
from ferrum_jax.runtime.record import environment, weights_digest, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Time, and write `results.json` and `speculation.png`."""
    plan, start = Plan(), time.monotonic()
    with fj.LLM.load("demo") as llm:
        work, digest = workloads(llm, plan), weights_digest(llm.params)
    rows = []
    jobs = [(workload, batch) for batch in plan.batches for workload in work]
    with tempfile.TemporaryDirectory() as cache:
        for workload, batch in tqdm(jobs, unit="job"):
            rows += timed(workload, batch, plan, cache)
    result = {
        **environment("python experiments/012_speculation/run.py"),
        "config": asdict(plan),
        "weights": digest,
        "draft_weights": weights_digest(fj.load_model(DIRECTORY)[1]),
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "speculation.png")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """One line for each way to draft."""
    lines = [
        "| batch | text | drafts | accepted | tokens a step | speed | per CPU second |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = f"{100 * row['accepted'] / row['drafted']:.1f} %" if row["drafted"] else "-"
        speed, cpu = row["speed"], row["speed_per_cpu_second"]
        lines.append(
            f"| {row['batch']} | {row['workload']} | {row['variant']} | {share} "
            f"| {row['tokens_per_row']:.2f} | {speed[0]:.2f} ({speed[1]:.2f} to {speed[2]:.2f}) "
            f"| {cpu[0]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
