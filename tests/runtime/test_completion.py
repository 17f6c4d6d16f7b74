"""Stops against `min_tokens`, and words and ends as token ids: host state, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ferrum_jax as fj
from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.runtime.words import end_ids, spell_words
from ferrum_jax.tokenizer import IncrementalDetokenizer, load_tokenizer
from ferrum_jax.types import Request, Sequence

TRAINED = Path(__file__).parent.parent / "tokenizer" / "trained"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DEMO_MODEL)


def push_all(tokenizer, text, params, *, streams=True):
    """The completion of a text's tokens, and what a stream showed of it."""
    sequence = Sequence(Request(0, (1,), params), 0, max_len=500)
    builder = CompletionBuilder(sequence, tokenizer, frozenset({2}), 0, streams)
    shown = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        shown.append(builder.push(token, None))
        if sequence.finish_reason is not None:
            break
    else:
        shown.append(builder.finish(fj.FinishReason.LENGTH))
    done = builder.build()
    assert "".join(shown) == done.text
    return done


TEXT = "one two three two one two"


@pytest.mark.parametrize("streams", [True, False])
def test_a_stop_string_within_min_tokens_does_not_stop(tokenizer, streams):
    def completed(min_tokens, stop="two"):
        params = fj.SamplingParams(stop=stop, min_tokens=min_tokens)
        return push_all(tokenizer, TEXT, params, streams=streams)

    first = completed(0)
    assert (first.text.strip(), first.stop_reason) == ("one", "two")
    # As many tokens as the first stop took: it no longer counts, the second does.
    second = completed(len(first.token_ids))
    assert (second.text.strip(), second.stop_reason) == ("one two three", "two")
    never = completed(60)
    assert (never.text.strip(), never.finish_reason) == (TEXT, "length")


@pytest.mark.parametrize("include", [True, False])
def test_the_text_of_a_stop_token_is_kept_if_stops_are(tokenizer, include):
    last = tokenizer.encode(TEXT, add_special_tokens=False)[-1]
    assert tokenizer.encode("one", add_special_tokens=False)[-1] != last
    params = fj.SamplingParams(stop_token_ids=[last], include_stop_str_in_output=include)
    done = push_all(tokenizer, TEXT, params)
    assert done.stop_reason == last
    whole = tokenizer.decode(done.token_ids)
    assert (
        done.text.strip() == (whole if include else tokenizer.decode(done.token_ids[:-1])).strip()
    )
    assert (done.text.strip() == whole.strip()) == include


@pytest.mark.parametrize("word", ["return", "naïve", "  self ", "two words"])
def test_a_word_is_spelled_wherever_it_may_stand(tokenizer, word):
    spellings = spell_words([word, word], tokenizer)
    assert len(set(spellings)) == len(spellings)
    assert {tokenizer.decode(ids).strip() for ids in spellings} == {word.strip()}
    for before in ("", "a ", "(", "\n", "x = "):
        text = before + word.strip()
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if tokenizer.decode(ids[:-1]).startswith(before):
            assert any(ids[-len(one) :] == one for one in spellings), text


def test_words_without_a_tokenizer_and_too_many_are_refused(tokenizer):
    assert spell_words([], None) == ()
    with pytest.raises(fj.TokenizerError, match="without a tokenizer"):
        spell_words(["x"], None)
    with pytest.raises(fj.RequestError, match=r"bad_words has \d+ tokens .* at most 1024"):
        spell_words([f"{'word ' * 40}{i}" for i in range(20)], tokenizer)


def test_words_outside_the_vocabulary_and_without_tokens_are_refused(tokenizer, kinds):
    largest = max(token for ids in spell_words(["return"], tokenizer) for token in ids)
    assert spell_words(["return"], tokenizer, largest + 1)
    with pytest.raises(fj.RequestError, match=f"token id {largest}; the vocabulary has {largest}"):
        spell_words(["return"], tokenizer, largest)
    with pytest.raises(fj.RequestError, match="makes no token"):
        spell_words(["\x01"], kinds["bert"])


def test_ends_are_eos_and_stop_tokens():
    assert end_ids(fj.SamplingParams(stop_token_ids=[9, 3]), frozenset({2})) == (2, 3, 9)
    assert end_ids(fj.SamplingParams(ignore_eos=True), frozenset({2})) == ()
    many = fj.SamplingParams(min_tokens=1, stop_token_ids=range(128))
    assert len(end_ids(many, frozenset({2}))) == 128
    with pytest.raises(fj.RequestError, match="129 ids end a text"):
        end_ids(many, frozenset({200}))


KINDS = ("gpt2", "pieces_bytes", "llama", "bert")
PARTS = ("the", " fox", "é", "e\u0301", "한", "👩‍👩‍👧", "🇩🇪", "\n\n", " .", "'", "ab", "b")
TEXTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join)


@pytest.fixture(scope="module")
def kinds():
    return {kind: load_tokenizer(TRAINED / kind) for kind in KINDS}


def first_end(text, stops):
    """The first end of a stop string, the first in the list among several, by looking at all."""
    for end in range(1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return end, stop
    return None


def open_end(text, stops):
    """How much of a text's end may still become a stop string."""
    tails = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(tails, default=0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_streams_end_where_the_first_stop_string_ends(kinds, kind, data):
    tokenizer = kinds[kind]
    ids = tokenizer.encode(data.draw(TEXTS) * 2, add_special_tokens=False)
    ids += data.draw(st.lists(st.integers(3, tokenizer.vocab_size - 1), max_size=12))
    ids = data.draw(st.permutations(ids)) if data.draw(st.booleans()) else ids
    whole = tokenizer.decode(ids)
    inside = st.tuples(*[st.integers(0, max(0, len(whole) - 1))] * 2).map(sorted)
    cuts = inside.map(lambda ends: whole[ends[0] : ends[1] + 1]).filter(bool)
    stops = data.draw(st.lists(TEXTS | cuts if whole else TEXTS, max_size=3))
    include = data.draw(st.booleans())
    params = fj.SamplingParams(stop=stops, include_stop_str_in_output=include)
    sequence = Sequence(Request(0, (), params), 0, max_len=500)
    builder = CompletionBuilder(sequence, tokenizer, frozenset(), 0, streams=True)
    plain, decided, shown = IncrementalDetokenizer(tokenizer), "", ""
    for token in ids:
        shown += builder.push(token, None)
        decided += plain.push(token)
        if sequence.finish_reason is not None:
            break
        assert shown == decided[: len(decided) - open_end(decided, stops)]
    else:
        shown += builder.finish(fj.FinishReason.LENGTH)
    found = first_end(whole, stops)
    if found is None:
        assert shown == whole
        assert builder.build().finish_reason == "length"
    else:
        end, stop = found
        assert shown == whole[: end if include else end - len(stop)]
        assert builder.build().stop_reason == stop
    assert builder.build().text == shown
