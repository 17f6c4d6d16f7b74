"""Every golden case of transformers: logits of the full forward, and greedy text of the engine."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from tests.parity.golden import (
    KINDS,
    case_names,
    first_cases,
    load_case,
    tolerance,
    write_checkpoint,
)

TOKEN_BY_TOKEN = fj.EngineConfig(
    page_size=4, num_pages=40, max_num_seqs=1, max_num_batched_tokens=1
)
OPTIMISED = ("gemma3_text", "llama", "mamba2", "mixtral", "qwen3")
"""Run with every optimisation of the compiler; `docs/accuracy.md` has all cases so."""
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
        assert error < tolerance(golden), f"{name}: {error:.1e}"


def _engine_cases():
    """Those whose rope an engine can hold fixed; most of them only in longer runs.

    Dynamic rope beyond its trained length turns every key anew at each step, which no cache does.
    Beyond the first of each type they are `thorough`: the engine's cache knows types, not their
    options. Types without a kind of layer of their own are `every_case`.
    """
    first = first_cases()
    for name in case_names():
        if name == "llama_rope_dynamic_beyond":
            continue
        if name in first:
            marks = () if load_case(name).model_type in KINDS else pytest.mark.every_case
        else:
            marks = pytest.mark.thorough
        yield pytest.param(name, marks=marks)


@pytest.mark.one_jax
@pytest.mark.parametrize("name", list(_engine_cases()))
def test_greedy_text_of_the_paged_engine_equals_transformers(name, loaded):
    golden, llm = loaded(name)
    assert greedy(llm, golden, TOKEN_BY_TOKEN) == golden.greedy.tolist()


@pytest.mark.every_case
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in KINDS else pytest.mark.thorough) for n in first_cases()],
)
def test_batched_in_chunks_text_and_scores_equal_transformers(name, loaded, request):
    """Two sequences at a time, cut anew in every step."""
    if name in OPTIMISED:
        request.getfixturevalue("optimised")
    golden, llm = loaded(name)
    texts = [ids.tolist() for ids in golden.sequences]
    params = fj.SamplingParams(
        temperature=0, max_tokens=len(golden.greedy), ignore_eos=True, prompt_logprobs=0
    )
    with fj.LLM(llm.config, llm.params, engine=CHUNKED) as runner:
        text, beside = runner.generate([golden.prompt.tolist(), texts[0]], params)
        scores = runner.score(texts)
    assert text.outputs[0].token_ids == golden.greedy.tolist()
    last = golden.logits[0][-1]
    assert last[beside.outputs[0].token_ids[0]] > last.max() - 2 * tolerance(golden)
    tables = zip(beside.prompt_logprobs[1:], texts[0][1:], strict=True)
    check_scores(golden, 0, [table[token].logprob for table, token in tables])
    for which, score in enumerate(scores):
        assert np.isnan(score.logprobs[0])
        check_scores(golden, which, score.logprobs[1:])


def check_scores(golden, which, found):
    """The logprobs of a sequence's tokens, all but the first."""
    logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(golden.logits[which][:-1])))
    expected = logprobs[np.arange(len(found)), golden.sequences[which][1:]]
    np.testing.assert_allclose(found, expected, atol=2 * tolerance(golden), rtol=0)
