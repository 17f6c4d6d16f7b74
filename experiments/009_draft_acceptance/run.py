"""How often drafts would be accepted, and what that would be worth: the whole experiment.

python experiments/009_draft_acceptance/run.py
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from acceptance import expected_tokens, judge, log_probs, mean_of, survivals
from config import Plan
from cost import step_costs
from drafts import Draft, Text, drafts, texts
from figure import draw
from lookup import lookup_survivals
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.runtime.record import environment, weights_digest, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out

HERE = Path(__file__).parent


def main() -> None:
    """Judge, time, and write `results.json` and `acceptance.png`."""
    plan, start = Plan(), time.monotonic()
    # Rounded models have engines of their own; the cache lets them share programs.
    with tempfile.TemporaryDirectory() as cache:
        llm = fj.LLM.load(plan.model, engine=fj.EngineConfig(compile_cache_dir=cache))
        documents = read_held_out(llm, plan.prompt + plan.generated)
        costs = step_costs(llm, plan)
        found = texts(llm, documents.ids, plan)
        rows = [*judged(llm, found, costs, plan), looked_up(found, plan)]
    for row in rows:
        row["speed_ups"] = speed_ups(row)
    result = {
        **environment("python experiments/009_draft_acceptance/run.py"),
        "config": asdict(plan),
        "weights": weights_digest(llm.params),
        "texts": documents.describe(),
        "step_costs": costs,
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "acceptance.png")
    print(f"{acceptance_table(rows)}\n\n{length_table(rows)}\n\n{costs}\n\n{result['seconds']} s")


def judged(llm: fj.LLM, found: list[Text], costs: dict, plan: Plan) -> Iterator[dict]:
    """A record for every model that drafts."""
    target = log_probs(Draft("target", llm), found)
    for draft in tqdm(drafts(llm, plan), unit="draft"):
        own = log_probs(draft, found)
        if draft.llm is not llm:
            draft.llm.close()
        held_out, sampled, greedy = (
            [judge(*pair, ids) for *pair, ids in zip(p, q, text.ids, strict=True)]
            for p, q, text in zip(target, own, found, strict=True)
        )
        runs = {
            "sampled": [survivals(x.kept, plan.longest_draft) for x in sampled],
            "greedy": [survivals(x.agrees, plan.longest_draft) for x in greedy],
        }
        yield {
            "draft": draft.name,
            "step_cost": draft.assumed_cost or costs[draft.missing_layers][0],
            "cost_is_assumed": draft.assumed_cost is not None,
            "accepted": {
                "held-out": mean_of([x.accepted for x in held_out]),
                "sampled": mean_of([x.accepted for x in sampled]),
            },
            "agreement": {
                "held-out": mean_of([x.agrees for x in held_out]),
                "greedy": mean_of([x.agrees for x in greedy]),
            },
            "tokens": {text: expected_tokens(found) for text, found in runs.items()},
        }


def looked_up(found: list[Text], plan: Plan) -> dict:
    """The record of prompt lookup, whose drafts cost no step."""
    held_out, sampled, greedy = (
        [lookup_survivals(ids, text.start, plan.ngram, plan.longest_draft) for ids in text.ids]
        for text in found
    )
    return {
        "draft": f"prompt lookup, {plan.ngram}-grams",
        "step_cost": 0.0,
        "cost_is_assumed": True,
        "accepted": {
            "held-out": mean_of([x[:, 0] for x in held_out]),
            "sampled": mean_of([x[:, 0] for x in sampled]),
        },
        "agreement": {"held-out": None, "greedy": mean_of([x[:, 0] for x in greedy])},
        "tokens": {"sampled": expected_tokens(sampled), "greedy": expected_tokens(greedy)},
    }


def speed_ups(row: dict) -> dict[str, list[float]]:
    """`[factor, draft length]` at the best length, if a verification costs one step."""
    return {
        text: max(
            [tokens / (1 + length * row["step_cost"]), length]
            for length, (tokens, _) in enumerate(values, 1)
        )
        for text, values in row["tokens"].items()
    }


def acceptance_table(rows: list[dict]) -> str:
    """Acceptance and agreement as the Markdown table of the README."""
    lines = [
        "| draft | accepted, held-out | accepted, own samples | greedy agreement, held-out "
        "| greedy agreement, own text | cost of a step | speed-up, sampling | speed-up, greedy |",
        "|---|" + "---:|" * 7,
    ]
    for row in rows:
        cells = [row["draft"]]
        cells += [_percent(row["accepted"][text]) for text in ("held-out", "sampled")]
        cells += [_percent(row["agreement"][text]) for text in ("held-out", "greedy")]
        cells.append(f"{row['step_cost']:.2f}{' (assumed)' * row['cost_is_assumed']}")
        cells += [_speed_up(row, text) for text in ("sampled", "greedy")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: list[float] | None) -> str:
    return "" if value is None else f"{100 * value[0]:.1f} ± {100 * value[1]:.1f} %"


def _speed_up(row: dict, text: str) -> str:
    factor, length = row["speed_ups"][text]
    return f"{factor:.2f} at {length}"


def length_table(rows: list[dict]) -> str:
    """Expected tokens by draft length, measured along runs and if tokens were independent."""
    lengths = (1, 2, 4, 8)
    heads = [f"{text}, {length}" for text in ("sampling", "greedy") for length in lengths]
    lines = [
        f"| draft | {' | '.join(heads)} | sampling, 8, if independent |",
        "|---|" + "---:|" * (len(heads) + 1),
    ]
    for row in rows:
        cells = [row["draft"]]
        for text in ("sampled", "greedy"):
            pairs = [row["tokens"][text][length - 1] for length in lengths]
            cells += [f"{value:.2f} ± {error:.2f}" for value, error in pairs]
        rate = row["accepted"]["sampled"][0]
        cells.append(f"{sum(rate**k for k in range(lengths[-1] + 1)):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
