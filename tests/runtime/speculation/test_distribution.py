"""Verified tokens are distributed as the model says, whatever the draft insists on.

That they are those of a run without drafts is tested beside this; here they are counted, against
probabilities that are computed without an engine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import gammaincc, log_softmax

import ferrum_jax as fj
from tests.runtime.speculation.proposers import speculate
from tests.sampler.batch import chi_squared

IDS = (30, 31, 32, 33)
PROMPT = [17, 5, 99, 30]
PARAMS = fj.SamplingParams(
    max_tokens=3,
    temperature=0.8,
    seed=11,
    n=1000,
    allowed_token_ids=IDS,
    repetition_penalty=1.1,
    frequency_penalty=0.2,
    logit_bias={31: 0.7},
)


class Stubborn:
    """Always drafts the same token, the likeliest of few."""

    def propose(self, token_ids, count):
        return [31] * count


def joint(llm: fj.LLM) -> np.ndarray:
    """The probability of every text of three tokens, `[4, 4, 4]`, by dense forwards."""
    probabilities = np.zeros((4, 4, 4))
    for a in range(4):
        for b in range(4):
            for c in range(4):
                texts = [[], [a], [a, b]]
                chosen = (a, b, c)
                logs = [next_logprobs(llm, t)[k] for t, k in zip(texts, chosen, strict=True)]
                probabilities[a, b, c] = np.exp(sum(logs))
    return probabilities


def next_logprobs(llm: fj.LLM, text: list[int]) -> np.ndarray:
    """Of the four ids behind PROMPT and a text of them."""
    output = [IDS[i] for i in text]
    logits = llm.logits([*PROMPT, *output])[-1].astype(np.float64)
    for token in {*PROMPT, *output}:
        logits[token] *= 1 / 1.1 if logits[token] > 0 else 1.1
    for token in output:
        logits[token] -= 0.2
    logits[31] += 0.7
    return log_softmax(logits[list(IDS)] / PARAMS.temperature)


@pytest.mark.every_case
def test_texts_are_as_likely_as_the_model_says(make_llm):
    engine = {"max_num_seqs": 64, "max_num_batched_tokens": 256, "num_pages": 400}
    with make_llm(batch_invariant=True, speculative=speculate(Stubborn), **engine) as llm:
        outputs = llm.generate([PROMPT] * 4, [replace(PARAMS, seed=i) for i in range(4)])
        assert 0.15 < llm.metrics.snapshot().acceptance_rate < 0.85
        texts = [c.token_ids for output in outputs for c in output.outputs]
        drawn = [[IDS.index(token) for token in text] for text in texts]
        draws = np.ravel_multi_index(np.transpose(drawn), (4, 4, 4))
        expected = joint(llm).ravel()
    assert expected.sum() == pytest.approx(1, abs=1e-6)
    statistic, freedom = chi_squared(draws, expected)
    assert gammaincc(freedom / 2, statistic / 2) > 1e-3
    # The test has power: a verification that, behind a refused draft, draws from the whole
    # distribution and not from what is left of it, samples the drafted token too often.
    second = expected.reshape(4, 4, 4).sum(axis=2, keepdims=True)
    given = second / second.sum(axis=1, keepdims=True)
    refused = 1 - given[:, 1:2]
    biased = expected.reshape(4, 4, 4) * (refused + (np.arange(4) == 1)[None, :, None])
    statistic, freedom = chi_squared(draws, biased.ravel())
    assert gammaincc(freedom / 2, statistic / 2) < 1e-6


def test_the_seeds_are_those_of_requests_without_drafts(make_llm):
    """The first of the completions: the same texts, one by one."""
    few = replace(PARAMS, n=24)
    with make_llm(batch_invariant=True) as llm:
        expected = [c.token_ids for c in llm.generate([PROMPT], few)[0].outputs]
    with make_llm(batch_invariant=True, speculative=speculate(Stubborn)) as llm:
        assert [c.token_ids for c in llm.generate([PROMPT], few)[0].outputs] == expected
