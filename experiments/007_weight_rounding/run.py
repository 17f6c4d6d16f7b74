"""What rounding the weights costs, and where: the whole experiment in one command.

python experiments/007_weight_rounding/run.py
"""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from config import Plan
from figure import draw
from rounding import EMBEDDING, MATRICES, Rounding, rounded_model, shares

import ferrum_jax as fj
from ferrum_jax.research.compare import Estimate
from ferrum_jax.research.sweep import SweepTable
from ferrum_jax.runtime.record import environment, weights_digest, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

HERE = Path(__file__).parent
PERCENTS = (50.0, 99.0)


def main() -> None:
    """Round, compare, and write `results.json` and `rounding.png`."""
    plan, start = Plan(), time.monotonic()
    # Every rounded model has an engine of its own; the cache lets them share programs.
    with tempfile.TemporaryDirectory() as cache:
        llm = fj.LLM.load(plan.model, engine=fj.EngineConfig(compile_cache_dir=cache))
        documents = read_held_out(llm, plan.length)
        rows = [whole_model(llm, rounding, documents.ids, plan) for rounding in plan.roundings]
        parts = sweep_parts(llm, documents.ids, plan)
    result = {
        **environment("python experiments/007_weight_rounding/run.py"),
        "config": asdict(plan),
        "weights": weights_digest(llm.params),
        "texts": documents.describe(),
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
        "shares": shares(llm),
        "parts": [
            {"name": row.name, "kld": [row.difference, row.difference_error]}
            for row in parts.rows[1:]
        ],
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "rounding.png")
    print(f"{table(rows)}\n\n{parts_table(result)}\n\n{result['seconds']} s")


def whole_model(llm: fj.LLM, rounding: Rounding, texts: tuple[list[int], ...], plan: Plan) -> dict:
    """All matrices rounded, compared with the model as it is."""
    with rounded_model(llm, rounding) as other:
        found = fj.compare(
            llm,
            other,
            texts,
            names=("float32", rounding.name),
            parting=plan.parting,
            seed=plan.seed,
        )
    assert found.parting is not None
    estimates = ("kld", "same_top", "ratio", "delta_p_rms")
    return {
        "rounding": rounding.name,
        "bits_per_weight": rounding.bits_per_weight,
        **{name: _pair(getattr(found, name)) for name in estimates},
        "kld_percentiles": {str(p): _pair(found.kld_percentiles[p]) for p in PERCENTS},
        "curve": {str(p): e.value for p, e in found.kld_percentiles.items()},
        "parted": found.parting.first,
        "activation_errors": dict(zip(found.parting.sites, found.parting.errors, strict=True)),
    }


def _pair(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.error]


def sweep_parts(llm: fj.LLM, texts: tuple[list[int], ...], plan: Plan) -> SweepTable:
    """One kind of matrix in all layers, then all kinds in one layer."""
    rounding = next(r for r in plan.roundings if r.name == plan.swept)
    variants = {kind: rounded_model(llm, rounding, [kind]) for kind in (*MATRICES, EMBEDDING)}
    for layer in range(llm.config.num_layers):
        variants[f"layer {layer}"] = rounded_model(llm, rounding, tuple(MATRICES), [layer])
    return fj.sweep(llm, variants, fj.kl_from_baseline(texts))


def table(rows: list[dict]) -> str:
    """The roundings as the Markdown table of the README."""
    lines = [
        "| weights | bits | KLD, mean (nats) | median | 99 % | same top-1 | PPL ratio "
        "| rms change of p | parted at |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        parted = row["parted"]
        median, high = (row["kld_percentiles"][str(p)] for p in PERCENTS)
        cells = [
            row["rounding"],
            f"{row['bits_per_weight']:g}",
            f"{row['kld'][0]:.2g} ± {row['kld'][1]:.1g}",
            f"{median[0]:.2g}",
            f"{high[0]:.2g} ± {high[1]:.1g}",
            f"{100 * row['same_top'][0]:.2f} ± {100 * row['same_top'][1]:.2f} %",
            f"{row['ratio'][0]:.4f} ± {row['ratio'][1]:.4f}",
            f"{100 * row['delta_p_rms'][0]:.2g} %",
            "nowhere" if parted is None else f"layer {parted[0]}, `{parted[1]}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(result: dict) -> str:
    """The parts, likewise."""
    lines = ["| rounded | share of the weights | KLD, mean (nats) |", "|---|---:|---:|"]
    for row in result["parts"]:
        share = result["shares"].get(row["name"])
        cell = "" if share is None else f"{100 * share:.1f} %"
        lines.append(f"| {row['name']} | {cell} | {row['kld'][0]:.4f} ± {row['kld'][1]:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
