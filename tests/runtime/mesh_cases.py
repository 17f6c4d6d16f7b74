"""A model on a mesh beside the same model on one device; run by `test_mesh.py`.

    python -m tests.runtime.mesh_cases RESULTS CASE DEVICES SETTINGS

It runs in a process of its own, since a CPU counts as several devices only if jax is told before it
starts, by XLA_FLAGS. SETTINGS are of the engine, in JSON; `also` in them asks for `edits` and
`captures` besides. RESULTS gets a JSON object: the largest differences of dense logits, of logprobs
and of captured activations, whether the tokens are the same, what the compiled steps send between
devices, and over how many of them each parameter is divided.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.families import read_config
from ferrum_jax.models.quantized import is_quantized
from tests.parity.golden import load_case, write_checkpoint

SMALL = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_model_len": 64, "num_pages": 32}
SENDS = re.compile(r"= (.*?) (all-reduce|all-gather|collective-permute|all-to-all)(?:-start)?\(")


def wide_llama() -> dict:
    """A llama that eight devices can divide."""
    golden = load_case("llama").config
    return golden | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 8}


def load(case: str, settings: dict, directory: Path) -> fj.LLM:
    engine = fj.EngineConfig(**SMALL, **settings)
    if case == "demo":
        return fj.LLM.load("demo", engine=engine)
    if case == "wide_llama":
        config = read_config(wide_llama())
        return fj.LLM(config, init_params(config, seed=0), engine=engine)
    return fj.LLM.load(write_checkpoint(load_case(case), directory / case), engine=engine)


def compare(case: str, num_devices: int, settings: dict, directory: Path) -> dict:
    settings = dict(settings)
    also = settings.pop("also", ())
    one = load(case, settings, directory)
    many = load(case, settings | {"mesh": num_devices}, directory)
    prompts = [[5, 9, 3, 7, 4, 11], [8, 1, 2]]
    params = fj.SamplingParams(
        max_tokens=6, temperature=0, logprobs=3, prompt_logprobs=1, ignore_eos=True
    )
    edit = fj.edits.ablate_layer(1)
    found: dict = {
        "logits": float(np.abs(one.logits(prompts[0]) - many.logits(prompts[0])).max()),
        "logprobs": 0.0,
        "same": True,
        "params": [
            leaf.nbytes / leaf.addressable_shards[0].data.nbytes
            for leaf in jax.tree.leaves(many.params)
        ],
        "num_quantized": sum(map(is_quantized, jax.tree.leaves(many.params, is_leaf=is_quantized))),
    }
    for taps in (None, edit) if "edits" in also else (None,):
        a, b = (llm.generate(prompts, params, taps=taps) for llm in (one, many))
        for x, y in zip(a, b, strict=True):
            found["same"] &= x.outputs[0].token_ids == y.outputs[0].token_ids
            tables = (*x.prompt_logprobs[1:], *x.outputs[0].logprobs)
            others = (*y.prompt_logprobs[1:], *y.outputs[0].logprobs)
            for table, other in zip(tables, others, strict=True):
                gaps = [abs(table[i].logprob - other[i].logprob) for i in table.keys() & other]
                found["logprobs"] = max(found["logprobs"], *gaps, float(not gaps))
    if "captures" in also:
        seen = [llm.capture(prompts, "resid_post")[0]["resid_post"] for llm in (one, many)]
        found["captures"] = max(float(np.abs(seen[0][i] - seen[1][i]).max()) for i in seen[0])
    found["width"] = many.config.hidden_size
    found["sends"] = {
        f"{shape.tokens}x{shape.rows}": sorted(
            f"{kind} {array.split('{')[0]}"
            for array, kind in SENDS.findall(many.engine.executor._programs.of(shape).as_text())
        )
        for shape in many.compilations
        if not shape.plan
    }
    layer = next(held for held in many.engine.executor.cache.layers if held is not None)
    found["pages"] = layer.k_pages.nbytes / layer.k_pages.addressable_shards[0].data.nbytes
    return found


def main(results: str, case: str, num_devices: str, settings: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = compare(case, int(num_devices), json.loads(settings), Path(directory))
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
