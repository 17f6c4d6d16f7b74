"""A model that drafts: its cache keeps up with the model's own, whatever happens to a sequence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types import StepShape
from tests.runtime import hybrids
from tests.runtime.models import VOCAB, completions, model
from tests.runtime.speculation.proposers import speculate, write_llama

TRAINED = Path(__file__).parents[2] / "tokenizer" / "trained"
ENGINE = fj.EngineConfig(
    page_size=4,
    num_pages=120,
    max_model_len=128,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    batch_invariant=True,
)
PARAMS = [
    fj.SamplingParams(max_tokens=30, seed=i, temperature=i % 2, logprobs=0, n=1 + (i == 2))
    for i in range(5)
] + [fj.SamplingParams(max_tokens=30, seed=9, repetition_penalty=1.2, top_p=0.9, logprobs=0)]
PROMPTS = [list(range(20 + i, 33 + 3 * i)) for i in range(6)]
SETTINGS = {
    "as it is": {},
    "preempted": {"num_pages": 24},
    "swapped": {"num_pages": 24, "preemption": "swap"},
    "prefix cache": {"prefix_caching": True},
    "cut to the work": {"batch_invariant": False, "max_num_seqs": 2},
}


@pytest.fixture(scope="module")
def weights():
    return init_params(model("dense"), seed=3)


@pytest.fixture(scope="module")
def same_model(tmp_path_factory, weights):
    """A checkpoint of the verifying model itself: whatever it drafts is right."""
    return write_llama(tmp_path_factory.mktemp("draft"), model("dense"), weights)


def tokens_of(outputs):
    return [[c.token_ids for c in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def plain(weights):
    with fj.LLM(model("dense"), weights, engine=ENGINE) as llm:
        return tokens_of(llm.generate(PROMPTS, PARAMS))


@pytest.mark.every_case
@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_that_drafts_for_itself_is_always_right(weights, same_model, plain, name):
    """Keys and values out of place show: what it drafts then is another text."""
    engine = replace(ENGINE, speculative=speculate(same_model), **SETTINGS[name])
    with fj.LLM(model("dense"), weights, engine=engine) as llm:
        assert tokens_of(llm.generate(PROMPTS, PARAMS)) == plain
        metrics = llm.metrics.snapshot()
        assert metrics.drafted_tokens > 120
        assert metrics.accepted_tokens == metrics.drafted_tokens
        if name in ("preempted", "swapped"):
            assert metrics.num_preemptions > 0
        if name == "swapped":
            assert metrics.num_swaps > 0
        if name == "prefix cache":
            assert tokens_of(llm.generate(PROMPTS[::-1], PARAMS[::-1]))[::-1] == plain
            again = llm.metrics.snapshot()
            assert again.cached_tokens > 50
            assert again.accepted_tokens == again.drafted_tokens


def test_forks_snapshots_and_rewinds_keep_the_drafts_right(weights, same_model):
    params = replace(PARAMS[1], max_tokens=40)
    engine = replace(ENGINE, speculative=speculate(same_model))
    with fj.LLM(model("dense"), weights, engine=engine) as llm:
        engine = llm.engine
        request = engine.add(PROMPTS[0], params)
        for _ in range(5):
            engine.step()
        twin = engine.fork(request, seed=77)
        snapshot = engine.snapshot(request)
        resumed = engine.resume(snapshot, replace(params, max_tokens=10))
        engine.step()
        engine.rewind(request, 3)
        found = completions(engine, request, twin, resumed)
        metrics = llm.metrics.snapshot()
        assert metrics.accepted_tokens == metrics.drafted_tokens > 40
        alone = llm.generate([PROMPTS[0]], params)[0].outputs[0]
        assert found[0].token_ids == alone.token_ids
        assert len(found[1].token_ids) == 40
        engine.release(snapshot)
        assert engine.free_pages == engine.blocks.num_total


@pytest.mark.parametrize(
    "vocab", [VOCAB - 40, pytest.param(VOCAB + 40, marks=pytest.mark.every_case)]
)
def test_another_model_drafts_less_well_and_changes_nothing(tmp_path, weights, plain, vocab):
    """One layer and other weights; a vocabulary that is padded otherwise."""
    config = model("dense")
    small = replace(config, layers=config.layers[:1], vocab_size=vocab)
    path = write_llama(tmp_path, small, init_params(small, seed=8))
    engine = replace(ENGINE, speculative=speculate(path))
    with fj.LLM(config, weights, engine=engine) as llm:
        assert tokens_of(llm.generate(PROMPTS, PARAMS)) == plain
        metrics = llm.metrics.snapshot()
        assert metrics.drafted_tokens > 120
        assert metrics.acceptance_rate < 0.3


def test_warm_up_compiles_what_drafts_too(weights, same_model):
    draft = speculate(same_model, num_tokens=1)
    engine = replace(ENGINE, speculative=draft, batch_invariant=False)
    engine = replace(engine, max_num_seqs=1, max_num_batched_tokens=16)
    with fj.LLM(model("dense"), weights, engine=engine) as llm:
        llm.warm_up()
        compiled = llm.compilations
        assert set(llm.engine.declared_shapes) <= set(compiled)
        assert StepShape(2, 1, drafts=1) in compiled
        llm.generate(PROMPTS, PARAMS)
        assert llm.compilations == compiled


def test_memory_is_planned_for_both_caches(weights, same_model):
    """Half as many pages fit where tokens are kept twice."""
    sizes = {"num_pages": None, "memory_fraction": 1e-6}
    counts = []
    for speculative in (None, speculate(same_model)):
        engine = replace(ENGINE, speculative=speculative, **sizes)
        with fj.LLM(model("dense"), weights, engine=engine) as llm:
            counts.append(llm.engine.kv.num_pages)
    assert counts[1] == pytest.approx(counts[0] / 2, abs=1)


def test_other_tokens_are_refused(tmp_path, weights):
    """A tokenizer whose ids mean something else."""
    path = write_llama(tmp_path, model("dense"), weights)
    for file in (TRAINED / "word_piece").iterdir():
        shutil.copy(file, tmp_path)
    engine = replace(ENGINE, speculative=path)
    llm = fj.LLM(model("dense"), weights, load_tokenizer(DEMO_MODEL), engine=engine)
    with pytest.raises(fj.ConfigError, match="has other tokens: id 0 is"):
        llm.generate([[5]], fj.SamplingParams(max_tokens=2))


def test_what_is_not_there_is_said(weights):
    llm = fj.LLM(model("dense"), weights, engine=replace(ENGINE, speculative="no/such/folder"))
    with pytest.raises(
        fj.ModelError, match=r"'no/such/folder' is neither 'ngram' nor a model: no such"
    ):
        llm.generate([[5]])


@pytest.mark.parametrize("kind", ["mamba", "mamba2 beside attention"])
def test_recurrent_states_take_nothing_back(kind):
    config = hybrids.model(kind)
    engine = replace(ENGINE, speculative="ngram")
    llm = fj.LLM(config, hybrids.weights(config), engine=engine)
    with pytest.raises(fj.UnsupportedError, match=r"takes rejected tokens back.*speculative=None"):
        llm.generate([[5]])
