"""One of two processes that run a model together; run by `test_mesh.py`.

    python -m tests.runtime.mesh_process DIRECTORY PORT INDEX

Both make the same calls; each writes what it got to DIRECTORY/INDEX.json.
"""

import json
import sys
from pathlib import Path

import jax

import ferrum_jax as fj


def main(directory: str, port: str, index: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index))
    engine = fj.EngineConfig(
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=128,
        num_pages=64,
        mesh=jax.process_count(),
        compile_cache_dir=None,
    )
    llm = fj.LLM.load(Path(directory) / "model", engine=engine)
    params = fj.SamplingParams(max_tokens=12, temperature=0, logprobs=0, ignore_eos=True)
    outputs = llm.generate([[5, 9, 3, 7, 4, 11], [8, 1, 2]], params)
    found = {
        "devices": jax.device_count(),
        "local": jax.local_device_count(),
        "tokens": [output.outputs[0].token_ids for output in outputs],
        "logprobs": [
            [table[i].logprob for table, i in zip(o.logprobs, o.token_ids, strict=True)]
            for o in (output.outputs[0] for output in outputs)
        ],
    }
    Path(directory, f"{index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
