"""Which logprobs keep their bits, and what that costs: the whole experiment in one command.

python experiments/003_batch_invariance/run.py
"""

import hashlib
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean

import cost
from compare import compare
from config import Plan
from figure import draw

from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Compare, time, and write `results.json` and `invariance.png`."""
    plan, start = Plan(), time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        rows = list(compare(plan.comparison, cache))
        compared = time.monotonic()
        costs = list(cost.measure(plan.cost))
    result = {
        **describe_run(plan),
        "seconds": {
            "comparison": round(compared - start, 1),
            "cost": round(time.monotonic() - compared, 1),
        },
        "rows": rows,
        "costs": costs,
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "invariance.png")
    print(f"{bits_table(result)}\n\n{cost_table(result)}\n\n{result['seconds']}")


def describe_run(plan: Plan) -> dict:
    """Everything needed to know and to repeat this run."""
    return {
        **environment("python experiments/003_batch_invariance/run.py"),
        "config": asdict(plan),
        "seeds": {"order": plan.comparison.order_seed, "cost": plan.cost.seed},
        "weights_sha256": hashlib.sha256(
            (DEMO_MODEL / "model.safetensors").read_bytes()
        ).hexdigest(),
    }


def bits_table(result: dict) -> str:
    """Shares of equal bits, as the Markdown table of the README."""
    rows = {(r["dtype"], r["batch_invariant"], r["setting"]): r for r in result["rows"]}
    dtypes = result["config"]["comparison"]["dtypes"]
    head = " | ".join(
        f"{dtype}, plain | largest difference | other tokens | {dtype}, invariant"
        for dtype in dtypes
    )
    lines = [f"| setting | {head} |", "|" + "---|" * (1 + 4 * len(dtypes))]
    for setting in dict.fromkeys(row["setting"] for row in result["rows"]):
        cells = [setting]
        for dtype in dtypes:
            plain, invariant = rows[dtype, False, setting], rows[dtype, True, setting]
            worst = plain["max_difference"]
            cells += [_share(plain), f"{worst:.1e}" if worst else "0", str(plain["other_tokens"])]
            cells.append(_share(invariant))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(row: dict) -> str:
    equal = row["equal"] == row["positions"]
    return "**all**" if equal else f"{100 * row['equal_fraction']:.1f} %"


def cost_table(result: dict) -> str:
    """Rates, and the invariant engines' over the plain one's."""
    sizes = result["config"]["cost"]["tile_rows"]
    costs = {(r["model"], r["workload"], r["tile_rows"]): r for r in result["costs"]}
    head = " | ".join(f"tiles of {size}" for size in sizes)
    lines = [f"| model | workload | plain, tokens/s | {head} |", "|" + "---|" * (3 + len(sizes))]
    for model, workload in dict.fromkeys((m, w) for m, w, _ in costs):
        plain = costs[model, workload, None]["tokens_per_second"]
        ratios = [f"{costs[model, workload, s]['rate_over_plain']:.2f}" for s in sizes]
        lines.append(f"| {model} | {workload} | {plain:,.0f} | {' | '.join(ratios)} |")
    for model in result["config"]["cost"]["models"]:
        means = [f"{_mean_rate(result, model, size):.2f}" for size in sizes]
        lines.append(f"| {model} | geometric mean | | {' | '.join(means)} |")
    return "\n".join(lines)


def _mean_rate(result: dict, model: str, size: int) -> float:
    rates = [
        row["rate_over_plain"]
        for row in result["costs"]
        if (row["model"], row["tile_rows"]) == (model, size)
    ]
    return geometric_mean(rates)


if __name__ == "__main__":
    main()
