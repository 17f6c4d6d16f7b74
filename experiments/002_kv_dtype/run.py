"""What a quantised KV-cache costs: the whole experiment in one command.

python experiments/002_kv_dtype/run.py
"""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path

from config import Comparison
from figure import draw
from measure import compare, dense_error
from summary import summarise
from texts import Texts, read_texts

import ferrum_jax as fj
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Measure, and write `results.json` and `kl.png`."""
    plan, start = Comparison(), time.monotonic()
    llm = fj.LLM.load(plan.model, plan.weights_dtype)
    texts = read_texts(llm, plan.length)
    found = compare(llm, texts, plan)
    pairs = zip(plan.kv_dtypes, found, strict=True)
    rows = [summarise(dtype, x, found[0], texts, llm.config, plan) for dtype, x in pairs]
    noise = dense_error(llm, texts, found[0].nats_RT)
    result = {
        **describe_run(plan),
        "texts": describe(texts),
        "reference_against_dense_nats": noise,
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
    }
    write_json(HERE / "results.json", result)
    draw(plan, rows, [x.kl_RT[texts.mask_RT] for x in found], HERE / "kl.png")
    print(table(rows))


def describe_run(plan: Comparison) -> dict:
    """Everything needed to know and to repeat this run."""
    return {
        **environment("python experiments/002_kv_dtype/run.py"),
        "config": asdict(plan),
        "seed": plan.seed,
        "weights_sha256": hashlib.sha256(
            (DEMO_MODEL / "model.safetensors").read_bytes()
        ).hexdigest(),
    }


def describe(texts: Texts) -> dict:
    """Which text it was."""
    return {
        "documents": dict(zip(texts.names, texts.lengths_R.tolist(), strict=True)),
        "tokens": int(texts.lengths_R.sum()),
        "bytes": int(texts.bytes_R.sum()),
        "sha256": texts.sha256,
    }


def table(rows: list[dict]) -> str:
    """The rows as the Markdown table of the README."""
    lines = [
        "| cache | bytes a token | saving | logit error, max | mean | KL, mean (nats) | KL, 99 % "
        "| same top-1 | bits per byte | change |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["kv_dtype"],
            f"{row['bytes_per_token']:,}",
            f"{row['saving']:.2f} x",
            f"{row['max_logit_error']:.2g}",
            _cell(row["mean_logit_error"], ".2g"),
            _cell(row["mean_kl"], ".2g"),
            _cell(row["p99_kl"], ".2g"),
            f"{100 * row['same_top'][0]:.2f} ± {100 * row['same_top'][1]:.2f} %",
            f"{row['bits_per_byte'][0]:.4f} ± {row['bits_per_byte'][1]:.4f}",
            _cell(row["bits_per_byte_change"], "+.1g"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: list[float], form: str) -> str:
    return f"{value[0]:{form}} ± {value[1]:.1g}" if any(value) else "0"


if __name__ == "__main__":
    main()
