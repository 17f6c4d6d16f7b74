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


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """`name -> (golden, LLM)`, each checkpoint written and loaded once."""
    held = {}

    def load(name):
        if name not in held:
            golden = load_case(name)
            directory = tmp_path_factory.mktemp("checkpoint")
            write_checkpoint(golden, directory)
            engine = fj.EngineConfig(
                page_size=4, num_pages=40, max_num_seqs=2, max_num_batched_tokens=16
            )
            held[name] = golden, fj.LLM.load(directory, engine=engine)
        return held[name]

    return load


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
    if name == "llama_rope_longrope_long":
        # Asking for more than the trained context chooses the long factors from the start.
        llm = fj.LLM(
            llm.config,
            llm.params,
            engine=replace(llm.engine_config, max_model_len=llm.config.max_positions),
        )
    params = fj.SamplingParams(temperature=0, max_tokens=len(golden.greedy), ignore_eos=True)
    with llm:
        output = llm.generate([golden.prompt.tolist()], params)[0]
    assert output.outputs[0].token_ids == golden.greedy.tolist()


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe", "mistral_window"])
def test_scores_of_the_paged_engine_equal_the_full_forward(name, loaded):
    golden, llm = loaded(name)
    texts = [ids.tolist() for ids in golden.sequences]
    with llm:
        scores = llm.score(texts)
    for ids, logits, score in zip(texts, golden.logits, scores, strict=True):
        logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[:-1])))
        expected = logprobs[np.arange(len(ids) - 1), ids[1:]]
        assert np.isnan(score.logprobs[0])
        np.testing.assert_allclose(score.logprobs[1:], expected, atol=2 * TOLERANCE, rtol=0)
