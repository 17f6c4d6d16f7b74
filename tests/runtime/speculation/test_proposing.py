"""Who drafts what, and how much of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_jax as fj
from ferrum_jax.interfaces import Proposer
from ferrum_jax.runtime.speculation.chance import FIRST_GUESS, AcceptanceChance
from ferrum_jax.runtime.speculation.ngram import NgramProposer
from tests.runtime.speculation.proposers import Knowing, speculate


def looked_up(tokens: list[int], shortest: int, longest: int, count: int) -> list[int]:
    """Prompt lookup, said plainly."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if size <= len(tokens) and tokens[end - size : end] == tokens[-size:]:
                return tokens[end : end + count]
    return []


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 40), max_size=5),
    sizes=st.tuples(st.integers(1, 3), st.integers(0, 2)),
    count=st.integers(1, 6),
)
@settings(deadline=None)
def test_ngrams_are_those_of_a_plain_search(tokens, cuts, sizes, count):
    """However the sequence grew."""
    shortest, longest = sizes[0], sum(sizes)
    proposer = NgramProposer(shortest, longest)
    for length in [*sorted(c for c in cuts if c < len(tokens)), len(tokens)]:
        found = list(proposer.propose(tokens[:length], count))
        assert found == looked_up(tokens[:length], shortest, longest, count)


@given(
    first=st.lists(st.integers(0, 2), min_size=1, max_size=20),
    keep=st.integers(1, 20),
    second=st.lists(st.integers(0, 2), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_after_a_rewind_a_draft_is_what_stands_there(first, keep, second):
    """It may be none, for what was found last is forgotten; it is never of the old tokens."""
    proposer = NgramProposer(2, 2)
    proposer.propose(first, 3)
    tokens = first[:keep] + second
    draft = list(proposer.propose(tokens, 3))
    places = range(2, len(tokens))
    assert not draft or draft in [
        tokens[e : e + 3] for e in places if tokens[e - 2 : e] == tokens[-2:]
    ]


def test_the_chance_follows_what_is_accepted():
    chance = AcceptanceChance()
    assert chance.value == FIRST_GUESS
    assert chance.length(8, 0.3) == 3  # 0.7 ** 3 = 0.34
    for _ in range(30):
        chance.note(4, 4)
    assert chance.value > 0.95
    assert chance.length(8, 0.3) == 8
    for _ in range(30):
        chance.note(4, 0)
    assert chance.length(8, 0.3) == 0
    assert chance.length(8, 0.0) == 8
    for _ in range(60):
        chance.note(0, 0)
    assert chance.value == pytest.approx(FIRST_GUESS, abs=0.01)


def test_tokens_behind_a_refused_one_do_not_count():
    """Of 8 tokens the second was refused: one of two, not one of eight."""
    chance = AcceptanceChance()
    for _ in range(50):
        chance.note(8, 1)
    assert chance.value == pytest.approx(0.5, abs=0.02)


def test_drafts_get_shorter_where_they_fail(make_llm):
    """Every drafted token is wrong: after some tries hardly any is drafted."""
    params = fj.SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
    with make_llm(batch_invariant=True) as llm:
        (text,) = [[5, *llm.generate([[5]], params)[0].outputs[0].token_ids]]
    drafted = {}
    for least in (0.0, 0.3):
        draft = speculate(Knowing((tuple(text),), wrong=1), min_chance=least)
        with make_llm(batch_invariant=True, speculative=draft) as llm:
            output = llm.generate([[5]], params)[0]
            assert output.outputs[0].token_ids == text[1:]
            assert output.metrics.accepted_tokens == 0
            drafted[least] = output.metrics.drafted_tokens
    assert drafted[0.0] > 280
    assert drafted[0.3] < 60


def test_a_proposer_is_what_the_protocol_says():
    proposer: Proposer = NgramProposer(1, 2)
    assert list(proposer.propose([1, 2, 1], 2)) == [2, 1]


class Broken:
    """Drafts what is no token."""

    token: object = 4096

    def propose(self, token_ids, count):
        return [self.token]


def test_what_is_no_token_is_refused(make_llm, monkeypatch):
    """And the engine goes on."""
    with make_llm(batch_invariant=True, speculative=speculate(Broken)) as llm:
        for token in (4096, -1, "a", None):
            monkeypatch.setattr(Broken, "token", token)
            with pytest.raises(fj.RequestError, match="the vocabulary has ids 0 to 4095"):
                llm.generate([[5]], fj.SamplingParams(max_tokens=4))
        monkeypatch.setattr(Broken, "token", 7)
        assert (
            len(llm.generate([[5]], fj.SamplingParams(max_tokens=4))[0].outputs[0].token_ids) == 4
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft": ""}, "must be 'ngram', a model's directory"),
        ({"draft": 3}, "must be 'ngram', a model's directory"),
        ({"num_tokens": 0}, "num_tokens is 0; it must be an integer from 1 to 64"),
        ({"num_tokens": True}, "num_tokens is True"),
        ({"min_chance": 1.5}, "min_chance is 1.5; it must be from 0 to 1"),
        ({"min_chance": "high"}, "must be a number"),
        ({"ngram": (3, 2)}, "the shortest length comes first"),
        ({"ngram": 3}, "must be two lengths"),
        ({"ngram": (0, 2)}, "ngram is 0"),
    ],
)
def test_wrong_settings_say_what_is_right(changes, message):
    with pytest.raises(fj.ConfigError, match=message):
        fj.Speculation(**changes)


def test_a_name_stands_for_its_settings():
    assert fj.EngineConfig(speculative="ngram") == fj.EngineConfig(speculative=fj.Speculation())
    assert hash(fj.EngineConfig(speculative="ngram"))
    with pytest.raises(fj.ConfigError, match="speculative is 4; it must be a Speculation"):
        fj.EngineConfig(speculative=4)
