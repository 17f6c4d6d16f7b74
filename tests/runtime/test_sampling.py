"""Sampling in the engine: what it keeps across steps, preemption, forks, batches and programs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import ferrum_jax as fj
from tests.runtime.models import VOCAB, completions, idle, make_llm

ENGINE = fj.EngineConfig(
    page_size=4, num_pages=80, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16
)
BASE = fj.SamplingParams(max_tokens=16, seed=11, temperature=1.5)
MIROSTAT = replace(BASE, temperature=0.5, mirostat={"mode": 2, "tau": 3.5, "eta": 0.9})
"""The model's entropy is 6 bits at this temperature: it truncates, and what it learned tells."""
PROMPT = np.random.default_rng(2).integers(3, VOCAB, 9).tolist()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "invariant"])
def shared_llm(request):
    return make_llm("dense", replace(ENGINE, batch_invariant=request.param))


@pytest.fixture
def llm(shared_llm):
    """Every test leaves the engine idle and all pages free."""
    yield shared_llm
    assert idle(shared_llm)


def started(llm, params, steps=6):
    request = llm.engine.add(PROMPT, params)
    for _ in range(steps):
        llm.engine.step()
    return request


def finish(engine, *requests):
    return [completion.token_ids for completion in completions(engine, *requests)]


def alone(llm, params):
    return llm.generate([PROMPT], params)[0].outputs[0]


def scaled(factor, logits, tokens, length):
    return factor * logits


def no_repeats(logits, tokens, length):
    """A token is never sampled twice, nor one of the prompt."""
    seen = jnp.zeros(logits.shape, bool).at[tokens].max(tokens >= 0)
    return jnp.where(seen, -jnp.inf, logits)


@dataclass(frozen=True)
class OnlyEven:
    """Compares by value."""

    step: int = 2

    def __call__(self, logits, tokens, length):
        return jnp.where(jnp.arange(logits.shape[0]) % self.step == 0, logits, -jnp.inf)


ENDS = tuple(range(0, VOCAB, 5))
KEPT = {
    "mirostat 1": replace(MIROSTAT, mirostat={"mode": 1, "tau": 3.5, "eta": 0.9}),
    "mirostat 2": MIROSTAT,
    "min_tokens": replace(BASE, min_tokens=12, stop_token_ids=ENDS),
    "processors": replace(BASE, logits_processors=[no_repeats, Partial(scaled, 2.0)]),
}


@pytest.mark.parametrize("name", KEPT)
def test_preempted_forked_and_rewound_sequences_go_on_as_they_would(llm, name):
    params, engine = KEPT[name], llm.engine
    expected = alone(llm, params).token_ids
    preempted = started(llm, params)
    engine.preempt(preempted)
    assert finish(engine, preempted) == [expected]
    request = started(llm, params)
    twin = engine.fork(request, seed=params.seed)
    assert finish(engine, request, twin) == [expected, expected]
    request = started(llm, params)
    engine.rewind(request, 3)
    assert finish(engine, request) == [expected]


def test_mirostat_steers_each_completion_by_itself(llm):
    few = llm.generate([PROMPT], replace(MIROSTAT, n=3))[0].outputs
    assert few[0].token_ids == alone(llm, MIROSTAT).token_ids
    assert len({tuple(one.token_ids) for one in few}) == 3
    wild = alone(llm, replace(MIROSTAT, mirostat={"mode": 2, "tau": 50.0}))
    assert (
        wild.token_ids == alone(llm, replace(BASE, temperature=0.5)).token_ids != few[0].token_ids
    )


def test_min_tokens_holds_off_ends_and_they_end_afterwards(llm):
    ended = alone(llm, replace(BASE, stop_token_ids=ENDS))
    assert ended.stop_reason in ENDS, "the seed is to end before 12 tokens without min_tokens"
    assert len(ended.token_ids) < 12
    late = alone(llm, replace(BASE, max_tokens=50, min_tokens=12, stop_token_ids=ENDS))
    assert not set(late.token_ids[:12]) & set(ENDS)
    assert late.token_ids[-1] == late.stop_reason
    assert late.stop_reason in ENDS


def test_requests_with_other_processors_share_a_batch(llm):
    kinds = [
        BASE,
        replace(BASE, logits_processors=[no_repeats]),
        replace(BASE, logits_processors=[OnlyEven()]),
        replace(BASE, logits_processors=[OnlyEven(), no_repeats, Partial(scaled, 0.5)]),
    ]
    alone_ids = [alone(llm, params).token_ids for params in kinds]
    together = [out.outputs[0].token_ids for out in llm.generate([PROMPT] * 4, kinds)]
    assert together == alone_ids
    assert len(set(map(tuple, together))) == 4
    assert all(token % 2 == 0 for token in together[2] + together[3])
    for ids in (together[1], together[3]):
        assert len({*PROMPT, *ids}) == len(set(PROMPT)) + len(ids)
    before = dict(llm.compilations)
    again = replace(BASE, logits_processors=[OnlyEven(2), no_repeats, Partial(scaled, 1.5)])
    llm.generate([PROMPT] * 4, [again, *kinds[1:]])
    assert llm.compilations == before, "other values of known kinds compiled a program"


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (print, r"returns shape None"),
        (jnp.argmax, "cannot be traced"),
        (Partial(scaled, np.ones(3, np.float32)), "cannot be traced"),
        (jnp.stack, "cannot be traced"),
    ],
)
def test_what_is_no_processor_is_refused_before_it_runs(llm, processor, message):
    with pytest.raises(fj.RequestError, match=message):
        llm.generate([PROMPT], replace(BASE, logits_processors=[processor]))


def test_a_request_with_no_token_left_fails_alone(llm):
    stuck = replace(BASE, allowed_token_ids=[5], min_tokens=3, stop_token_ids=[5])
    bad, good = llm.generate([PROMPT] * 2, [stuck, BASE])
    assert bad.outputs[0].finish_reason == "error"
    assert "no token is left to sample after token 9: allowed_token_ids" in bad.error
    assert good.outputs[0].token_ids == alone(llm, BASE).token_ids


# Logprobs

MODES = {
    "raw": {},
    "processed": {
        "logprobs_mode": "processed",
        "temperature": 0.7,
        "repetition_penalty": 1.3,
        "logit_bias": {7: 2.0},
        "top_k": 40,
        "top_p": 0.98,
        "logits_processors": [Partial(scaled, 1.25)],
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_decoding_and_rescoring_agree(llm, mode):
    given = (1, 7, VOCAB - 1)
    params = replace(BASE, logprobs=3, logprob_token_ids=given, max_tokens=24, **MODES[mode])
    decoded = alone(llm, params)
    again = replace(params, prompt_logprobs=3, max_tokens=1)
    scored = llm.generate([PROMPT + decoded.token_ids], again)[0].prompt_logprobs
    assert scored is not None
    changes = []
    for token, own, other in zip(
        decoded.token_ids, decoded.logprobs, scored[len(PROMPT) :], strict=True
    ):
        assert own.keys() == other.keys()
        assert {token, *given} <= own.keys()
        changes += [own[i].logprob - other[i].logprob for i in own if np.isfinite(own[i].logprob)]
        assert all(own[i].rank == other[i].rank for i in own)
        assert all((own[i].logprob == -np.inf) == (other[i].logprob == -np.inf) for i in own)
    assert len(changes) > 80
    assert np.mean(np.exp(np.abs(changes))) - 1 <= 1e-6


def test_processed_logprobs_are_those_of_what_is_sampled_from(llm):
    """One step by hand: the model's logits, bias, temperature, top-k."""
    params = replace(
        BASE, logprobs=5, logprobs_mode="processed", temperature=0.5, top_k=3, logit_bias={7: 9.0}
    )
    table = alone(llm, params).logprobs[0]
    logits = llm.logits(PROMPT)[-1].astype(np.float64)
    logits[7] += 9
    kept = np.argsort(-logits)[:3]
    scores = logits[kept] / 0.5
    want = scores - np.log(np.sum(np.exp(scores - scores.max()))) - scores.max()
    found = [(i, table[i].logprob) for i in table if np.isfinite(table[i].logprob)]
    assert [i for i, _ in found] == kept.tolist()
    np.testing.assert_allclose([p for _, p in found], want, atol=1e-5)
    assert len(table) == 5, "the alternatives that were dropped have a logprob of -inf"


def test_given_ids_need_no_other_logprobs(llm):
    given = (3, 599, 0)
    params = replace(BASE, logprob_token_ids=given, prompt_logprobs=0, max_tokens=3)
    out = llm.generate([PROMPT], params)[0]
    logits = llm.logits(PROMPT).astype(np.float64)
    want = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    tables = [*out.prompt_logprobs[1:], out.outputs[0].logprobs[0]]
    chosen = [*PROMPT[1:], out.outputs[0].token_ids[0]]
    for row, (table, token) in enumerate(zip(tables, chosen, strict=True)):
        assert set(table) == {token, *given}
        for i in given:
            assert abs(table[i].logprob - want[row, i]) < 1e-4
            assert table[i].rank == 1 + np.sum(logits[row] > logits[row, i])


def test_logprobs_of_any_kind_compile_nothing_new(llm):
    for prompt_logprobs in (None, 0):
        plain = replace(BASE, prompt_logprobs=prompt_logprobs)
        llm.generate([PROMPT], plain)
        llm.generate([PROMPT], replace(plain, top_p=0.9, logprobs_mode="processed"))
    before = dict(llm.compilations)
    for changes in (
        {"logprobs": 20},
        {"logprob_token_ids": tuple(range(128))},
        {"logprobs": 1, "logprobs_mode": "processed", "mirostat": {}},
        {"prompt_logprobs": 5, "logprobs_mode": "processed", "typical_p": 0.5},
    ):
        llm.generate([PROMPT], replace(BASE, **changes))
    assert llm.compilations == before
