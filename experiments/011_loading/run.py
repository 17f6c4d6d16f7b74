"""How long a checkpoint of 1.1 billion parameters takes to load, and how much memory.

python experiments/011_loading/run.py
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from checkpoint import forget, write
from config import Plan

from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Write the checkpoint, load it in every way, write `results.json`; the checkpoint goes."""
    plan = Plan()
    with tempfile.TemporaryDirectory() as temporary:
        directory, start = Path(temporary), time.monotonic()
        stored = write(plan, directory)
        print(f"{stored / 1e9:.2f} GB written in {time.monotonic() - start:.0f} s", flush=True)
        rows = []
        for dtype in plan.dtypes:
            for cached in plan.cached:
                rows.append(load(plan, directory, dtype, cached))
                print(line(rows[-1]), flush=True)
    same = {row["dtype"]: row["tokens"] for row in rows}
    assert all(row["tokens"] == same[row["dtype"]] for row in rows), "another text a second time"
    result = {
        **environment("python experiments/011_loading/run.py"),
        "config": asdict(plan),
        "stored": stored,
        "rows": rows,
    }
    write_json(HERE / "results.json", result)
    print("\n" + table(rows))


def load(plan: Plan, directory: Path, dtype: str, cached: bool) -> dict:
    """One load in a process of its own, and what its progress bar showed."""
    if not cached:
        forget(directory)
    command = [sys.executable, str(HERE / "load_once.py"), str(directory), dtype]
    run = subprocess.run(
        [*command, str(plan.generated)], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    ratio = (found["peak"] - found["before"]) / found["weights"]
    assert ratio < plan.bound, f"the peak is {ratio:.2f} of the weights"
    assert np.isfinite(found["logprobs"]).all()
    bars = [
        shown.strip() for shown in run.stderr.replace("\n", "\r").split("\r") if "load:" in shown
    ]
    middle = bars[len(bars) // 2]
    return {"dtype": dtype, "cached": cached, **found, "ratio": ratio, "bar": [middle, bars[-1]]}


def line(row: dict) -> str:
    """What is printed of one load."""
    where = "from memory" if row["cached"] else "from disk"
    return (
        f"{row['dtype']} {where}: {row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s of a core), "
        f"peak {row['ratio']:.3f} of the weights\n  {row['bar'][0]}\n  {row['bar'][1]}"
    )


def table(rows: list[dict]) -> str:
    """The loads as the Markdown table of the README."""
    lines = [
        "| loaded as | files | seconds | of a core | weights (GB) | peak above the start (GB) "
        "| ratio | resident afterwards (GB) |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            row["dtype"],
            "cached" if row["cached"] else "on disk",
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['weights'] / 1e9:.2f}",
            f"{(row['peak'] - row['before']) / 1e9:.2f}",
            f"{row['ratio']:.3f}",
            f"{(row['after'] - row['before']) / 1e9:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
