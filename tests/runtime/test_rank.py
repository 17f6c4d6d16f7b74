"""`llm.rank`: sums of the dense forward's logprobs, whatever is tokenised, shared or cached."""

import math
from dataclasses import replace

import numpy as np
import pytest

import ferrum_jax as fj
from tests.runtime import hybrids
from tests.runtime.conftest import ENGINE

QUERY = "The for statement is used to iterate over the elements of"
CHOICES = [" a sequence", " bananas", " the", " an iterable object"]


def logprobs(llm, ids, taps=None):
    """log p of every token of a text but the first, by one dense forward; float64."""
    logits = np.asarray(llm.logits(ids, taps=taps), np.float64)
    table = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    table -= logits.max(1, keepdims=True)
    return table[np.arange(len(ids) - 1), ids[1:]]


def expected(llm, query, choice, taps=None):
    """log p(choice | query), and of the same tokens behind BOS alone."""
    before, whole = llm.encode(query), llm.encode(query + choice)
    assert whole[: len(before)] == before
    own = whole[len(before) :]
    alone = [llm.tokenizer.bos_token_id, *own]
    return logprobs(llm, whole, taps)[-len(own) :], logprobs(llm, alone, taps)


def check(llm, found, query, choices, taps=None):
    for score in found:
        choice = choices[score.index]
        conditional, alone = expected(llm, query, choice, taps)
        assert score.choice == choice
        assert score.token_ids == llm.encode(query + choice)[-len(conditional) :]
        np.testing.assert_allclose(score.logprobs, conditional, rtol=0, atol=5e-5)
        total = conditional.sum()
        assert score.total == pytest.approx(total, abs=2e-4)
        assert score.mean == pytest.approx(total / len(conditional), abs=1e-4)
        assert score.per_byte == pytest.approx(total / len(choice.encode()), abs=1e-4)
        assert score.mutual_information == pytest.approx(total - alone.sum(), abs=4e-4)
    values = [getattr(score, found.by) for score in found]
    assert values == sorted(values, reverse=True)
    assert sorted(score.index for score in found) == list(range(len(choices)))


@pytest.mark.parametrize("by", ["total", "mean", "per_byte", "mutual_information"])
def test_the_figures_are_those_of_the_dense_forward(llm, by):
    check(llm, llm.rank(QUERY, CHOICES, by), QUERY, CHOICES)


def test_edits_count(llm):
    taps = fj.edits.ablate_mlp(0)
    edited, plain = llm.rank(QUERY, CHOICES, taps=taps), llm.rank(QUERY, CHOICES)
    check(llm, edited, QUERY, CHOICES, taps)
    assert abs(edited.best.total - plain[edited.best.index].total) > 1e-3


def test_short_queries_and_single_tokens(llm):
    query, choices = "x", [" the", " a", "("]
    assert [len(llm.encode(query + c)) - len(llm.encode(query)) for c in choices] == [1, 1, 1]
    check(llm, llm.rank(query, choices), query, choices)
    (only,) = llm.rank(query, [" the"])
    assert only.index == 0


def test_without_a_query_the_choice_stands_behind_bos(llm):
    found = llm.rank("", CHOICES, "mutual_information")
    assert found.num_shared == 1
    assert [score.mutual_information for score in found] == pytest.approx([0] * 4, abs=1e-5)
    bos = llm.tokenizer.bos_token_id
    for score in llm.rank([], [[9], [8, 7]]):
        assert score.total == pytest.approx(logprobs(llm, [bos, *score.choice]).sum(), abs=2e-4)


def test_tokens_that_merge_over_the_border_are_scored_with_every_choice(llm):
    """A query that ends in a space: the space belongs to the choice's first token."""
    query, choices = "for x in ", ["range", "(a, b)"]
    before = llm.encode(query)
    wholes = [llm.encode(query + choice) for choice in choices]
    assert any(whole[: len(before)] != before for whole in wholes)
    found = llm.rank(query, choices)
    assert found.num_shared < len(before)
    for score in found:
        whole = wholes[score.index]
        assert score.token_ids == whole[found.num_shared :]
        total = logprobs(llm, whole)[found.num_shared - 1 :].sum()
        assert score.total == pytest.approx(total, abs=2e-4)
    assert before[: found.num_shared] == wholes[0][: found.num_shared]


def test_ids_are_joined_as_they_are(llm):
    query, choices = llm.encode(QUERY), [[7, 8, 9], [300]]
    found = llm.rank(np.array(query), [choices[0], np.array(choices[1]), " the"])
    assert found.num_shared == len(query)
    for score in found:
        if score.index < 2:
            own = choices[score.index]
            assert (score.choice, score.token_ids) == (tuple(own), own)
            total = logprobs(llm, query + own)[-len(own) :].sum()
            assert score.total == pytest.approx(total, abs=2e-4)
            assert score.per_byte < 0
    assert {score.choice for score in found} == {(7, 8, 9), (300,), " the"}


def test_ties_keep_their_order(llm):
    found = llm.rank(QUERY, [" the", " a sequence", " the", " the"])
    same = [score.index for score in found if score.choice == " the"]
    assert same == [0, 2, 3]
    assert len({score.total for score in found if score.choice == " the"}) == 1


@pytest.mark.parametrize("caching", [False, True])
def test_the_query_is_computed_once(make_llm, caching):
    llm = make_llm(prefix_caching=caching, page_size=4)
    runs = []
    schedule = llm.engine.scheduler.schedule
    llm.engine.scheduler.schedule = lambda: runs.append(schedule()) or runs[-1]
    query = llm.encode(QUERY)
    check(llm, llm.rank(QUERY, CHOICES), QUERY, CHOICES)
    computed = sum(chunk.length for one in runs for chunk in one.chunks)
    own = [len(llm.encode(QUERY + choice)) - len(query) for choice in CHOICES]
    # The query once; then each choice from the query's last token on; then each behind BOS.
    assert computed == len(query) + sum(n + 1 for n in own) + sum(n + 1 for n in own)
    if caching:
        runs.clear()
        llm.rank(QUERY, [" else"])
        again = sum(chunk.length for one in runs for chunk in one.chunks)
        assert again < len(query)
    llm.engine.clear_prefix_cache()
    assert llm.engine.free_pages == llm.engine.blocks.num_total


def test_the_bits_are_those_of_scoring(make_llm):
    llm = make_llm(batch_invariant=True)
    wholes = llm.score([QUERY + choice for choice in CHOICES])
    for score in llm.rank(QUERY, CHOICES):
        own = wholes[score.index].logprobs[-len(score.token_ids) :]
        assert score.logprobs.tobytes() == own.tobytes()


def test_a_recurrent_model():
    config = hybrids.model("short conv")
    llm = fj.LLM(config, hybrids.weights(config), engine=ENGINE)
    query, choices = list(range(5, 30)), [[3, 4], [9]]
    for score in llm.rank(query, choices):
        own = choices[score.index]
        total = logprobs(llm, query + own)[-len(own) :].sum()
        assert score.total == pytest.approx(total, abs=1e-3)


def test_without_a_tokenizer_some_figures_are_missing(weights, llm):
    bare = fj.LLM(llm.config, llm.params, engine=replace(ENGINE))
    bare._engine, bare._driver = llm.engine, llm._driver
    found = bare.rank([5, 6, 7], [[8], [9, 10]])
    assert math.isnan(found.best.per_byte)
    assert math.isnan(found.best.mutual_information)
    assert " -" in str(found)
    for by in ("per_byte", "mutual_information"):
        with pytest.raises(fj.RequestError, match=f"{by} needs .*choose another `by`"):
            bare.rank([5, 6, 7], [[8]], by)
    with pytest.raises(fj.RequestError, match="names no BOS or EOS token"):
        bare.rank([], [[8], [9]])


def test_the_table(llm):
    found = llm.rank(QUERY, CHOICES, "per_byte")
    head, *rows = str(found).splitlines()
    assert " ".join(head.split()) == "choice tokens total mean per byte * mutual information"
    assert len(rows) == len(found) == 4
    assert repr(found.best.choice) in rows[0]
    assert f"{found.best.per_byte:.4f}" in rows[0]
    assert [score.choice for score in found] == [found[i].choice for i in range(4)]


@pytest.mark.parametrize(
    ("query", "choices", "options", "says"),
    [
        (QUERY, [], {}, "there are no choices; give at least one"),
        (QUERY, [" a", ""], {}, "choice 1 is empty"),
        (QUERY, [[]], {}, "choice 0 is empty"),
        (QUERY, " a", {}, "choices is ' a'; give a list"),
        (QUERY, [5, 6], {}, "choice 0 is 5; give a text or a list of token ids"),
        (QUERY, [" a"], {"by": "acc"}, "by is 'acc'; choose one of total, mean, per_byte, mutual"),
        (QUERY, [" a", " b" * 200], {}, "choice 1: the prompt has .* tokens; max_model_len"),
        (QUERY, [[4096]], {}, "choice 0: the prompt holds token id 4096"),
        (QUERY, [" a"], {"taps": fj.edits.ablate_mlp(7)}, "layer 7 does not exist"),
    ],
)
def test_refused(llm, query, choices, options, says):
    with pytest.raises(fj.RequestError, match=says):
        llm.rank(query, choices, **options)


@pytest.mark.parametrize("score_from", [0, 4])
def test_a_start_outside_the_prompt_is_refused(llm, score_from):
    with pytest.raises(fj.RequestError, match=f"score_from is {score_from}; .* tokens 1 to 2"):
        llm.engine.add([5, 6, 7], fj.SamplingParams(prompt_logprobs=0), score_from=score_from)
