"""Grammars on the host: what they allow, what is refused, how many are kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.guided import GrammarCompiler
from ferrum_jax.guided.compiler import CACHED
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types.guided import MAX_DEPTH, checked_guided
from tests.guided.schemas import SCHEMAS, nested

EOS = 2


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DEMO_MODEL)


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(tokenizer, [EOS], 4100)


def ids_of(words):
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def spelled(tokenizer, text):
    """Tokens of a text that begins in the midst of another."""
    before = tokenizer.encode("\x01", add_special_tokens=False)
    whole = tokenizer.encode(f"\x01{text}", add_special_tokens=False)
    assert whole[: len(before)] == before
    return whole[len(before) :]


@pytest.mark.parametrize(
    ("guided", "whole", "not_whole"),
    [
        ({"regex": "[ab]+c"}, ["abc", "aac"], ["ab", "c", "abcc"]),
        ({"choice": ["yes", 'n"o\n', "yesterday"]}, ["yes", 'n"o\n', "yesterday"], ["yeste", "n"]),
        ({"json": {"type": "boolean"}}, ["true", "false"], ["tru", "1"]),
        ({"json": '{"type": "boolean"}'}, ["true"], ["null"]),
        ({"json_object": True}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", '{"a"}']),
        ({"grammar": 'start: "(" start ")" | "x"'}, ["x", "((x))"], ["((x)", "()"]),
        # A rule that begins with itself is no trouble: the parser is Earley's.
        ({"grammar": 'start: start "a" | "b"'}, ["b", "baaa"], ["a", "bb"]),
        ({"regex": "(a+)+b"}, ["aaab"], ["aaa"]),
        ({"regex": "é|你好"}, ["é", "你好"], ["你"]),
        ({"json": {"type": "null"}, "after": "</t>"}, ["hm</t>null", "</t>null"], ["null", "</t>"]),
    ],
    ids=str,
)
def test_an_end_is_allowed_behind_whole_texts_only(compiler, tokenizer, guided, whole, not_whole):
    for text in whole + not_whole:
        place = compiler.start(guided)
        place.follow(spelled(tokenizer, text))
        ends = EOS in ids_of(place.allowed()) or place.finished
        assert ends == (text in whole), text


def test_a_marker_that_is_a_special_token(compiler, tokenizer):
    marker = tokenizer.bos_token_id
    place = compiler.start({"regex": "q", "after": tokenizer.token_text(marker)})
    place.follow(spelled(tokenizer, "free q text"))
    allowed = ids_of(place.allowed())
    assert marker in allowed
    assert EOS not in allowed
    place.accept(marker)
    assert {tokenizer.token_text(i) for i in ids_of(place.allowed())} <= {"q", "<0x71>"}


def test_a_place_is_a_function_of_the_tokens(compiler, tokenizer):
    guided = {"regex": "[a-z]{3,9}!"}
    texts = [spelled(tokenizer, text) for text in ("abcd", "abx", "zzz!", "abcdefg")]
    place = compiler.start(guided)
    for tokens in (*texts, *reversed(texts)):
        place.follow(tokens)
        alone = compiler.start(guided)
        alone.follow(tokens)
        np.testing.assert_array_equal(place.allowed(), alone.allowed())


def test_masks_along_a_draft_are_those_of_its_tokens(compiler, tokenizer):
    place = compiler.start({"regex": "ab[cd]+e"})
    place.follow(spelled(tokenizer, "a"))
    before = place.allowed()
    draft = [*spelled(tokenizer, "b"), *spelled(tokenizer, "c"), *spelled(tokenizer, "x")]
    rows = place.allowed_along(draft)
    assert len(rows) == 3, "the draft ends before the token that is not allowed"
    np.testing.assert_array_equal(place.allowed(), before)
    for n, row in enumerate(rows):
        alone = compiler.start({"regex": "ab[cd]+e"})
        alone.follow([*spelled(tokenizer, "a"), *draft[:n]])
        np.testing.assert_array_equal(row, alone.allowed())


def test_ids_beyond_the_tokenizer_are_never_allowed(compiler, tokenizer):
    place = compiler.start({"regex": "(?s:.)+"})
    assert max(ids_of(place.allowed())) < tokenizer.vocab_size < 4100


def test_behind_a_wrong_token_nothing_is_allowed(compiler, tokenizer):
    place = compiler.start({"regex": "ab"})
    place.follow(spelled(tokenizer, "x"))
    assert ids_of(place.allowed()) == []
    assert not place.finished
    assert place.error


@pytest.mark.parametrize(
    ("guided", "message"),
    [
        ({"regex": "["}, "unclosed character class"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "a\0b"}, "NUL"),
        ({"regex": ""}, "at least one character"),
        ({"regex": "(" * 30_000}, "30000 characters; at most 8192"),
        ({"regex": "(" * 8_000}, "nests brackets deeper than 64"),
        ({"regex": 3}, "must be a text"),
        ({"json": {}}, "at least one key"),
        ({"json": {"type": "nonsense"}}, "nonsense"),
        ({"json": {"$ref": "#/$defs/missing"}}, "missing"),
        ({"json": {"not": {"type": "string"}}}, "not"),
        ({"json": {"type": "string", "format": "nonsense"}}, "format"),
        ({"json": {"enum": [float("nan")]}}, "which JSON cannot write"),
        ({"json": {"enum": [{1, 2}]}}, "no JSON"),
        ({"json": {"properties": {3: {}}}}, "key that is no text"),
        ({"json": "{"}, "no JSON schema"),
        ({"json": "[" * 200_000}, "no JSON schema"),
        ({"json_object": False}, "must be True"),
        ({"choice": []}, "from 1 to 1024"),
        ({"choice": ["a", ""]}, "at least one character"),
        ({"choice": "yes"}, "list of texts"),
        ({"grammar": "start: foo"}, "foo"),
        ({"grammar": "nonsense $$"}, "lexer error"),
        ({"grammar": "  "}, "is empty"),
        ({"grammar": "start: start"}, "no text at all"),
        ({"regex": "q", "after": "</s>"}, "the model's end of text"),
        ({"regex": "a", "after": ""}, "at least one character"),
        ({"regex": "a", "json_object": True}, "has the keys"),
        ({"regexp": "a"}, "has the keys"),
        ({}, "has the keys"),
        ("a+", "must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_grammar_is_refused(compiler, guided, message):
    started = time.monotonic()
    with pytest.raises(fj.RequestError, match=message) as caught:
        compiler.start(guided)
    assert time.monotonic() - started < 5
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("depth", [65, 2_000, 200_000])
def test_schemas_that_are_too_deep_are_refused(compiler, depth):
    with pytest.raises(fj.RequestError, match="deeper than 64 levels"):
        compiler.start({"json": nested(depth)})
    with pytest.raises(fj.RequestError, match="deeper than 64 levels"):
        fj.SamplingParams(guided={"json": nested(depth)})


def test_a_schema_of_the_deepest_level_is_a_grammar(compiler, tokenizer):
    for depth in (MAX_DEPTH - 1, MAX_DEPTH):
        place = compiler.start({"json": nested(depth)})
        place.follow(spelled(tokenizer, "null"))
        assert place.finished


def test_the_cache_is_bounded_and_equal_requests_share(compiler):
    first = compiler.start({"json": {"const": 0}})
    compiler.start({"json": '{"const":  0}'})
    before = compiler.num_cached
    for i in range(3 * CACHED):
        compiler.start({"json": {"const": i}})
        compiler.start({"json": {"const": 0}})
    assert before <= compiler.num_cached <= CACHED
    assert first.allowed().any()


@pytest.mark.thorough
def test_a_hundred_thousand_schemas_leave_no_more_behind_than_a_thousand(compiler):
    def start(first: int, last: int) -> int:
        """The process' memory in MiB, after so many schemas."""
        for i in range(first, last):
            properties = {f"key{i}": {"type": "integer"}}
            compiler.start({"json": {"type": "object", "properties": properties}})
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

    before = start(0, 1_000)
    after = start(1_000, 100_000)
    assert compiler.num_cached <= CACHED
    assert after - before < 32


def test_repeated_brackets_and_backtracking_take_no_time(compiler, tokenizer):
    started = time.monotonic()
    place = compiler.start({"regex": "(a+)+b"})
    (token,) = spelled(tokenizer, "aa")[:1]
    place.follow([token] * 2_000)
    assert place.allowed().any()
    assert time.monotonic() - started < 5


def test_a_checked_request_keeps_the_order_of_its_keys():
    one = checked_guided({"json": {"properties": {"b": {}, "a": {}}}})
    other = checked_guided({"json": {"properties": {"a": {}, "b": {}}}})
    assert one != other


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_of_the_corpus_is_a_grammar(compiler, name):
    assert ids_of(compiler.start({"json": SCHEMAS[name]}).allowed())
