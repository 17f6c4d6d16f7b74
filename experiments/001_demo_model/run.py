"""The whole experiment in one command: corpus, tokenizer, training, export, evaluation, figure.

    python experiments/001_demo_model/run.py

Stops and resumes anywhere; a finished part is not done again unless `work/` is removed.
"""

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import corpus
from config import MODEL, Training
from evaluate import evaluate
from export import export, trained_params
from figure import draw
from train import read_log, train

import ferrum_jax as fj
from ferrum_jax.runtime.llm import DEMO_MODEL

HERE = Path(__file__).parent
PROMPTS = ("The for statement", "def main(", "class Stack:\n", "The list.sort() method")


def samples(llm: fj.LLM) -> dict[str, str]:
    """What the model writes after a few prompts, drawn with a fixed seed."""
    params = fj.SamplingParams(max_tokens=120, temperature=0.7, top_p=0.95, seed=0)
    outputs = llm.generate(list(PROMPTS), params)
    return {prompt: output.outputs[0].text for prompt, output in zip(PROMPTS, outputs, strict=True)}


def record(run: Training, size: int) -> dict:
    """Everything needed to know and to repeat this run."""
    manifest = json.loads((corpus.WORK / "manifest.json").read_text())
    log = read_log()
    with fj.LLM.load("demo") as llm:
        held_out, texts = evaluate(llm), samples(llm)
    weights = (DEMO_MODEL / "model.safetensors").read_bytes()
    return {
        "command": "python experiments/001_demo_model/run.py",
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "device": f"{platform.machine()} CPU",
        "training": asdict(run) | {"tokens": run.tokens},
        "parameters": sum(x.size for x in _leaves(llm)),
        "seconds": log[-1]["seconds"],
        "final_loss": sum(row["loss"] for row in log[-50:]) / 50,
        "corpus": {k: manifest[k] for k in ("bytes", "tokens", "tokens_total", "stream_sha256")},
        "held_out_bytes_per_token": manifest["held_out"]["bytes_per_token"],
        "held_out_seen_share": manifest["held_out"]["seen_share"],
        "held_out": held_out,
        "directory_bytes": size,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "model": str(MODEL),
        "samples": texts,
    }


def main() -> None:
    """Run what is left to run, and write `results.json` and `loss.png`."""
    run = Training()
    if not (corpus.WORK / "train.npy").exists():
        corpus.main()
    train(run)
    step, params = trained_params(run)
    if step != run.steps:
        sys.exit(f"the checkpoint is at step {step} of {run.steps}; run again to go on")
    result = record(run, export(params))
    (HERE / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(read_log(), run, result, HERE / "loss.png")
    model, xz = (result["held_out"][f"all_{name}_bits_per_byte"] for name in ("model", "xz"))
    print(f"held-out bits per byte: model {model:.3f}, xz -9e {xz:.3f}")


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout.strip()


def _leaves(llm: fj.LLM) -> list:
    import jax

    return jax.tree_util.tree_leaves(llm.params)


if __name__ == "__main__":
    main()
