"""Which way a mixture of experts multiplies fastest on a CPU: the whole experiment in one command.

python experiments/010_moe_path/run.py
"""

import time
from dataclasses import asdict
from pathlib import Path

from config import Plan
from figure import draw
from paths import measured
from tqdm import tqdm

from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent
OTHERS = ("ragged_dot", "gathered")


def main() -> None:
    """Time, and write `results.json` and `paths.png`."""
    plan, start = Plan(), time.monotonic()
    count = len(plan.experts) * len(plan.tokens)
    rows = list(tqdm(measured(plan), total=count, unit="size"))
    result = {
        **environment("python experiments/010_moe_path/run.py"),
        "config": asdict(plan),
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
    }
    write_json(HERE / "results.json", result)
    draw(rows, HERE / "paths.png")
    print(f"{table(rows)}\n\n{result['seconds']} s")


def table(rows: list[dict]) -> str:
    """The times as the Markdown table of the README."""
    lines = [
        "| experts | tokens | tile | ms | ragged_dot | gathered | best tile |",
        "|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ratios = row["times_chosen"]
        tiles = {name: ratio for name, ratio in ratios.items() if name.startswith("tiles")}
        best = min(tiles, key=lambda name: tiles[name])
        cells = [
            f"{row['experts']}, {row['experts_per_token']} a token",
            str(row["tokens"]),
            str(row["tile"]),
            f"{row['milliseconds']['chosen']:.2f}",
            *(
                f"{ratios[name]:.1f}" if name in ratios else ""
                for name in ("ragged_dot", "gathered")
            ),
            f"{best.removeprefix('tiles of ')} ({tiles[best]:.2f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
