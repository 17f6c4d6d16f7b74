"""`SamplingParams` refuses what it cannot run, before anything is scheduled or allocated."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.tree_util import Partial

from ferrum_jax.types import FerrumError, RequestError, SamplingParams


def double(factor, logits, tokens, length):
    return factor * logits


@dataclass(frozen=True)
class Boost:
    """A processor that compares by value."""

    by: float

    def __call__(self, logits, tokens, length):
        return logits + self.by


@dataclass
class Loose:
    """One that does not."""

    by: float

    def __call__(self, logits, tokens, length):
        return logits + self.by


NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "tfs_z",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, np.float32(np.nan), 10**400],
    ids=["nan", "inf", "-inf", "numpy nan", "overflow"],
)
def test_numbers_that_are_not_finite_are_refused(name, value):
    with pytest.raises(RequestError, match=f"{name} is .*finite"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", 1.0001),
        ("top_k", -2),
        ("top_k", 3.0),
        ("top_k", np.float64(3)),
        ("min_p", 1.5),
        ("min_p", -0.1),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", None),
        ("n", 0),
        ("n", 10**9),
        pytest.param("n", 10**5000, id="n-with-too-many-digits"),
        ("seed", 2**63),
        ("seed", 0.5),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("prompt_logprobs", 10**6),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("truncate_prompt_tokens", 0),
        ("stop", [""]),
        ("stop", ["a", 3]),
        ("stop", b"ab"),
        ("stop", {"a": 1}),
        ("stop", ["x"] * 65),
        ("stop_token_ids", 5),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [1.0]),
        ("stop_token_ids", np.array(3)),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [2**31]),
        ("allowed_token_ids", "12"),
        ("logprob_token_ids", list(range(129))),
        ("logit_bias", [1, 2]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"1": 1.0}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {1: 1e300}),
        ("logit_bias", {1: None}),
        ("logit_bias", dict.fromkeys(range(129), 1.0)),
        ("ignore_eos", "no"),
        ("skip_special_tokens", 1),
        ("logprobs_mode", "cooked"),
        ("mirostat", 2),
        ("mirostat", {"mode": 3}),
        ("mirostat", {"mode": 1.0}),
        ("mirostat", {"tau": 0}),
        ("mirostat", {"eta": math.nan}),
        ("mirostat", {"temperature": 1}),
        ("bad_words", "no"),
        ("bad_words", [" "]),
        ("bad_words", [3]),
        ("bad_words", ["x"] * 257),
        ("logits_processors", [3]),
        ("logits_processors", [lambda logits, tokens, length: logits]),
        ("logits_processors", [functools.partial(double, 2.0)]),
        ("logits_processors", [Partial(lambda logits, tokens, length: logits)]),
        ("logits_processors", [Boost]),
        ("logits_processors", [Loose(1.0)]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})


def test_what_truncates_beside_mirostat_is_refused():
    assert SamplingParams(mirostat={}).mirostat == {"mode": 2, "tau": 5.0, "eta": 0.1}
    SamplingParams(mirostat={"mode": 1}, top_k=-1, repetition_penalty=1.2)
    for name, value in {"top_k": 3, "tfs_z": 0.5, "typical_p": 0.5, "top_p": 0.9}.items():
        with pytest.raises(RequestError, match=f"{name} is {value} beside mirostat"):
            SamplingParams(mirostat={"mode": 1}, **{name: value})


def test_processors_are_functions_of_modules_and_frozen_objects():
    params = SamplingParams(logits_processors=[Boost(1.0), Partial(double, 2.0)])
    assert [type(one) for one in params.logits_processors] == [Partial, Partial]
    assert SamplingParams(logits_processors=[Boost(1.0)]).logits_processors[0].func == Boost(1.0)


def test_min_tokens_above_max_tokens_is_refused():
    with pytest.raises(RequestError, match="min_tokens is 9, above max_tokens = 8"):
        SamplingParams(min_tokens=9, max_tokens=8)


def test_guided_takes_one_grammar():
    assert SamplingParams(guided={"regex": "a"}).guided == {"regex": "a"}
    with pytest.raises(RequestError, match=r"guided has the keys \['regex', 'json'\]"):
        SamplingParams(guided={"regex": "a", "json": {"type": "null"}})


def test_messages_name_value_limit_and_remain_short():
    with pytest.raises(RequestError, match=r"top_p is 1\.5; .* above 0 and at most 1"):
        SamplingParams(top_p=1.5)
    with pytest.raises(RequestError) as caught:
        SamplingParams(temperature="x" * 10_000)
    assert len(str(caught.value)) < 200


def test_numpy_numbers_become_pythons():
    params = SamplingParams(
        n=np.int64(2),
        temperature=np.float32(0.5),
        top_k=np.int32(7),
        top_p=1,
        min_p=Fraction(1, 4),
        stop_token_ids=np.array([3, 4]),
        allowed_token_ids=np.arange(5),
        logit_bias={np.int64(1): np.float32(2.0)},
    )
    assert params == SamplingParams(
        n=2,
        temperature=0.5,
        top_k=7,
        min_p=0.25,
        stop_token_ids=(3, 4),
        allowed_token_ids=(0, 1, 2, 3, 4),
        logit_bias={1: 2.0},
    )
    numbers = (params.n, params.temperature, params.top_k, params.top_p, *params.stop_token_ids)
    assert [type(number) for number in numbers] == [int, float, int, float, int, int]
    assert [(type(k), type(v)) for k, v in params.logit_bias.items()] == [(int, float)]


def test_none_stands_for_empty_collections():
    assert SamplingParams(stop=None, stop_token_ids=None, logit_bias=None) == SamplingParams()
    assert SamplingParams(allowed_token_ids=None).allowed_token_ids is None


def test_a_stop_string_and_a_list_of_one_are_equal():
    assert SamplingParams(stop="end") == SamplingParams(stop=["end"])


def test_the_callers_objects_are_not_shared():
    bias, stop = {1: 1.0}, ["a"]
    params = SamplingParams(logit_bias=bias, stop=stop)
    bias[1], stop[0] = 5.0, "b"
    assert params.logit_bias == {1: 1.0}
    assert params.stop == ("a",)


def test_params_hash_copy_pickle_and_replace_by_value():
    params = SamplingParams(temperature=0.3, logit_bias={4: -1.0}, stop="x")
    for other in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), replace(params)):
        assert other == params
        assert hash(other) == hash(params)
    with pytest.raises(RequestError, match="temperature"):
        replace(params, temperature=-1)


@pytest.mark.parametrize("name", ["stop_token_ids", "allowed_token_ids", "logit_bias"])
def test_token_ids_are_held_against_the_vocabulary(name):
    params = SamplingParams(**{name: {31: 1.0} if name == "logit_bias" else [31]})
    params.check_vocabulary(32)
    with pytest.raises(RequestError, match=f"{name} names token id 31; the vocabulary has 31"):
        params.check_vocabulary(31)


def test_presets_and_their_changes():
    assert SamplingParams.greedy().temperature == 0
    assert SamplingParams.greedy(max_tokens=3).max_tokens == 3
    creative, precise = SamplingParams.creative(), SamplingParams.precise()
    assert (creative.temperature, creative.top_p) == (1.0, 0.95)
    assert creative.repetition_penalty > 1
    assert precise.temperature < creative.temperature
    assert SamplingParams.precise(temperature=0.1).temperature == 0.1


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.one_of(st.integers(), st.text(max_size=2)), st.floats(), max_size=3),
)
FIELDS = sorted(SamplingParams.__dataclass_fields__)


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3))
def test_whatever_is_passed_only_our_errors_come_out(changes):
    try:
        params = SamplingParams(**changes)
    except FerrumError:
        return
    assert params == replace(params)
    assert params.temperature >= 0
    assert 0 < params.top_p <= 1
    assert params.max_tokens >= 1
