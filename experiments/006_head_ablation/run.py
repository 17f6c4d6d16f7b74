"""What losing each head costs, beside what it looks at: the whole experiment in one command.

python experiments/006_head_ablation/run.py
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations import ablations, metrics
from config import Plan
from figure import draw
from relation import SCORES, relations

import ferrum_jax as fj
from ferrum_jax.runtime.record import environment, weights_digest, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

HERE = Path(__file__).parent


def main() -> None:
    """Read, ablate, and write `results.json` and `heads.png`."""
    plan, start = Plan(), time.monotonic()
    with fj.LLM.load(plan.model) as llm:
        documents = read_held_out(llm, plan.length + plan.donor_length)
        scores = fj.reading.induction_scores(
            llm, length=plan.repeat_length, count=plan.sequences, seed=plan.seed
        )
        variants = ablations(llm, documents, plan)
        tables = {
            text: fj.sweep(llm, variants, metric, seed=plan.seed)
            for text, metric in metrics(llm, documents, plan).items()
        }
        digest = weights_digest(llm.params)
    # Costs: more bits per byte; fewer nats of logprob, per token of the second copy.
    signs = {"held-out": 1.0, "repeats": -1.0 / (plan.repeat_length - 1)}
    result = {
        **environment("python experiments/006_head_ablation/run.py"),
        "config": asdict(plan),
        "weights": digest,
        "texts": documents.describe(),
        "seconds": round(time.monotonic() - start, 1),
        "baseline": {
            text: [abs(signs[text] * x) for x in (table.baseline.value, table.baseline.error)]
            for text, table in tables.items()
        },
        "heads": heads(tables, signs, scores),
        "correlations": {
            text: {kind: relations(table, kind, signs[text], scores, plan) for kind in plan.kinds}
            for text, table in tables.items()
        },
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "heads.png")
    print(f"{result['baseline']}\n\n{head_table(result)}\n\n{correlation_table(result)}")
    print(f"\n{result['seconds']} s")


def heads(tables: dict, signs: dict[str, float], scores: fj.reading.InductionScores) -> list[dict]:
    """Per head its scores and its costs, each `[value, standard error]`."""
    found = []
    for layer, head in _places(scores):
        record: dict[str, Any] = {"layer": layer, "head": head}
        for name in SCORES:
            value, error = (getattr(scores, n)[layer, head] for n in (name, f"{name}_error"))
            record[name] = [float(value), float(error)]
        for text, table in tables.items():
            record[text] = {
                kind: [signs[text] * row.difference, abs(signs[text]) * row.difference_error]
                for kind in table.axes["kind"]
                for row in [table[(kind, layer, head)]]
            }
        found.append(record)
    return found


def _places(scores: fj.reading.InductionScores) -> list[tuple[int, int]]:
    layers, count = scores.induction.shape
    return [(layer, head) for layer in range(layers) for head in range(count)]


def head_table(result: dict) -> str:
    """All heads, as the Markdown table of the README."""
    kinds = result["config"]["kinds"]
    texts = list(result["baseline"])
    columns = [f"{text}, {kind}" for text in texts for kind in kinds]
    lines = [
        f"| head | induction | previous token | {' | '.join(columns)} |",
        "|---|" + "---:|" * (2 + len(columns)),
    ]
    for row in result["heads"]:
        cells = [f"{row['layer']}.{row['head']}"]
        cells += [f"{row[name][0]:.2f}" for name in SCORES[:2]]
        cells += [_cell(row[text][kind]) for text in texts for kind in kinds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: list[float]) -> str:
    return f"{value[0]:+.3f} ± {value[1]:.3f}"


def correlation_table(result: dict) -> str:
    """Rank correlations, likewise."""
    titles = [name.replace("_", " ") for name in SCORES]
    lines = [f"| cost on | ablation | {' | '.join(titles)} |", "|---|---|" + "---:|" * len(titles)]
    for text, kinds in result["correlations"].items():
        for kind, found in kinds.items():
            cells = [f"{v:+.2f} ± {d:.2f} ± {h:.2f}" for v, d, h in found.values()]
            lines.append(f"| {text} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
