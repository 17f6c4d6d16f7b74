"""Guided requests in the engine: no text outside a grammar, whatever runs beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

import ferrum_jax as fj
from tests.guided.schemas import SCHEMAS
from tests.sampler.batch import chi_squared

ENGINE = fj.EngineConfig(
    page_size=16, num_pages=320, max_model_len=384, max_num_seqs=32, max_num_batched_tokens=64
)
ABC = {"regex": "[abc]{20}"}
BASE = fj.SamplingParams(max_tokens=40, seed=3, temperature=1.5, guided=ABC)
PROMPT = [17, 5, 99, 1200, 8]


@pytest.fixture(scope="module")
def demo():
    with fj.LLM.load("demo", engine=ENGINE) as llm:
        yield llm


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.0, marks=pytest.mark.every_case)])
def test_no_text_is_outside_its_schema(demo, temperature):
    """The whole corpus in one batch."""
    repeats = 2 if temperature else 1
    names = [name for name in SCHEMAS for _ in range(repeats)]
    params = [
        fj.SamplingParams(
            max_tokens=300, seed=i, temperature=temperature, guided={"json": SCHEMAS[name]}
        )
        for i, name in enumerate(names)
    ]
    outputs = demo.generate(['{"value": '] * len(names), params)
    for name, output in zip(names, outputs, strict=True):
        (completion,) = output.outputs
        assert output.error is None
        assert completion.finish_reason == "stop"
        validator = jsonschema.validators.validator_for(SCHEMAS[name])
        checker = validator.FORMAT_CHECKER
        validator(SCHEMAS[name], format_checker=checker).validate(json.loads(completion.text))


def test_a_marker_ends_the_free_text(demo):
    guided = {"json": {"type": "boolean"}, "after": "."}
    params = [fj.SamplingParams(max_tokens=200, seed=i, guided=guided) for i in range(4)]
    for output in demo.generate(["def main("] * 4, params):
        free, _, behind = output.outputs[0].text.rpartition(".")
        assert free
        assert "." not in free
        assert behind in ("true", "false")
        assert output.outputs[0].finish_reason == "stop"


def test_neighbours_preemption_forks_and_rewinds_do_not_show(make_llm):
    with make_llm(num_pages=18, batch_invariant=True) as llm:
        plain = replace(BASE, guided=None)
        each = [BASE, plain, replace(BASE, seed=4), replace(BASE, n=2), replace(plain, top_k=5)]
        alone = [
            [c.token_ids for c in llm.generate([PROMPT], params)[0].outputs] for params in each
        ]
        outputs = llm.generate([PROMPT] * len(each), each)
        assert [[c.token_ids for c in output.outputs] for output in outputs] == alone
        assert llm.metrics.snapshot().num_preemptions > 0
        assert alone[0][0] == alone[3][0]
        for output in (outputs[0], outputs[2], outputs[3]):
            for completion in output.outputs:
                assert re.fullmatch("[abc]{20}", completion.text)
                assert completion.finish_reason == "stop"

        engine = llm.engine
        request = engine.add(PROMPT, BASE)
        for _ in range(12):
            engine.step()
        twin = engine.fork(request, seed=77)
        engine.rewind(request, 3)
        while engine.has_work:
            engine.step()
        (again,) = engine.take(request).outputs
        assert again.token_ids == alone[0][0]
        assert re.fullmatch("[abc]{20}", engine.take(twin).outputs[0].text)
        assert engine.free_pages == engine.blocks.num_total


def test_others_run_ahead_beside_a_guided_request(llm):
    """A guided request waits for its token; one that is not guided has another step in flight."""
    engine = llm.engine
    guided = engine.add(PROMPT, BASE)
    plain = engine.add(PROMPT, replace(BASE, guided=None, max_tokens=12, ignore_eos=True))
    pending = []
    while engine.has_work:
        engine.step()
        pending += [(s.request.request_id, s.num_pending) for s in engine.scheduler.running]
    assert max(n for request, n in pending if request == guided) == 1
    assert max(n for request, n in pending if request == plain) >= 1
    assert re.fullmatch("[abc]{20}", engine.take(guided).outputs[0].text)
    assert len(engine.take(plain).outputs[0].token_ids) == 12


def test_what_is_sampled_is_the_processed_distribution_of_what_is_allowed(llm):
    """Bias, penalty, temperature and grammar together against a plain statement of them."""
    tokenizer = llm.tokenizer
    a, b = (tokenizer.encode(f"\x01{c}", add_special_tokens=False)[-1] for c in "ab")
    draws = 600
    params = fj.SamplingParams(
        n=draws,
        seed=1,
        max_tokens=1,
        temperature=0.7,
        repetition_penalty=1.3,
        logit_bias={a: 1.0},
        guided={"regex": "[ab]c"},
    )
    prompt = [*PROMPT, b]
    found = [c.token_ids[0] for c in llm.generate([prompt], params)[0].outputs]
    logits = llm.logits(prompt)[-1].astype(np.float64)
    for token in set(prompt):
        logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
    logits[a] += 1.0
    begins = (b"a", b"b", b"ac", b"bc")
    allowed = [i for i, spelled in enumerate(tokenizer.token_bytes()) if spelled in begins]
    assert {a, b} <= set(allowed)
    weights = np.exp(logits[allowed] / 0.7)
    statistic, freedom = chi_squared(
        np.searchsorted(allowed, sorted(found)), weights / weights.sum()
    )
    assert set(found) <= set(allowed)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_stop_strings_and_logprobs(llm):
    params = replace(BASE, stop="cc", logprobs=2, logprobs_mode="processed", max_tokens=20)
    (output,) = llm.generate([PROMPT], params)[0].outputs
    assert set(output.text) <= set("abc")
    assert "cc" not in output.text
    for table, token in zip(output.logprobs, output.token_ids, strict=True):
        assert np.isfinite(table[token].logprob)
    dropped = [one.logprob for one in output.logprobs[0].values() if one.logprob == -np.inf]
    assert len(output.logprobs[0]) - len(dropped) >= 1


def test_a_stream_is_the_text(llm):
    parts = [delta.text for delta in llm.stream(PROMPT, BASE)]
    assert "".join(parts) == llm.generate([PROMPT], BASE)[0].outputs[0].text


def test_a_dead_end_ends_its_request_alone_and_says_so(llm):
    letters = [
        i for i, spelled in enumerate(llm.tokenizer.token_bytes()) if spelled.startswith(b"x")
    ]
    dead = replace(BASE, allowed_token_ids=letters)
    outputs = llm.generate([PROMPT] * 2, [dead, BASE])
    assert outputs[0].outputs[0].finish_reason == "error"
    assert "no token is left to sample" in outputs[0].error
    assert "guided" in outputs[0].error
    assert re.fullmatch("[abc]{20}", outputs[1].outputs[0].text)


def test_an_end_of_text_is_honoured_even_if_it_would_be_ignored(llm):
    params = replace(BASE, guided={"regex": "a{1,3}"}, ignore_eos=True)
    for seed in range(4):
        (output,) = llm.generate([PROMPT], replace(params, seed=seed))[0].outputs
        assert re.fullmatch("a{1,3}", output.text)
        assert output.finish_reason == "stop"


def test_what_cannot_be_guided_is_refused_before_it_is_scheduled(llm, weights):
    with pytest.raises(fj.RequestError, match="unclosed character class"):
        llm.generate([PROMPT], replace(BASE, guided={"regex": "["}))
    with pytest.raises(fj.RequestError, match="says nothing about a prompt"):
        replace(BASE, prompt_logprobs=0, logprobs_mode="processed")
    bare = fj.LLM(llm.config, weights, engine=fj.EngineConfig(num_pages=40))
    with pytest.raises(fj.TokenizerError, match="without a tokenizer"):
        bare.generate([PROMPT], BASE)
    assert llm.generate([PROMPT], BASE)[0].outputs[0].finish_reason == "stop"
