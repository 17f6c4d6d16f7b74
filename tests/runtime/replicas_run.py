"""Replicas on eight virtual devices beside one LLM on one; run by `test_replicas.py`.

    python -m tests.runtime.replicas_run RESULTS MESH

A process of its own, as `mesh_cases.py`, with eight devices in its XLA_FLAGS. RESULTS gets a JSON
object.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import ferrum_jax as fj
from ferrum_jax.models.families import read_config
from tests.parity.golden import load_case, write_checkpoint

SMALL = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_model_len": 64, "num_pages": 32}
MESHES = {"3 of 1": (3, 1), "2 of 2": (2, 2)}
PROMPTS = [[5, 9, 3, 7, 4, 11], [8, 1, 2], [4, 4, 4, 4], [17], [9, 8, 7, 6, 5], [3, 1, 4]]
PARAMS = [
    fj.SamplingParams(
        max_tokens=5 + i, temperature=float(i % 2), seed=i, logprobs=2, ignore_eos=True
    )
    for i in range(len(PROMPTS))
]


def devices(llm: fj.LLM) -> list[int]:
    """Of its parameters and its cache."""
    leaves = jax.tree.leaves((llm.params, llm.engine.executor.cache))
    return sorted({device.id for leaf in leaves for device in leaf.sharding.device_set})


def compare(one: fj.LLM, path: Path, mesh: tuple[int, int]) -> dict:
    engine = fj.EngineConfig(**SMALL, mesh=mesh, first_device=1)
    with fj.Replicas.load(path, engine=engine) as many:
        outputs = many.generate(PROMPTS, PARAMS)
        expected = one.generate(PROMPTS, PARAMS)
        scores = zip(many.score(PROMPTS), one.score(PROMPTS), strict=True)
        return {
            "same": [a.outputs[0].token_ids == b.outputs[0].token_ids
                     for a, b in zip(outputs, expected, strict=True)],
            "prompts": [output.prompt_token_ids for output in outputs],
            "scores": max(float(np.abs(a.logprobs[1:] - b.logprobs[1:]).max(initial=0))
                          for a, b in scores),
            "devices": [devices(llm) for llm in many.llms],
            "steps": [llm.engine.executor.num_steps for llm in many.llms],
        }  # fmt: skip


def main(results: str, mesh: str) -> None:
    case = load_case("llama")
    assert read_config(case.config).layers[0].attention.num_kv_heads == 2
    with tempfile.TemporaryDirectory() as directory:
        path = write_checkpoint(case, Path(directory) / "llama")
        one = fj.LLM.load(path, engine=fj.EngineConfig(**SMALL))
        found = compare(one, path, MESHES[mesh])
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
