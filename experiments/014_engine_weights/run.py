"""What the engine's formats of weights cost and save: the whole experiment in one command.

python experiments/014_engine_weights/run.py
"""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from config import Plan
from figure import draw
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.research.compare import Estimate
from ferrum_jax.runtime.record import environment, write_json

sys.path.append(str(Path(__file__).parent.parent))
from held_out import read_held_out, read_training

HERE = Path(__file__).parent


def main() -> None:
    """Compare, time, and write `results.json` and `weights.png`."""
    plan, start = Plan(), time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        plain = load(plan, "float32", None, cache)
        documents = read_held_out(plain, plan.length)
        others = {kind or dtype: load(plan, dtype, kind, cache) for dtype, kind in plan.formats}
        texts = read_training(plain, plan.length, plan.calibration)
        everything = others | {
            f"{kind}, {method.upper()}": fj.quantize(
                plain, texts, kind, method=method, progress=True
            )
            for kind in plan.calibrated
            for method in plan.methods
        }
        rows = [
            compared(plain, other, name, documents.ids, plan)
            for name, other in tqdm(everything.items(), desc="compare", unit="format")
        ]
        speeds = timed({"float32": plain} | others, documents.ids, plan)
    result = {
        **environment("python experiments/014_engine_weights/run.py"),
        "config": asdict(plan),
        "texts": documents.describe(),
        "bytes": num_bytes(plain),
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
        "speeds": speeds,
    }
    write_json(HERE / "results.json", result)
    draw(result, HERE / "weights.png")
    print(f"{table(result)}\n\n{result['seconds']} s")


def load(plan: Plan, dtype: str, kind: str | None, cache: str) -> fj.LLM:
    """The model with its weights in a format."""
    engine = fj.EngineConfig(
        quantization=kind, max_num_seqs=8, max_model_len=512, compile_cache_dir=cache
    )
    return fj.LLM.load(plan.model, dtype, engine=engine)


def num_bytes(llm: fj.LLM) -> int:
    """Of all parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(llm.params))


def compared(
    plain: fj.LLM, other: fj.LLM, name: str, texts: tuple[list[int], ...], plan: Plan
) -> dict[str, Any]:
    """How far predictions move; the KL divergence from float32."""
    found = fj.compare(plain, other, texts, names=("float32", name), seed=plan.seed)
    pairs = {key: _pair(getattr(found, key)) for key in ("kld", "same_top", "ratio")}
    return {"format": name, "bytes": num_bytes(other), **pairs}


def _pair(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.error]


def timed(
    models: dict[str, fj.LLM], texts: tuple[list[int], ...], plan: Plan
) -> dict[str, dict[str, list[float]]]:
    """Decode steps a second, by format and batch, one number a turn; all formats take turns."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    params = fj.SamplingParams(max_tokens=plan.steps, temperature=0, ignore_eos=True)
    for turn in tqdm(range(plan.turns + 1), desc="time", unit="turn"):
        for batch in plan.batches:
            prompts = [ids[: plan.prompt] for ids in texts[:batch]]
            for name, llm in models.items():
                outputs = llm.generate(prompts, params)
                latencies = outputs[-1].metrics.inter_token_latencies[4:]
                if turn:  # The first compiles.
                    found[name].setdefault(str(batch), []).append(1 / float(np.median(latencies)))
    return found


def relative(result: dict[str, Any], name: str, batch: int) -> np.ndarray:
    """Quartiles of a format's speed over float32's in the same turn."""
    own, plain = (np.array(result["speeds"][key][str(batch)]) for key in (name, "float32"))
    return np.percentile(own / plain, [25, 50, 75])


def table(result: dict[str, Any]) -> str:
    """The formats as the Markdown table of the README."""
    batches = result["config"]["batches"]
    heads = [f"speed, batch {batch}" for batch in batches]
    lines = [
        f"| weights | MB | KLD, mean (nats) | same top-1 | PPL ratio | {' | '.join(heads)} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(heads)}",
    ]
    for row in result["rows"]:
        cells = [
            row["format"],
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['kld'][0]:.2g} ± {row['kld'][1]:.1g}",
            f"{100 * row['same_top'][0]:.2f} ± {100 * row['same_top'][1]:.2f} %",
            f"{row['ratio'][0]:.4f} ± {row['ratio'][1]:.4f}",
        ]
        for batch in batches if row["format"] in result["speeds"] else ():
            low, middle, high = relative(result, row["format"], batch)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        cells += ["as without"] * (5 + len(batches) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
