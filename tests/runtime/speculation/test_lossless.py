"""Drafts, right, wrong or absent, change no token of any request."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from tests.runtime.conftest import CONFIG, ENGINE
from tests.runtime.speculation.proposers import Knowing, speculate, texts_of

PROMPTS = [[17, 5, 99, 1200, 8], [3], [40, 41, 40, 41, 40, 41, 40], list(range(100, 121))]
BASE = fj.SamplingParams(max_tokens=24, seed=5, logprobs=2, ignore_eos=True)
PROCESSED = replace(
    BASE,
    repetition_penalty=1.3,
    presence_penalty=0.4,
    frequency_penalty=0.2,
    logit_bias={7: 3.0, 9: -2.0},
    top_p=0.9,
    logprobs_mode="processed",
)


def forbid_the_last(logits, history, length):
    """A user's logits processor: no token twice in a row."""
    return logits.at[history[length - 1]].set(-jnp.inf)


CASES = {
    "greedy": replace(BASE, temperature=0.0),
    "sampled": BASE,
    "sharp": replace(BASE, temperature=0.3),
    "penalties, bias, processed logprobs": PROCESSED,
    "truncated": replace(BASE, top_k=40, min_p=0.01, typical_p=0.9, tfs_z=0.95),
    "early end": replace(BASE, min_tokens=6, ignore_eos=False, stop_token_ids=(11, 12, 13, 14)),
    "few ids": replace(BASE, allowed_token_ids=tuple(range(20, 60))),
    "two completions": replace(BASE, n=2),
    "given logprobs": replace(BASE, logprob_token_ids=(3, 4), prompt_logprobs=1),
    "mirostat": replace(BASE, mirostat={"mode": 2, "tau": 3.0, "eta": 0.1}),
    "guided": replace(BASE, guided={"regex": "[abc]{5}( [0-9]+){3}"}, ignore_eos=False),
    "guided and penalised": replace(PROCESSED, guided={"regex": "([ab]{2}|[cd]{3})+"}),
    "processor": replace(BASE, logits_processors=[forbid_the_last]),
    "stop string": replace(BASE, guided={"regex": "(x|y|zz)+"}, stop=["zx", "yy"]),
    "one token": replace(BASE, max_tokens=1),
}


def taps_of(name: str) -> fj.Taps | None:
    if name == "sharp":
        return fj.edits.steer(np.full(32, 0.3, np.float32), 1)
    return fj.edits.ablate_heads([(0, 1)]) if name == "greedy" else None


def requests() -> list[tuple[list[int], fj.SamplingParams, fj.Taps | None]]:
    """Every case on two prompts."""
    return [
        (PROMPTS[(i + k) % len(PROMPTS)], params, taps_of(name))
        for i, (name, params) in enumerate(CASES.items())
        for k in (0, 1)
    ]


def run(llm: fj.LLM) -> list:
    prompts, params, taps = map(list, zip(*requests(), strict=True))
    outputs = llm.generate(prompts, params, taps=taps)
    assert llm.engine.free_pages == llm.engine.blocks.num_total
    return outputs


def same(outputs: list, expected: list, tolerance: float) -> None:
    for output, other in zip(outputs, expected, strict=True):
        assert output.error == other.error
        for mine, theirs in zip(output.outputs, other.outputs, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert mine.text == theirs.text
            assert mine.finish_reason == theirs.finish_reason
            assert mine.stop_reason == theirs.stop_reason
            for table, reference in zip(mine.logprobs, theirs.logprobs, strict=True):
                assert table.keys() == reference.keys()
                for token, entry in table.items():
                    assert abs(entry.logprob - reference[token].logprob) <= tolerance


@pytest.fixture(scope="module")
def plain(weights, tokenizer):
    """Every request without speculation, in a batch-invariant engine."""
    engine = replace(ENGINE, batch_invariant=True)
    with fj.LLM(CONFIG, weights, tokenizer, engine=engine, eos_token_ids=(2,)) as llm:
        return run(llm)


@pytest.mark.every_case
@pytest.mark.parametrize("wrong", [0, 1, 3], ids=["all right", "all wrong", "some wrong"])
def test_the_quality_of_drafts_does_not_show_in_a_bit(make_llm, plain, wrong):
    draft = speculate(Knowing(texts_of(plain), wrong))
    with make_llm(batch_invariant=True, speculative=draft) as llm:
        same(run(llm), plain, 0.0)
        metrics = llm.metrics.snapshot()
        assert metrics.drafted_tokens > 200
        rate = metrics.acceptance_rate
        assert {0: rate > 0.97, 1: rate < 0.02, 3: 0.2 < rate < 0.8}[wrong]


@pytest.mark.every_case
@pytest.mark.parametrize(
    "changes",
    [
        {"num_pages": 20},
        {"num_pages": 20, "preemption": "swap"},
        {"prefix_caching": True, "policy": "round_robin", "quantum": 5, "max_num_seqs": 2},
    ],
    ids=["preempted", "swapped", "shared prefixes, in turns"],
)
def test_nor_how_a_request_is_scheduled(make_llm, plain, changes):
    draft = speculate(Knowing(texts_of(plain), wrong=5))
    with make_llm(batch_invariant=True, speculative=draft, **changes) as llm:
        same(run(llm), plain, 0.0)
        metrics = llm.metrics.snapshot()
        assert metrics.accepted_tokens > 100
        assert metrics.num_preemptions > 0
        assert ("swap" in changes.values()) == (metrics.num_swaps > 0)


def test_ngrams(make_llm, plain):
    """With lengths that follow what was accepted."""
    draft = fj.Speculation(num_tokens=5, ngram=(1, 3))
    with make_llm(batch_invariant=True, speculative=draft) as llm:
        same(run(llm), plain, 0.0)
        metrics = llm.metrics.snapshot()
        assert metrics.drafted_tokens > 0
        assert f"{metrics.drafted_tokens:,} tokens" in str(metrics)
        assert f"accepted_tokens_total {metrics.accepted_tokens}" in llm.metrics.prometheus()


def test_steps_that_are_cut_to_their_work(make_llm, plain):
    """Without batch invariance: other programs, the same tokens."""
    names = ["greedy", "sampled", "penalties, bias, processed logprobs", "guided"]
    wanted = [2 * list(CASES).index(name) for name in names]
    prompts, params, taps = map(list, zip(*(requests()[i] for i in wanted), strict=True))
    draft = speculate(Knowing(texts_of(plain), wrong=4), num_tokens=2)
    with make_llm(speculative=draft, max_num_seqs=2) as llm:
        same(llm.generate(prompts, params, taps=taps), [plain[i] for i in wanted], 2e-5)
        assert llm.metrics.snapshot().accepted_tokens > 30


def test_what_drafts_leave_in_the_cache_is_not_read(make_llm, plain):
    """Rescoring the texts gives the logprobs that were sampled with."""
    draft = speculate(Knowing(texts_of(plain), wrong=2))
    with make_llm(batch_invariant=True, speculative=draft) as llm:
        outputs = llm.generate(PROMPTS, BASE)
        scores = llm.score([list(text) for text in texts_of(outputs)])
        for output, score in zip(outputs, scores, strict=True):
            completion = output.outputs[0]
            tables = zip(completion.logprobs, completion.token_ids, strict=True)
            sampled = [table[token].logprob for table, token in tables]
            assert score.logprobs[len(output.prompt_token_ids) :].tolist() == sampled


def test_captures_hold_what_was_generated_and_nothing_else(make_llm, plain):
    """A draft's refused tokens are not captured, nor those behind a stop."""
    params = replace(BASE, temperature=0.0, stop_token_ids=(plain[0].outputs[0].token_ids[9],))
    taps = fj.Taps(capture=frozenset({"resid_post"}))

    def captured(llm):
        engine = llm.engine
        request = engine.add(PROMPTS[0], params, taps=taps)
        while not engine.is_done(request):
            engine.step()
        parts, _ = engine.drain_captured(request)
        positions = [
            p for part in parts for p in range(part.start, part.start + len(part.token_ids))
        ]
        values = {
            layer: np.concatenate([part.values["resid_post"][layer] for part in parts])
            for layer in range(2)
        }
        return positions, values

    with make_llm(batch_invariant=True) as llm:
        positions, values = captured(llm)
    for wrong in (0, 3):
        draft = speculate(Knowing(texts_of(plain), wrong))
        with make_llm(batch_invariant=True, speculative=draft) as llm:
            mine, others = captured(llm)
        assert mine == positions
        for layer, value in values.items():
            np.testing.assert_array_equal(others[layer], value)
