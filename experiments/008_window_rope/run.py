"""Windows and rope ablations of a trained model: the whole experiment in one command.

python experiments/008_window_rope/run.py
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

from config import Plan
from figure import draw
from positions import loss_by_position
from variants import beyond, within

import ferrum_jax as fj
from ferrum_jax.runtime.record import environment, weights_digest, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

HERE = Path(__file__).parent


def main() -> None:
    """Sweep, score, and write `results.json` and `loss.png`."""
    plan, start = Plan(), time.monotonic()
    with fj.LLM.load(plan.model) as llm:
        documents = read_held_out(llm, plan.far_length)
        near = [ids[: plan.length] for ids in documents.ids]
        table = fj.sweep(llm, within(llm.config, plan), fj.bits_per_byte(near))
        far = [ids for ids in documents.ids if len(ids) == plan.far_length]
        curves = loss_by_position(llm, beyond(llm.config, plan), far, plan)
        digest = weights_digest(llm.params)
    result = {
        **environment("python experiments/008_window_rope/run.py"),
        "config": asdict(plan),
        "weights": digest,
        "texts": documents.describe(),
        "far_documents": len(far),
        "seconds": round(time.monotonic() - start, 1),
        "baseline": [table.baseline.value, table.baseline.error],
        "rows": [
            {
                "what": row.key[0],
                "where": row.key[1],
                "bits_per_byte": [row.value, row.error],
                "change": [row.difference, row.difference_error],
            }
            for row in table.rows[1:]
        ],
        "positions": curves,
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "loss.png")
    print(f"{near_table(result)}\n\n{far_table(result)}\n\n{result['seconds']} s")


def near_table(result: dict) -> str:
    """The sweep as the Markdown table of the README."""
    value, error = result["baseline"]
    lines = [
        "| what | where | bits per byte | change |",
        "|---|---|---:|---:|",
        f"| as trained | | {value:.4f} ± {error:.4f} | |",
    ]
    for row in sorted(result["rows"], key=lambda row: row["where"]):
        (value, error), (change, spread) = row["bits_per_byte"], row["change"]
        cells = f"{value:.4f} ± {error:.4f} | {change:+.4f} ± {spread:.4f}"
        lines.append(f"| {row['what']} | {row['where']} | {cells} |")
    return "\n".join(lines)


def far_table(result: dict) -> str:
    """Loss within and beyond the trained context, likewise."""
    trained, far = result["config"]["length"], result["config"]["far_length"]
    lines = [
        f"| | loss of tokens 1 to {trained - 1} | change | loss of tokens {trained} to {far - 1} "
        "| change |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["positions"]:
        cells = [row["name"]]
        for (value, error), (change, spread) in zip(row["halves"], row["changes"], strict=True):
            cells += [f"{value:.3f} ± {error:.3f}", f"{change:+.3f} ± {spread:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
