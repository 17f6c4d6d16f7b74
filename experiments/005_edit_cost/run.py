"""What edits and captures cost: the whole experiment in one command.

python experiments/005_edit_cost/run.py
"""

import time
from dataclasses import asdict
from pathlib import Path

from config import Plan
from figure import draw
from operations import count_operations
from timing import capture_costs, edit_costs

import ferrum_jax as fj
from ferrum_jax.runtime.record import environment, weights_digest, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Time, count, and write `results.json` and `cost.png`."""
    plan, start = Plan(), time.monotonic()
    pages = plan.requests * -(-plan.scored // plan.page_size + 1)
    engine = fj.EngineConfig(
        max_num_seqs=plan.requests, page_size=plan.page_size, num_pages=pages + 1
    )
    with fj.LLM.load(plan.model, engine=engine) as llm:
        rows = [*edit_costs(llm, plan), *capture_costs(llm, plan)]
        result = {
            **environment("python experiments/005_edit_cost/run.py"),
            "config": asdict(plan),
            "weights": weights_digest(llm.params),
            "operations": count_operations(llm, plan),
            "seconds": round(time.monotonic() - start, 1),
            "rows": rows,
        }
    write_json(HERE / "results.json", result)
    draw(rows, HERE / "cost.png")
    print(table(rows))
    print(f"\n{operations_table(result['operations'])}\n\n{result['seconds']} s")


def table(rows: list[dict]) -> str:
    """The ratios as the Markdown table of the README."""
    lines = [
        "| job | kind | tokens/s | of the plain throughput: median | quartiles "
        "| per CPU second: median | quartiles | programs compiled |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            row["job"],
            row["kind"],
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["quartiles"]),
            f"{row['cpu_ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["cpu_quartiles"]),
            str(row.get("programs", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def operations_table(counts: dict[str, int]) -> str:
    """Counts of operations, likewise."""
    lines = ["| forward | operations |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {count:,} |" for name, count in counts.items())])


if __name__ == "__main__":
    main()
