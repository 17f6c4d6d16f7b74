"""The demo model against what transformers predicted (`tests/parity/make_logprobs.py --demo`)."""

from pathlib import Path

import numpy as np

import ferrum_jax as fj
from ferrum_jax.research.compare import SavedLogprobs, compare

SAVED = Path(__file__).parent / "demo_transformers.safetensors"


def test_ferrum_jax_agrees_with_transformers(optimised):
    with fj.LLM.load(
        "demo", engine=fj.EngineConfig(max_num_seqs=4, max_num_batched_tokens=32)
    ) as llm:
        saved = SavedLogprobs(SAVED)
        text = "def main(argv=None):\n    parser = argparse.ArgumentParser()\n    return 0\n"
        assert tuple(llm.encode(text)) == saved.documents[1]
        found = compare(saved, llm, names=("transformers", "ferrum_jax"), resamples=20)
    assert found.num_documents == 4
    assert found.kld_is_bound
    assert found.tokens.kld.max() < 1e-9
    assert np.abs(found.tokens.delta_p).max() < 1e-5
    assert np.abs(found.tokens.nll_b - found.tokens.nll_a).max() < 5e-5
    assert found.same_top.value == 1
