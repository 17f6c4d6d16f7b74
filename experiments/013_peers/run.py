"""ferrum_jax beside transformers and llama.cpp on this machine's CPU: one command.

python experiments/013_peers/run.py

The peers' environment is made under `work/` when it is not there yet (torch's CPU build, and
llama.cpp from its sources: minutes). Every engine runs in a process of its own, all read the same
checkpoint and the same prompts, and they take turns: a ratio is of two neighbours in a turn.
`--small --out FOLDER` shows that all workers run; its times mean nothing.
"""

import argparse
import json
import subprocess
import sys
import time
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint import write
from config import PACKAGES, SMALL, Plan
from figure import ROUNDED, draw, ratios
from tqdm import tqdm

from ferrum_jax.runtime.record import environment, write_json

HERE = Path(__file__).parent
WORK = HERE / "work"
REFERENCE = "transformers, sdpa"


def main() -> None:
    """Measure, and write `results.json` and `peers.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a run of a minute on a tiny model")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--peers", type=Path, help="a Python that has the peers' packages")
    arguments = parser.parse_args()
    if arguments.small and arguments.out == HERE:
        parser.error("--small measures nothing: name another folder with --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    plan, start = SMALL if arguments.small else Plan(), time.monotonic()
    peers = arguments.peers or make_environment(WORK / "env")
    models = WORK / f"models_{plan.hidden}"
    write(plan, models / "hf")
    result: dict[str, Any] = {
        **environment("python experiments/013_peers/run.py"),
        "config": asdict(plan),
        "runs": [],
    }
    jobs = [(turn, *worker) for turn in range(plan.turns) for worker in plan.workers]
    for turn, engine, dtype in tqdm(jobs, unit="run"):
        row = measure(plan, engine, dtype, peers, models)
        result["runs"].append({"turn": turn, "engine": engine, "dtype": dtype, **row})
        result["seconds"] = round(time.monotonic() - start, 1)
        write_json(arguments.out / "results.json", result)
    draw(result, arguments.out / "peers.png")
    print(table(result))


def make_environment(folder: Path) -> Path:
    """A Python with the peers' packages, made unless it is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    for package in PACKAGES:
        command = [python, "-m", "pip", "install", "--quiet", package]
        if subprocess.run(command).returncode:
            print(f"{package} cannot be installed; what needs it is left out", file=sys.stderr)
    return python


def measure(plan: Plan, engine: str, dtype: str, peers: Path, models: Path) -> dict[str, Any]:
    """One worker's rates, or why there are none."""
    given: dict[str, Any] = {"plan": asdict(plan), "dtype": dtype, "model": str(models / "hf")}
    python, script = str(peers), "transformers_worker.py"
    if engine == "ferrum_jax":
        python, script = sys.executable, "ours.py"
        given["cache"] = str(WORK / "programs")
    elif engine == "llama.cpp":
        script, file = "llama_cpp_worker.py", models / f"{dtype}.gguf"
        if not file.exists():
            _called([python, "checkpoint.py", str(models / "hf"), dtype, str(file)])
        given["model"] = str(file)
    else:
        given["attention"] = engine.split(", ")[1]
    found = _found([python, script, json.dumps(given)])
    if "error" in found and engine == "llama.cpp":
        found = _found([python, script, json.dumps(given | {"rearranged": False})])
        found["rearranged"] = False
    return found


def _found(command: list[str]) -> dict[str, Any]:
    ended = _called(command)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"error": ended.stderr[-400:]}


def _called(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True)


def rates(result: dict[str, Any], engine: str, dtype: str) -> dict[str, list[float]]:
    """Tokens per second by what was measured, one a turn; empty where nothing ran."""
    found: dict[str, list[float]] = {}
    for run in result["runs"]:
        if (run["engine"], run["dtype"]) == (engine, dtype) and "error" not in run:
            found.setdefault("prefill", []).append(run["prefill"])
            for batch, value in run["decode"].items():
                found.setdefault(f"decode {batch}", []).append(value)
    return found


def table(result: dict[str, Any]) -> str:
    """Medians of all engines, and ferrum_jax's rate over each peer's in the same turn."""
    workers = [tuple(worker) for worker in result["config"]["workers"]]
    kinds = ["prefill", *(f"decode {batch}" for batch in result["config"]["batches"])]
    lines = [f"| weights | engine | {' | '.join(kinds)} |", f"|---|---|{'---:|' * len(kinds)}"]
    for engine, dtype in workers:
        found = rates(result, engine, dtype)
        compared = ratios(result, ROUNDED.get(dtype, dtype), engine, dtype)
        cells = []
        for kind in kinds:
            cell = f"{np.median(found[kind]):.0f}" if kind in found else "did not run"
            if engine != "ferrum_jax" and kind in compared:
                cell += f" ({np.median(compared[kind]):.2f})"
            cells.append(cell)
        lines.append(f"| {dtype} | {engine} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
