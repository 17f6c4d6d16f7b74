"""Every golden case of transformers: logits of the full forward, and greedy text of the engine."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from tests.parity.golden import case_names, load_case, write_checkpoint

TOLERANCE = 5e-5
"""Largest fp32 difference from transformers' eager forward that is allowed."""


FAMILIES = [
    "gemma2",
    "gemma3_text",
    "llama",
    "mistral_window",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
]
"""One case of each model type, run with every optimisation and in chunks."""
TOKEN_BY_TOKEN = fj.EngineConfig(
    page_size=4, num_pages=40, max_num_seqs=1, max_num_batched_tokens=1
)
CHUNKED = fj.EngineConfig(page_size=4, num_pages=60, max_num_seqs=2, max_num_batched_tokens=16)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """`name -> (golden, LLM)`, each checkpoint written and loaded once."""
    held = {}

    def load(name):
        if name not in held:
            golden = load_case(name)
            directory = tmp_path_factory.mktemp("checkpoint")
            write_checkpoint(golden, directory)
            held[name] = golden, fj.LLM.load(directory)
        return held[name]

    return load


def greedy(llm, golden, engine):
    """The greedy continuation of the golden prompt by an engine of its own."""
    if golden.name == "llama_rope_longrope_long":
        # Asking for more than the trained context chooses the long factors from the start.
        engine = replace(engine, max_model_len=llm.config.max_positions)
    params = fj.SamplingParams(temperature=0, max_tokens=len(golden.greedy), ignore_eos=True)
    with fj.LLM(llm.config, llm.params, engine=engine) as runner:
        return runner.generate([golden.prompt.tolist()], params)[0].outputs[0].token_ids


@pytest.mark.parametrize("name", case_names())
def test_logits_equal_transformers(name, loaded):
    golden, llm = loaded(name)
    for ids, logits in zip(golden.sequences, golden.logits, strict=True):
        error = np.abs(llm.logits(ids.tolist()) - logits).max()
        assert error < TOLERANCE, f"{name}: {error:.1e}"


def _engine_cases():
    """Those whose rope an engine can hold fixed.

    Dynamic rope beyond its trained length turns every key anew at each step, which no cache does.
    """
    return [name for name in case_names() if name != "llama_rope_dynamic_beyond"]


@pytest.mark.parametrize("name", _engine_cases())
def test_greedy_text_of_the_paged_engine_equals_transformers(name, loaded):
    golden, llm = loaded(name)
    assert greedy(llm, golden, TOKEN_BY_TOKEN) == golden.greedy.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_text_with_chunked_prefill_equals_transformers(name, loaded, optimised):
    golden, llm = loaded(name)
    assert greedy(llm, golden, CHUNKED) == golden.greedy.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_the_paged_engine_equal_transformers(name, loaded):
    golden, llm = loaded(name)
    texts = [ids.tolist() for ids in golden.sequences]
    with fj.LLM(llm.config, llm.params, engine=CHUNKED) as runner:
        scores = runner.score(texts)
    for ids, logits, score in zip(texts, golden.logits, scores, strict=True):
        logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[:-1])))
        expected = logprobs[np.arange(len(ids) - 1), ids[1:]]
        assert np.isnan(score.logprobs[0])
        np.testing.assert_allclose(score.logprobs[1:], expected, atol=2 * TOLERANCE, rtol=0)
