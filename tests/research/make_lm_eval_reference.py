"""What lm-eval's own `hf` model answers for the demo model: `lm_eval_golden.json`.

    python tests/research/make_lm_eval_reference.py

Run where lm-eval, torch and transformers are installed, after the demo model or the tasks in
`lm_eval_tasks/` were made anew. Each request is stored with its arguments, with the token ids that
lm-eval made of them, and with the answer, so that the tests need none of the three packages.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "ferrum_jax" / "demo_model"
GOLDEN = HERE / "lm_eval_golden.json"
MAX_LENGTH = 96
"""Short, so that contexts are truncated and texts take several windows, and the tests are quick."""
RUNS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "default": ({}, ["fj_cloze", "fj_prior", "fj_perplexity", "fj_prose", "fj_code"]),
    "no_bos": (
        {"add_bos_token": False, "prefix_token_id": 2},
        ["fj_cloze", "fj_prior", "fj_perplexity", "fj_prose"],
    ),
}
"""By name, the arguments of a model and the tasks that it is asked."""


class RecordingHF(HFLM):
    """lm-eval's `hf` model, which keeps what it was asked and what it answered."""

    def __init__(self, **arguments: Any):
        super().__init__(pretrained=str(DEMO), dtype="float32", device="cpu", **arguments)
        self.asked: list[dict[str, Any]] = []
        self._windows: list[list[Any]] = []

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        answers = super()._loglikelihood_tokens(requests, **options)
        for (text, context, continuation), answer in zip(requests, answers, strict=True):
            if text is None:
                self._windows.append([context, continuation])
            else:
                ids = {"context": context, "continuation": continuation}
                self._note("loglikelihood", text, answer, **ids)
        return answers

    def loglikelihood_rolling(self, requests: Any, **options: Any) -> Any:
        answers = []
        for request in requests:
            self._windows = []
            answers += super().loglikelihood_rolling([request], **options)
            self._note("loglikelihood_rolling", request.args, answers[-1], windows=self._windows)
        return answers

    def generate_until(self, requests: Any, **options: Any) -> Any:
        answers = super().generate_until(requests, **options)
        for request, answer in zip(requests, answers, strict=True):
            self._note("generate_until", request.args, answer)
        return answers

    def _note(self, kind: str, arguments: Any, answer: Any, **ids: Any) -> None:
        self.asked.append({"kind": kind, "arguments": arguments, **ids, "answer": answer})


def run(arguments: dict[str, Any], tasks: list[str]) -> list[dict[str, Any]]:
    """Every request of the tasks, with its answer."""
    model = RecordingHF(max_length=MAX_LENGTH, **arguments)
    manager = TaskManager(include_path=str(HERE / "lm_eval_tasks"))
    lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    return model.asked


def dump(golden: dict[str, Any]) -> str:
    """JSON with one line per request."""
    runs = golden.pop("runs")
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in golden.items())
    parts = []
    for name, content in runs.items():
        requests = ",\n   ".join(json.dumps(r, ensure_ascii=False) for r in content["requests"])
        arguments = json.dumps(content["model_args"])
        parts.append(
            f'  "{name}": {{\n   "model_args": {arguments},\n   "requests": [\n   {requests}\n  ]}}'
        )
    return f'{{\n{head} "runs": {{\n' + ",\n".join(parts) + "\n }\n}\n"


def main() -> None:
    """Ask the `hf` model everything and write the golden file."""
    torch.set_num_threads(1)
    golden = {
        "versions": {name: version(name) for name in ("lm_eval", "transformers", "torch")},
        "weights_sha256": hashlib.sha256((DEMO / "model.safetensors").read_bytes()).hexdigest(),
        "max_length": MAX_LENGTH,
        "runs": {
            name: {"model_args": arguments, "requests": run(arguments, tasks)}
            for name, (arguments, tasks) in RUNS.items()
        },
    }
    GOLDEN.write_text(dump(golden))
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
